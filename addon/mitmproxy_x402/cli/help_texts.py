"""The help of each verb; needs the standard library only."""

from __future__ import annotations

HELP = """\
usage: {prog} [VERB] [ARGUMENTS]

Pays x402 challenges, so that any HTTP client can use a gateway that charges per request.

verbs:
  serve      run the proxy on http://127.0.0.1:4402 (also without a verb)
  web        the same in mitmweb, which shows every request in the browser
  tui        the same in mitmproxy, which shows every request in the terminal
  env        print the lines that point a client at the proxy: codex, claude, openai, anthropic, google
  run        start a client that is pointed at the proxy: run -- claude
  wallet     show the wallets that the proxy finds and what they hold; make, restore or fund one
  check      check wallet, balance, gateway, price, clock and ledger: each line is ok, or says what to do
  sandbox    a gateway that takes play money, the proxy in front of it, and one paid request to watch; needs no wallet
  report     show what was spent: today, this month, by day, model and network; also as JSON, CSV or a page with a chart
  reconcile  ask the chain about payments that are not confirmed yet, and write the answer into the ledger
  ledger     back up the ledger while proxies use it, or move old payments out of it into a file
  fixtures   recorded flows: serve them to tests, show them in readable form, compare them
  test       run the project's tests (only in a checkout)
  bench      measure the speed, next to mitmproxy alone and to other paying clients (only in a checkout)
  path       print the path of the script for `mitmdump -s`

Other arguments of serve, web, tui and sandbox go to mitmproxy: --set x402_max_request=0.25, -p 4403, ...
`{prog} VERB --help` or `{prog} help VERB` explains one verb. `{prog} --version` prints the version.
"""

SERVE_HELP = """\
usage: {prog} {verb} [--upstream URL] [MITMPROXY ARGUMENTS]

{first}

The gateway is the one named by --upstream, else by the variable X402_UPSTREAM, else one that your wallet can pay:
https://sol.blockrun.ai, or https://blockrun.ai if there is only an EVM key. It must be https, or on this machine.
--upstream may be given several times: the first gateway is reached on the port, the second on the next higher port,
and so on; they share wallet, limits and ledger.

The wallet comes from BLOCKRUN_WALLET_KEY, BASE_CHAIN_WALLET_KEY or ~/.blockrun/.session (EVM), and from
SOLANA_WALLET_KEY or ~/.blockrun/.solana-session (Solana), or from where an option says. Without a wallet, free
models work and everything that costs money is refused; `{prog} wallet new` makes one.

Other arguments go to mitmproxy: --set x402_max_request=0.25, -p 4403, --listen-host, -w FILE, -s SCRIPT, ...
`{prog} {verb} --options` lists every option with its help; those of this addon begin with x402_.
A --mode of your own replaces the gateway above, and is not checked.
"""

ENV_HELP = """\
usage: {prog} env codex|claude|openai|anthropic|google [--model NAME] [--toml] [-p PORT]

Prints the lines for a shell that point a client at the proxy on this machine:

  eval "$({prog} env claude)"

openai and anthropic are for their SDKs, and for programs that are built on them; google is for Gemini's. Where
X402_CLIENT_TOKEN is set, the client presents it as its API key.

  --model NAME  the model that the client uses: codex and claude
  --toml        of codex: the lines for ~/.codex/config.toml instead
  -p PORT       where the proxy listens, if not on 4402
"""

RUN_HELP = """\
usage: {prog} run [-p PORT] -- PROGRAM [ARGUMENTS]

Starts a client that is pointed at the proxy on this machine: PROGRAM gets the variables that `{prog} env` prints
for every client, and codex also its provider. Your shell and the client's own files stay as they are. The proxy must be
running: start it with {prog} in another terminal.

  -p PORT   where the proxy listens, if not on 4402

Examples: {prog} run -- claude --model MODEL; {prog} run -- codex -m MODEL; {prog} run -- python my_agent.py
"""

