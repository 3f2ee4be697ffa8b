// Sellers of the reference packages in TypeScript, and of Circle's, for test_typescript.py: node seller.mjs ANVIL CIRCLE
//
// One Express app: each path has the middleware of one way to pay. A handler charges, of a ceiling, the `charge` of the
// request's JSON. /verify and /settle are the reference facilitator by itself. Prints its port. Ends with its stdin.

import { createGatewayMiddleware } from "@circle-fin/x402-batching/server";
import { x402Facilitator } from "@x402/core/facilitator";
import { ExactEvmScheme as ExactFacilitator } from "@x402/evm/exact/facilitator";
import { ExactEvmScheme as ExactServer } from "@x402/evm/exact/server";
import { UptoEvmScheme as UptoFacilitator } from "@x402/evm/upto/facilitator";
import { UptoEvmScheme as UptoServer } from "@x402/evm/upto/server";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from "@x402/express";
import {
  createErc20ApprovalGasSponsoringExtension,
  declareEip2612GasSponsoringExtension,
  declareErc20ApprovalGasSponsoringExtension,
  EIP2612_GAS_SPONSORING,
} from "@x402/extensions";
import express from "express";
import { createWalletClient, defineChain, http, publicActions } from "viem";

const [anvil, circle] = process.argv.slice(2);
const network = "eip155:84532", asset = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const payTo = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf";
const domain = { name: "USDC", version: "2" };

const chain = defineChain({
  id: 84532,
  name: "local",
  nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
  rpcUrls: { default: { http: [anvil] } },
});
const asked = await fetch(anvil, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "eth_accounts", params: [] }),
});
const operator = (await asked.json()).result[1];
const client = createWalletClient({ account: operator, chain, transport: http(anvil), pollingInterval: 50 });
const wallet = client.extend(publicActions);
const signer = toFacilitatorEvmSigner({
  address: operator,
  readContract: (args) => wallet.readContract({ ...args, args: args.args ?? [] }),
  verifyTypedData: (args) => wallet.verifyTypedData(args),
  writeContract: (args) => wallet.writeContract({ ...args, args: args.args ?? [] }),
  sendTransaction: (args) => wallet.sendTransaction(args),
  waitForTransactionReceipt: (args) => wallet.waitForTransactionReceipt(args),
  getCode: (args) => wallet.getCode(args),
});
const erc20 = {
  ...signer,
  sendTransactions: async (transactions) => {
    const hashes = [];
    for (const each of transactions) {
      const hash =
        typeof each === "string"
          ? await wallet.sendRawTransaction({ serializedTransaction: each })
          : await wallet.sendTransaction({ to: each.to, data: each.data });
      await wallet.waitForTransactionReceipt({ hash });
      hashes.push(hash);
    }
    return hashes;
  },
};

const facilitator = new x402Facilitator()
  .register(network, new ExactFacilitator(signer))
  .register(network, new UptoFacilitator(signer))
  .registerExtension(EIP2612_GAS_SPONSORING)
  .registerExtension(createErc20ApprovalGasSponsoringExtension(erc20));
const server = new x402ResourceServer(facilitator)
  .register(network, new ExactServer())
  .register(network, new UptoServer());

const price = (amount, more = {}) => ({ amount: String(amount), asset, extra: { ...domain, ...more } });
const upto = { scheme: "upto", network, payTo, price: price(17686) };
const exact = { scheme: "exact", network, payTo, price: price(9000) };
const permit2 = { scheme: "exact", network, payTo, price: price(5000, { assetTransferMethod: "permit2" }) };
const sponsored = declareEip2612GasSponsoringExtension(), approved = declareErc20ApprovalGasSponsoringExtension();
const routes = {
  "POST /exact": { accepts: exact },
  "POST /permit2": { accepts: permit2, extensions: sponsored },
  "POST /permit2-unsponsored": { accepts: permit2 },
  "POST /upto": { accepts: [upto, exact], extensions: sponsored },
  "POST /upto-alone": { accepts: upto, extensions: sponsored },
  "POST /upto-unsponsored": { accepts: [upto, exact] },
  "POST /upto-approval": { accepts: [upto, exact], extensions: approved },
};

const app = express();
app.use(express.json({ limit: "1mb" }));
app.post("/verify", async (q, a) => a.json(await judged(() => facilitator.verify(q.body.payload, q.body.requirements))));
app.post("/settle", async (q, a) => a.json(await judged(() => facilitator.settle(q.body.payload, q.body.requirements))));
app.use(paymentMiddleware(routes, server));
const gateway = createGatewayMiddleware({ sellerAddress: payTo, facilitatorUrl: circle, networks: [network] });
app.post("/circle", gateway.require("$0.004"), (q, a) => a.json({ said: q.body, payment: q.payment }));
for (const route of Object.keys(routes))
  app.post(route.split(" ")[1], (q, a) => {
    if (q.body.charge !== undefined) setSettlementOverrides(a, { amount: String(q.body.charge) });
    a.status(q.body.status ?? 200).json({ said: q.body });
  });

async function judged(ask) {
  try {
    return await ask();
  } catch (error) {
    return { thrown: String(error.message) };
  }
}

process.stdin.on("end", () => process.exit(0)).resume();
const listening = app.listen(0, "127.0.0.1", () => console.log(listening.address().port));
