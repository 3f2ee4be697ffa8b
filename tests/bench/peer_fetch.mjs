// A relay before the official TypeScript client: node peer_fetch.mjs PORT UPSTREAM, the key in BLOCKRUN_WALLET_KEY.
// Run from the folder with node_modules. As little as a relay can do: read the request, fetch with payment, pipe back.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { Readable } from "node:stream";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.cwd()}/package.json`));
const { wrapFetchWithPaymentFromConfig } = require("@x402/fetch");
const { ExactEvmScheme } = require("@x402/evm");
const { privateKeyToAccount } = require("viem/accounts");

const [port, upstream] = process.argv.slice(2);
const account = privateKeyToAccount(process.env.BLOCKRUN_WALLET_KEY);
const pay = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: "eip155:8453", client: new ExactEvmScheme(account) }],
});
const dropped = new Set(["connection", "content-encoding", "content-length", "transfer-encoding", "keep-alive"]);

createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  try {
    const headers = { "content-type": request.headers["content-type"] };
    const answer = await pay(upstream + request.url, { method: request.method, headers, body: Buffer.concat(parts) });
    const kept = [...answer.headers].filter(([name]) => !dropped.has(name));
    response.writeHead(answer.status, Object.fromEntries(kept));
    Readable.fromWeb(answer.body).pipe(response);
  } catch (error) {
    response.writeHead(502).end(String(error));
  }
}).listen(Number(port), "127.0.0.1");
