// What the reference TypeScript client signs, for test_permit2_settlement.py: npm install @x402/evm@2.27.0 viem, then
// node payments.mjs > payments.json

import { UptoEvmScheme } from "@x402/evm/upto/client";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { privateKeyToAccount } from "viem/accounts";
const key = "0x" + "11".repeat(32), account = privateKeyToAccount(key), made = [];
const asset = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";
for (const [scheme, Scheme] of [["exact", ExactEvmScheme], ["upto", UptoEvmScheme]])
  for (const amount of ["17686", "123456789"]) {
    const extra = { name: "USD Coin", version: "2", assetTransferMethod: "permit2" };
    if (scheme === "upto") extra.facilitatorAddress = "0x14fDa13953Fc30428938E6BF950d036e77214e52";
    const requirements = { scheme, network: "eip155:8453", asset, amount, payTo: "0xe9030014F5DAe217d0A152f02A043567b16c1aBf", maxTimeoutSeconds: 300, extra };
    const { payload } = await new Scheme(account).createPaymentPayload(2, requirements);
    made.push({ requirements, payload });
  }
console.log(JSON.stringify({ client: "@x402/evm 2.27.0", key, made }, null, 1));
