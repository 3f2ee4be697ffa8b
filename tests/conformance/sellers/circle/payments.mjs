// What Circle's own client signs, for test_circle.py: npm install @circle-fin/x402-batching@3.3.0 viem, then
// node payments.mjs > payments.json

import { BatchEvmScheme } from "@circle-fin/x402-batching/client";
import { privateKeyToAccount } from "viem/accounts";

const MAINNET = "0x77777777Dcc4d5A8B6E418Fd04D8997ef11000eE", TESTNET = "0x0077777d7EBA4688BDeF3E311b846F25870A19B9";
const NETWORKS = [
  ["eip155:8453", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", MAINNET],
  ["eip155:137", "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", MAINNET],
  ["eip155:84532", "0x036CbD53842c5426634e7929541eC2318f3dCF7e", TESTNET],
];
const key = "0x" + "11".repeat(32), made = [];
const scheme = new BatchEvmScheme(privateKeyToAccount(key));
for (const [network, asset, verifyingContract] of NETWORKS)
  for (const [amount, maxTimeoutSeconds] of [["1000", 604900], ["123456789", 345600]]) {
    const requirements = {
      scheme: "exact", network, asset, amount, payTo: "0xe9030014f5dae217d0a152f02a043567b16c1abf", maxTimeoutSeconds,
      extra: { name: "GatewayWalletBatched", version: "1", verifyingContract },
    };
    const { payload } = await scheme.createPaymentPayload(2, requirements);
    made.push({ requirements, payload });
  }
console.log(JSON.stringify({ client: "@circle-fin/x402-batching 3.3.0", key, made }, null, 1));
