// The reference facilitator for Solana in TypeScript, for test_svm_typescript.py, which holds the keys and the chain.
//
// Reads one JSON line a question, {verb: "verify" | "settle", payload, requirements}, and writes one a verdict. In
// between it writes {ask, arguments} for what its signer has to do, and reads {result} or {error}.

import { createInterface } from "node:readline";
import { x402Facilitator } from "@x402/core/facilitator";
import { ExactSvmScheme } from "@x402/svm/exact/facilitator";
import { ExactSvmSchemeV1 } from "@x402/svm/exact/v1/facilitator";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const write = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const read = async () => {
  const { value, done } = await lines.next();
  if (done) process.exit(0);
  return JSON.parse(value);
};

const asks = (ask) => async (...given) => {
  write({ ask, arguments: given.filter((each) => typeof each === "string") });
  const { result, error } = await read();
  if (error !== undefined) throw new Error(error);
  return result;
};

const { addresses, network, name } = await read();
const signer = {
  getAddresses: () => addresses,
  signTransaction: asks("sign_transaction"),
  simulateTransaction: asks("simulate_transaction"),
  sendTransaction: asks("send_transaction"),
  confirmTransaction: asks("confirm_transaction"),
};
const facilitator = new x402Facilitator()
  .register(network, new ExactSvmScheme(signer))
  .registerV1(name, new ExactSvmSchemeV1(signer));

for (;;) {
  const { verb, payload, requirements } = await read();
  try {
    write(await facilitator[verb](payload, requirements));
  } catch (error) {
    write({ thrown: String(error.message) });
  }
}
