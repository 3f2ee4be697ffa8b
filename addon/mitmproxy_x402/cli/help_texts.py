"""The help of each verb; needs the standard library only."""

from __future__ import annotations

HELP = """\
usage: {prog} [VERB] [ARGUMENTS]

Pays x402 challenges, so that any HTTP client can use a gateway that charges per request.

verbs:
  serve      the proxy on http://127.0.0.1:4402 (also without a verb)
  web        the same in mitmweb, with its window in the browser
  tui        the same in mitmproxy, with its window in the terminal
  env        the lines that point a client at the proxy: codex, claude, openai, anthropic, google
  run        start a client with these set: run -- claude
  wallet     the wallets that the proxy finds and what they hold; makes, restores and funds one
  sandbox    a gateway that takes play money, the proxy before it, and one paid request to look at; needs no wallet
  report     what was spent: today, this month, by day, model and network; also as JSON, CSV or a page with a chart
  reconcile  ask the chain what became of payments that nobody has confirmed, and write it into the ledger
  ledger     copy the ledger while proxies pay from it, and take old payments out of it into a file
  check      is everything in order? wallet, balance, gateway, price, clock, ledger: each line ok, or what to do
  fixtures   recorded flows: serve them to tests, show them as a person reads them, compare them
  test       the project's tests (only in a checkout)
  bench      how fast it is, beside mitmproxy alone and other paying clients (only in a checkout)
  path       print the script for `mitmdump -s`

Further arguments of serve, web, tui and sandbox go to mitmproxy: --set x402_max_request=0.25, -p 4403, ...
`{prog} VERB --help` says more about one. `{prog} --version` prints the version.
"""

SERVE_HELP = """\
usage: {prog} {verb} [--upstream URL] [MITMPROXY ARGUMENTS]

{first}

The gateway is --upstream, else the variable X402_UPSTREAM, else the one that the wallet found can pay:
https://sol.blockrun.ai, or https://blockrun.ai when there is only an EVM key. It must be https, or on loopback. Of
several --upstream the first has the port, the next the one above it, and so on; they share wallet, limits and ledger.

The wallet comes from BLOCKRUN_WALLET_KEY, BASE_CHAIN_WALLET_KEY or ~/.blockrun/.session (EVM), and from
SOLANA_WALLET_KEY or ~/.blockrun/.solana-session (Solana), or from what an option names. Without a wallet free
answers pass, and every challenge is refused: `{prog} wallet new` makes one.

Further arguments go to mitmproxy: --set x402_max_request=0.25, -p 4403, --listen-host, -w FILE, -s SCRIPT, ...
`{prog} {verb} --options` lists every option with its help, those of this addon begin with x402_.
A --mode of your own replaces the gateway and its checks.
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

Starts a gateway that charges play money (port 4420) and the real proxy before it (port 4402) with a throw-away
wallet, sends one streamed request with a tool call, shows the answer arriving and what was paid, and goes on
serving until Ctrl-C. Your own wallets, settings and mitmproxy's files are not touched; no network is used.

  --once           end after that one request; the exit code says whether it was paid and complete
  --web            the proxy in mitmweb, whose page shows that request and all that follow
  --network NAME   base-sepolia (default), solana-devnet, or both
  --scheme NAME    how the gateway is paid: exact (default), upto (a ceiling, and what was charged of it), permit2 or
                   gateway (Circle Gateway)
"""

REPORT_HELP = """\
usage: {prog} report [--since DATE | --days N] [--json | --csv | --html [FILE]] [--ledger FILE] [--set NAME=VALUE]

Says what was spent, as the ledger has it: today, this month, by day, model, network, path and client. Sums hold what is
confirmed and what was sent and is not confirmed yet, each also shown apart. Days and months are those of this machine's
time zone.

  --since DATE     from that day on, as in 2026-11-01
  --days N         the last N days; 1 is today alone
  --json           the same as JSON: amounts in decimal dollars, and in whole millionths
  --csv            every payment, one line each
  --html [FILE]    one page with a chart that needs nothing else, in FILE or x402-report.html; - prints it
  --backup FILE    no report: copies the ledger into FILE, as `ledger backup` does
  --ledger FILE    another ledger than the one that the settings name; also a postgresql:// URL
  --set NAME=VALUE an option, as for serve: x402_ledger, x402_config

The ledger is only read, also while proxies pay from it.
"""

RECONCILE_HELP = """\
usage: {prog} reconcile [--json] [--ledger FILE] [--set NAME=VALUE]

Asks the chain what became of every payment of the ledger that left and that the chain has not confirmed: those that are
sent and not confirmed, those that a gateway says it rejected, and those that it says are settled. What the chain says
is written into the ledger: confirmed, with the transaction and the amount that moved; or not taken, once nobody can
submit that signature any more, which gives its amount back to the budget. It ends with what is still open, and why.

Asked are the RPCs of x402_evm_rpc and x402_solana_rpc, else public ones. They learn the wallet's addresses. Where two
RPCs of different hosts are known, both must agree before money is freed. Nothing is signed and nothing is paid.

  --json           the same as JSON, with every payment that was looked up
  --ledger FILE    another ledger than the one that the settings name; also a postgresql:// URL
  --set NAME=VALUE an option, as for serve: x402_evm_rpc, x402_reconcile_rate, x402_ledger, x402_config

The exit code is 0, or 1 where nothing could be asked, or 3 where the chain contradicts what a gateway said.
"""