SANDBOX_HELP = """\
usage: {prog} sandbox [--once] [--web] [--network NAME] [--scheme NAME] [MITMPROXY ARGUMENTS]

Starts a gateway that charges play money (port 4420) and in front of it the real proxy (port 4402) with a throw-away
wallet. It sends one streamed request with a tool call, shows the answer as it arrives and what was paid, and then
serves until Ctrl-C. Your own wallets, settings and mitmproxy's files are not touched; no network is used.

  --once           stop after that request; the exit code is 0 if it was paid and complete
  --web            run the proxy in mitmweb, whose page shows that request and all that follow
  --network NAME   base-sepolia (default), solana-devnet, or both
  --scheme NAME    how the gateway is paid: exact (default, a fixed price), upto (a ceiling, of which a part is
                   charged), permit2 (a fixed price over Permit2) or gateway (Circle Gateway)

A request with the header x-sandbox-fault: cut;after=6 gets a broken answer; python -m mitmproxy_x402.sandbox --help
lists these faults. A request for the model sandbox-empty gets a tool call without arguments.
"""

REPORT_HELP = """\
usage: {prog} report [--since DATE | --days N] [--json | --csv | --html [FILE]] [--ledger FILE] [--set NAME=VALUE]

Shows what was spent, according to the ledger: today, this month, by day, model, network, path and client. Sums include
payments that were sent and are not confirmed yet; these are also shown separately. Days and months are in this
machine's time zone.

  --since DATE     only from that day on, as in 2026-11-01
  --days N         only the last N days; 1 is today
  --json           print JSON: amounts in decimal dollars, and in whole millionths of a dollar
  --csv            print every payment, one line each
  --html [FILE]    write one self-contained page with a chart to FILE or x402-report.html; - prints it
  --backup FILE    no report: copy the ledger to FILE, as `ledger backup` does
  --ledger FILE    use this ledger instead of the one in the settings; also a postgresql:// URL
  --set NAME=VALUE an option, as for serve: x402_ledger, x402_config

The ledger is only read. Proxies may use it at the same time.
"""

RECONCILE_HELP = """\
usage: {prog} reconcile [--json] [--ledger FILE] [--set NAME=VALUE]

Asks the chain about every payment in the ledger that was sent and that the chain has not confirmed yet, whatever the
gateway said of it. The answer is written into the ledger: confirmed, with the transaction and the amount that moved;
or not taken, once nobody can submit that signature any more, and then its amount is free again in the budget. At the
end it lists what is still open, and why.

It asks the RPCs of x402_evm_rpc and x402_solana_rpc, or public ones if none are set. They learn the wallet's addresses.
Where RPCs of two different hosts are known, both must agree before money is freed. Nothing is signed or paid.

  --json           print JSON, with every payment that was looked up
  --ledger FILE    use this ledger instead of the one in the settings; also a postgresql:// URL
  --set NAME=VALUE an option, as for serve: x402_evm_rpc, x402_reconcile_rate, x402_ledger, x402_config

The exit code is 0; 1 if nothing could be asked; 3 if the chain contradicts what a gateway said.
"""

LEDGER_HELP = """\
usage: {prog} ledger backup FILE [--ledger FILE] [--set NAME=VALUE]
       {prog} ledger archive --before DATE FILE.csv.gz [--ledger FILE] [--set NAME=VALUE]

backup   copies the ledger to FILE while proxies use it. (A plain copy of the ledger's file would lack what is still in
         its write-ahead log. Copy a ledger in PostgreSQL with pg_dump.)
archive  moves the payments before DATE out of the ledger into FILE.csv.gz, with every column, while proxies use it.
         They are removed only after the file is on the disk and was read back. Payments that may still count against
         a budget stay: those of the last 31 days, and all of them if a budget has no period. Reports no longer
         include what was moved.

  --before DATE    a day in this machine's time zone, as in 2026-08-01
  --ledger FILE    use this ledger instead of the one in the settings; archive also takes a postgresql:// URL
  --set NAME=VALUE an option, as for serve: x402_ledger, x402_config, x402_budget

FILE must not exist yet. If a run was interrupted, run it again with another FILE; rows that are in both are the same.
"""

CHECK_HELP = """\
usage: {prog} check [--upstream URL] [--model NAME] [MITMPROXY ARGUMENTS]

Takes the arguments that you would give to serve, and checks that payments will work: versions, settings, wallet and the
permissions of its files, ledger, port, gateway (over verified TLS), clock, the price of a small request and of one of a
coding agent's size, whether your limits let it pass, and the wallet's USDC on chain. Each line is ok, or TO DO with
what to do; - stands before what could not be checked, or asks nothing of you.

Nothing is paid or signed. The gateway gets a few requests without a payment; the RPCs of the networks that it takes
payment on get the wallet's public address. The exit code is 1 if there is something to do, else 0.

  --model NAME     the model to ask the price of; otherwise one that the gateway lists
  --upstream URL   the gateway; may be given several times, as for serve
"""

