// Compiles JudgePermit2.sol and TestUsdc.sol into judge.json: npm install solc@0.8.28, then node compile_judge.cjs

const fs = require("fs"), path = require("path");
const solc = require("solc");
const sources = Object.fromEntries(["JudgePermit2.sol", "TestUsdc.sol"].map((name) =>
  [name, { content: fs.readFileSync(path.join(__dirname, name), "utf8") }]));
const settings = {
  evmVersion: "paris", viaIR: true, optimizer: { enabled: true, runs: 200 },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
};
const out = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings })));
const failed = (out.errors || []).filter((one) => one.severity === "error");
if (failed.length) { console.error(failed.map((one) => one.formattedMessage).join("\n")); process.exit(1); }
const wanted = ["JudgePermit2", "JudgeExactProxy", "JudgeUptoProxy", "JudgeMulticall", "JudgeCourier", "TestUsdc"];
const found = Object.assign({}, ...Object.values(out.contracts));
const result = { compiler: `solc ${solc.version()}` };
for (const name of wanted) {
  const made = found[name];
  result[name] = { abi: made.abi, runtime: "0x" + made.evm.deployedBytecode.object, creation: name === "TestUsdc" ? "0x" + made.evm.bytecode.object : undefined };
}
fs.writeFileSync(path.join(__dirname, "judge.json"), JSON.stringify(result, null, 1) + "\n");