LEDGER_HELP = """\
usage: {prog} ledger backup FILE [--ledger FILE] [--set NAME=VALUE]
       {prog} ledger archive --before DATE FILE.csv.gz [--ledger FILE] [--set NAME=VALUE]

backup   copies the ledger into FILE, whole and as one file, while proxies pay from it. A copy of the ledger's file made
         otherwise lacks what is still in its log. A ledger in PostgreSQL is copied with pg_dump.
archive  writes the payments before DATE into FILE.csv.gz, every column of each, and takes them out of the ledger, while
         proxies pay from it. They leave it when the file is on the disk and was read back. Payments that a budget may
         still count stay: those of the last 31 days, and with a budget without a period all that ever counted. Reports
         no longer hold what has left.

  --before DATE    a day of this machine's time zone, as in 2026-08-01
  --ledger FILE    another ledger than the one that the settings name; archive also takes a postgresql:// URL
  --set NAME=VALUE an option, as for serve: x402_ledger, x402_config, x402_budget

FILE must not be there yet. A run that was interrupted can be repeated with another FILE: what is in both is the same.
"""

CHECK_HELP = """\
usage: {prog} check [--upstream URL] [--model NAME] [MITMPROXY ARGUMENTS]

Checks, with the arguments that you would give to serve, that payments will work: versions, settings, wallet and the
permissions of its files, ledger, port, gateway (over verified TLS), clock, the price of a small request and of one of a
coding agent's size, whether your limits let it pass, and the wallet's USDC on chain. Each line is ok, or TO DO with
what to do; - stands before what could not be checked.

Nothing is paid and nothing is signed. The gateway gets a few requests without a payment, the RPCs of the networks that
it takes payment on get the wallet's public address. The exit code is 0 if every line is ok, 1 otherwise.

  --model NAME     the model to ask the price of; otherwise one that the gateway lists
  --upstream URL   the gateway; may be given several times, as for serve
"""

WALLET_HELP = """\
usage: {prog} wallet [--upstream URL]
       {prog} wallet new [--evm | --solana] [--keystore] [--no-backup]
       {prog} wallet restore [--evm | --solana] [--keystore]
       {prog} wallet fund [--evm | --solana | --network NAME] [--wait] [--html FILE]
       {prog} wallet allow [DOLLARS] [--network NAME] [--yes]

Shows each wallet that the proxy finds: its address, where its key comes from and who can read that, what it holds, and
how many requests that buys. Keys are never printed, and a wallet that is there is never moved or changed.

  new            makes a key, shows 24 words to write down and asks for two of them, then writes the key, for you alone,
                 where the proxy looks: ~/.blockrun/.session (EVM) or ~/.blockrun/.solana-session (Solana)
  restore        writes the key of a backup (12 to 24 words), or of a private key; from the terminal or standard input
  fund           the address as text and QR code, and what to send there
  allow          what Permit2 may take of the wallet, for paying by upto; with DOLLARS a transaction sets that after it
                 was confirmed, or with --yes, and 0 revokes it

  --evm, --solana  which wallet; MetaMask and Phantom show the same address for the same words
  --keystore       an encrypted keystore (version 3 JSON) in ~/.blockrun/keystore.json, with a password; EVM only
  --no-backup      show no words: for scripts that back the file up themselves
  --network NAME   the network to fund, as in base or solana
  --wait           wait until the money has arrived
  --html FILE      write a page with the code instead of printing it
  --upstream URL   the gateway whose price is asked
  --set NAME=VALUE an option, as for serve

Nothing is sent anywhere but the address, to the RPCs of the networks, and one request without payment, to the gateway.
"""

TEST_HELP = """\
usage: {prog} test [--thorough] [--own] [--ledger postgres] [PYTEST ARGUMENTS]

Runs the project's tests, in two processes; on two cores this takes less than five minutes. Further arguments go to
pytest: -k NAME, -x, -n 4, a file, ...

  --thorough         all there is, as .ci/run does: every fault at every point, more seeds, sequences and examples
  --own              the proxies of the tests are started as ./run.sh does, and not by mitmdump -s
  --ledger postgres  the proxies of the tests keep their ledger in a PostgreSQL server of the tests' own
"""

BENCH_HELP = """\
usage: {prog} bench [--quick] [--cells NAMES] [--candidates NAMES] [--rounds N] [--requests N] [--baseline DIR]
       {pad} [--write [DIR]] [--render] [--profile NAME] [--soak [SECONDS]] [--seed N]

Measures the proxy beside bare mitmproxy, and beside other clients and proxies that pay, and prints tables. All of it
takes about a quarter of an hour. The others are installed by name from their registries into .bench/; otherwise nothing
leaves this machine, no wallet of yours is touched, and nothing is spent.

  --quick             smaller blocks and fewer rounds, about two minutes
  --cells NAMES       only these kinds of load and figures, separated by commas: ttfb, rps, stream, signing, ...
  --candidates NAMES  only these in the kinds of load: mitmdump, ours, blockrun-litellm, ...; a wrong name lists all
  --rounds N          how often each block is measured
  --requests N        requests in each block, whatever its usual size
  --baseline DIR      another checkout of this project, measured beside this one
  --write [DIR]       write README.md, overview.svg and results.json into DIR or docs/benchmark
  --render            measure nothing, write that page anew from its results.json
  --profile NAME      measure nothing, say where the time of this candidate goes
  --soak [SECONDS]    load with faults and clients that leave, for ten minutes: does anything leak, do the books agree?
  --seed N            what a soak draws its requests and faults from
"""

PATH_HELP = """\
usage: {prog} path

Prints the path of the script that mitmproxy loads:
  mitmdump -s "$({prog} path)" --mode reverse:https://sol.blockrun.ai
"""