WALLET_HELP = """\
usage: {prog} wallet [--upstream URL]
       {prog} wallet new [--evm | --solana] [--keystore] [--no-backup]
       {prog} wallet restore [--evm | --solana] [--keystore]
       {prog} wallet fund [--evm | --solana | --network NAME] [--wait] [--html FILE] [--upstream URL]
       {prog} wallet allow [DOLLARS] [--network NAME] [--yes] [--upstream URL]

Shows each wallet that the proxy finds: its address, where its key comes from, who can read that, and what it holds;
then what requests cost at the gateway, how many of them the money is enough for, and what is missing. Keys are never
printed, and an existing wallet is never moved or changed.

  new            make a key: shows 24 words to write down, asks for two of them, and writes the key where the proxy
                 looks, readable by you alone: ~/.blockrun/.session (EVM) or ~/.blockrun/.solana-session (Solana)
  restore        write the key of a backup (12 to 24 words) or a private key; typed, or from standard input
  fund           show the address to send money to, as text and QR code, what to send, and what is there now
  allow          show what Permit2 may take from the wallet, which paying by upto needs; with DOLLARS, set that by a
                 transaction, after a question; 0 revokes it

  --evm, --solana  which wallet. MetaMask and Phantom show the same address for the same words.
  --keystore       an encrypted keystore (version 3 JSON) with a password, in ~/.blockrun/keystore.json; EVM only
  --no-backup      show no words: for scripts that back up the file themselves
  --network NAME   the network, as in base or solana; fund and allow take the gateway's if none is named
  --wait           wait until more money has arrived
  --html FILE      write a page with the QR code of every wallet instead of printing one
  --yes            do not ask
  --upstream URL   the gateway whose prices are asked
  --set NAME=VALUE an option, as for serve

Only the address is sent anywhere (to the networks' RPCs), and a few requests without a payment (to the gateway);
allow with DOLLARS also sends its transaction.
"""

TEST_HELP = """\
usage: {prog} test [--thorough] [--own] [--ledger postgres] [PYTEST ARGUMENTS]

Runs the project's tests in four processes, which takes some minutes. Other arguments go to pytest: -k NAME, -x, -n 4,
a file, ...

  --thorough         run everything: every fault at every point, more seeds, sequences and examples
  --own              start the tested proxies as ./run.sh does, instead of with mitmdump -s
  --ledger postgres  keep the ledgers of the tested proxies in a PostgreSQL server that the tests start
"""

BENCH_HELP = """\
usage: {prog} bench [--quick] [--cells NAMES] [--candidates NAMES] [--rounds N] [--requests N] [--baseline DIR]
       {pad} [--write [DIR]] [--render] [--profile NAME] [--soak [SECONDS]] [--seed N]

Measures the proxy next to bare mitmproxy and to other clients and proxies that pay, and prints tables. All of it takes
about a quarter of an hour. The others are installed from their registries into .bench/; nothing else leaves this
machine, none of your wallets is touched, and nothing is spent.

  --quick             smaller blocks and fewer rounds, about two minutes
  --cells NAMES       only these measurements, separated by commas: ttfb, rps, stream, signing, ...
  --candidates NAMES  only these programs: mitmdump, ours, blockrun-litellm, ...; a wrong name lists all
  --rounds N          how often each block is measured
  --requests N        requests in each block
  --baseline DIR      measure another checkout of this project as well
  --write [DIR]       write README.md, overview.svg and results.json to DIR or docs/benchmark
  --render            measure nothing; write that page again from its results.json
  --profile NAME      measure nothing; show where this program spends its time
  --soak [SECONDS]    ten minutes of load with faults and clients that disconnect: does anything leak, do sums agree?
  --seed N            the seed of a soak's requests and faults
"""

PATH_HELP = """\
usage: {prog} path

Prints the path of the script that mitmproxy loads:
  mitmdump -s "$({prog} path)" --mode reverse:https://sol.blockrun.ai
"""
