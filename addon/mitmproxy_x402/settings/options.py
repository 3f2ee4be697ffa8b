"""The mitmproxy options that the addon declares; their help is the user's documentation.

All have the type text, even numbers and switches: mitmproxy silently drops a whole script if a typed option gets a bad
value.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..gateways.blockrun import SOLANA_RPC

PREFIX = "x402_"


@dataclass(frozen=True)
class Option:
    """One mitmproxy option. `default` is the declared default: empty, which means that the option is not set."""

    name: str
    otherwise: str
    """The value if option, environment and file do not set it, as a user would write it."""
    help: str
    variable: str = ""
    """The environment variable that sets it, too."""
    default: str = ""

    @property
    def key(self) -> str:
        """Its name in x402.toml."""
        return self.name.removeprefix(PREFIX)


OPTIONS: tuple[Option, ...] = (
    Option(
        "x402_max_request",
        "1",
        "The most that a single request may cost, in dollars, as in 0.25. A challenge that asks for more is "
        "refused and nothing is signed. Whoever reaches the port can spend this much again and again, so keep it "
        "small. 0 pays nothing that costs. Default: 1.",
    ),
    Option(
        "x402_networks",
        "",
        "The networks to pay on, the preferred one first, separated by commas: short names (base, solana) or CAIP-2 "
        "names. Networks that are not listed come after these; among equals the cheapest offer is taken. Only "
        "networks that there is a wallet for are paid on. base, base-sepolia, arc, solana and solana-devnet are paid "
        "on in any case, other known ones (such as polygon or arbitrum) only when they are named here or in "
        "x402_allow_networks. Default: empty, the cheapest offer of all.",
    ),
    Option(
        "x402_schemes",
        "exact",
        "How to pay a gateway that offers several ways: exact (the price is what is signed), auto or upto. With "
        "upto the wallet signs a ceiling, seven times the usual price or more, and the gateway takes a part of it when "
        "the answer is done: less than the exact price for short answers and cached prompts, more for long ones. auto "
        "decides for each request by what was charged of the last day's ceilings for that path and model, tries three "
        "where nothing is known, and never pays a ceiling of more than 16 times the exact price. The dangers: the "
        "gateway and its facilitator may take the whole ceiling; limits and budgets must have room for it, and the "
        "wallet must hold it. Both need an EVM RPC (x402_evm_rpc), and either a "
        "gateway that sponsors the allowance or one that you set (wallet allow). Default: exact.",
    ),
    Option(
        "x402_gateway",
        "false",
        "Whether sellers may be paid by Circle Gateway: true or false. Such a payment comes out of a balance that you "
        "have deposited with Circle's contract, not out of the wallet. The danger: Circle takes only signatures that "
        "live for seven days, whatever x402_max_validity says, so each can be taken, and counts against every budget, "
        "for that long and a period more, also if the seller calls it settled: no chain can confirm that. A budget of "
        "10/day is 10 in eight days then. Default: false.",
    ),
    Option(
        "x402_budget",
        "10/day",
        "The most that may be spent in all, in dollars a period: 5 (ever), 5/hour, 5/day, 50/month, or several of "
        "them separated by commas. Periods roll: a day is the last 24 hours, a month the last 30 days. All proxies "
        "that share the ledger share the budget. Payments whose outcome is unknown count. 0 pays nothing that costs. "
        "Default: 10/day.",
    ),
    Option(
        "x402_dry_run",
        "false",
        "If true, nothing is ever signed: the client gets an error that says what would have been paid, to whom "
        "and on which chain. Works without a wallet. Default: false.",
    ),
    Option(
        "x402_repurchase",
        "1",
        "How often one request may be paid again, 0 to 10, if it got no complete answer and its first payment was "
        "spent, has expired, or was rejected by the gateway. Clients repeat failed requests by themselves; the proxy "
        "sends the same payment with them for as long as it is valid. This option limits what happens after that. "
        "Default: 1, two payments at most.",
    ),
    Option(
        "x402_pay_methods",
        "GET, POST, PUT, PATCH, DELETE, QUERY",
        "The HTTP methods whose requests may be paid for, separated by commas. The 402 that answers any other goes to "
        "the client as it came. HEAD, OPTIONS and TRACE cannot be among them, and websocket handshakes are never paid: "
        "their answers deliver nothing. With POST alone, a gateway that quotes a price on GET and delivers on POST is "
        "paid once. Default: GET, POST, PUT, PATCH, DELETE, QUERY.",
    ),
    Option(
        "x402_preauthorize",
        "false",
        "If true, the payment goes with the first request where its price can be predicted, which saves the round trip "
        "for the challenge. A price is predicted only after three challenges of the same method, path and model have "
        "confirmed it exactly. If the gateway then asks for something else, it is paid again within x402_repurchase "
        "(if that is 0, nothing is predicted), and the first signature counts against the budget until nobody can "
        "submit it. The danger: a model that has become "
        "free, or cheaper, may be paid for once more before that is noticed. Default: false.",
    ),
    Option(
        "x402_allow_pay_to",
        "",
        "The only addresses that may be paid, separated by commas. Gateways use several and change them, so a "
        "payment may be refused that was fine yesterday. Default: empty, any address that the gateway names.",
    ),
    Option(
        "x402_allow_networks",
        "",
        "The only networks that may be paid on, separated by commas: short names (base, solana) or CAIP-2 names. "
        "x402_networks sets their order. Default: empty, all that are paid on without it (see there).",
    ),
    Option(
        "x402_allow_assets",
        "",
        "The only assets that may be paid with, separated by commas: symbols (USDC) or addresses. Default: empty, "
        "every asset of the networks that are paid on: USDC, other dollar tokens of networks that you name (such as "
        "USDT on celo), and what x402.toml adds.",
    ),
    Option(
        "x402_allow_hosts",
        "",
        "The only upstream hosts that may be paid, separated by commas, as in sol.blockrun.ai. Payments go to the "
        "host of --mode reverse: in any case; this also guards against a mistyped one. Default: empty, that host.",
    ),
    Option(
        "x402_ledger",
        "",
        "Where every payment is recorded before it is sent: a file, or for proxies on several machines a "
        "PostgreSQL database, as in postgresql://x402@db.example/x402?sslmode=verify-full. The file is a SQLite "
        "database that only you can read; keep it on a local disk. Proxies with the same ledger share one budget; in "
        "PostgreSQL, and with the same wallet, they also share the payments that are kept to be sent again. Keep a URL "
        "that holds a password in X402_LEDGER: mitmweb shows options, and the command line is visible to every user of "
        "the machine. Default: empty, $XDG_STATE_HOME/mitmproxy-x402/ledger.sqlite3, where XDG_STATE_HOME is "
        "~/.local/state if not set.",
        variable="X402_LEDGER",
    ),
    Option(
        "x402_ledger_sync",
        "true",
        "Whether a payment leaves only when its row in the ledger's file is on the disk: true or false. The disk is "
        "waited for beside other work. With false a power cut, or a crash of the whole machine, can take the payments "
        "of the last half minute out of the ledger, so that they count against no budget though they may have been "
        "settled; the end of the proxy alone takes nothing. A ledger in PostgreSQL has its own setting for this. "
        "Default: true.",
    ),
    Option(
        "x402_forward_auth",
        "false",
        "Whether the client's own credentials go upstream: true or false. They are: Authorization, x-api-key, cookies "
        "and every other header or query parameter whose name says key, token, secret, password or auth; sig and "
        "signature in a query; and whatever its name, a value that can be nothing else, as Bearer ..., sk-ant-..., "
        "AIza..., or a JWT. Paths and bodies stay as they are. The payment is what the gateway wants; with true, the "
        "gateway also sees whatever real API key the client was set up with. Default: false.",
    ),
    Option(
        "x402_forward_names",
        "",
        "Names of headers and query parameters, separated by commas, that go upstream although they look like a "
        "credential, as in sig, hash_key. For a gateway that means something else by such a name. Default: empty.",
    ),
    Option(
        "x402_max_validity",
        "600",
        "The longest time that a signed EVM authorization stays valid, in seconds, 30 to 86400, whatever the gateway "
        "asks for. Anyone who gets hold of a payment header can submit it that long, and it can move the money "
        "once; so above 900 it counts against budgets until a period after it has ended. Default: 600.",
    ),
    Option(
        "x402_solana_rpc",
        SOLANA_RPC,
        "URLs of Solana RPCs, separated by commas and tried in turn. They are asked for a recent blockhash when a "
        "challenge has none; those that you name also for balances, and for what became of payments (x402_reconcile). "
        "They must be https, or http on loopback. Keep URLs that hold an API key in SOLANA_RPC_URL instead: mitmweb "
        f"shows options. Default: {SOLANA_RPC}.",
        variable="SOLANA_RPC_URL",
    ),
    Option(
        "x402_evm_rpc",
        "",
        "URLs of EVM RPCs as NETWORK=URL, separated by commas, as in base=https://mainnet.base.org. They are asked for "
        "balances and for what became of payments (x402_reconcile). Paying exact prices needs none; paying by "
        "x402_schemes auto or upto does. Name two on different hosts: then both must agree before an amount is given "
        "back to the budget. They must be https, or http on loopback. Keep URLs that hold an API key in X402_EVM_RPC "
        "instead: mitmweb shows options. Default: empty; the verbs check, wallet and reconcile, and paying by auto or "
        "upto, ask public ones on base and base-sepolia.",
        variable="X402_EVM_RPC",
    ),
    Option(
        "x402_reconcile",
        "background",
        "When the proxy asks the chain what became of payments that nobody has confirmed: background (a while after "
        "they were sent, until it is known), now (once, when it starts) or off (never; the verb reconcile does it when "
        "told). Only the RPCs in x402_evm_rpc and x402_solana_rpc are asked, which then learn the wallet's "
        "addresses; if there are none, nothing is asked. On their networks a payment that the gateway calls rejected "
        "counts against the budgets until they have answered, unless this is off. No payment waits for it. Default: "
        "background.",
    ),
    Option(
        "x402_reconcile_rate",
        "300",
        "The most requests an hour to each RPC for looking up payments, 1 to 100000. One request asks about "
        "up to a hundred payments. Default: 300.",
    ),
    Option(
        "x402_rpc_timeout",
        "3",
        "How many seconds one RPC may take to answer before the next is tried, 0.1 to 60. Default: 3.",
    ),
    Option(
        "x402_connect_timeout",
        "10",
        "How many seconds the connection to the gateway may take, TLS included, 0.1 to 86400. Then the client gets a "
        "504. Default: 10.",
    ),
    Option(
        "x402_first_byte_timeout",
        "150",
        "How many seconds the gateway may take until its answer begins, 0.1 to 86400. Some models think for two "
        "minutes before their first token. Then the client gets a 504, and a payment that was sent counts as unknown; "
        "the same request, sent again, carries the same payment. Default: 150.",
    ),
    Option(
        "x402_idle_timeout",
        "150",
        "How many seconds may pass between two chunks of an answer, 0.1 to 86400, before the stream is cut. "
        "Default: 150.",
    ),
    Option(
        "x402_total_timeout",
        "900",
        "How many seconds one request may take as a whole, 0.1 to 86400, before it is cut. Default: 900.",
    ),
    Option(
        "x402_max_body",
        "256m",
        "The longest body of a request: a number of bytes, or with k, m or g (4m is 4 times 1024 times 1024), at "
        "most 1g. It is kept in memory until the answer begins, because it may have to be sent twice. Longer ones get "
        "a 413. Default: 256m.",
    ),
    Option(
        "x402_drain",
        "60",
        "How many seconds a stop (SIGTERM) waits for running answers, 0 to 86400; new requests get a 503 meanwhile. "
        "Supervisors kill a process that takes longer than they allow: docker after 10 seconds by default. Default: "
        "60.",
    ),
    Option(
        "x402_evm_key_file",
        "",
        "File with the private key that pays on EVM networks, in hex. Instead of BLOCKRUN_WALLET_KEY, "
        "BASE_CHAIN_WALLET_KEY or ~/.blockrun/.session. It must be readable by you alone (chmod 600). Keep only "
        "pocket money there. Default: empty, look in those places.",
    ),
    Option(
        "x402_solana_key_file",
        "",
        "File with the private key that pays on Solana: base58, or the array of numbers that the Solana tools "
        "write. Instead of SOLANA_WALLET_KEY or ~/.blockrun/.solana-session. It must be readable by you alone "
        "(chmod 600). Keep only pocket money there. Default: empty, look in those places.",
    ),
    Option(
        "x402_keystore",
        "",
        "Ethereum keystore (version 3 JSON) with the key that pays on EVM networks; its password comes from "
        "X402_KEYSTORE_PASSWORD or x402_keystore_password_file. Default: empty.",
    ),
    Option(
        "x402_keystore_password_file",
        "",
        "File whose first line is the password of x402_keystore. It must be readable by you alone (chmod 600). "
        "Default: empty.",
    ),
    Option(
        "x402_evm_key_command",
        "",
        "Command that prints the private key that pays on EVM networks, in hex, as in 'pass show x402/evm'. It is run "
        "once at the start, without a shell; what it prints is never shown. Not taken from an x402.toml in the working "
        "folder. Default: empty.",
    ),
    Option(
        "x402_solana_key_command",
        "",
        "Command that prints the private key that pays on Solana, as x402_evm_key_command does. Default: empty.",
    ),
    Option(
        "x402_keyring",
        "",
        "Name of the service in the system's keyring that holds the keys, as in mitmproxy-x402: they are the passwords "
        "of its users evm and solana. Needs the extra keyring (pip install 'mitmproxy-x402[keyring]'). Default: "
        "empty, the keyring is not used.",
    ),
    Option(
        "x402_client_token",
        "",
        "Token that clients must present as their API key (Bearer, x-api-key, api-key or x-goog-api-key) before "
        "anything is paid for them; required for clients on other machines. It is better to set X402_CLIENT_TOKEN or "
        "x402_client_token_file: mitmweb shows options, and the command line is visible to every user of the "
        "machine. Default: empty, no token.",
        variable="X402_CLIENT_TOKEN",
    ),
    Option(
        "x402_client_token_file",
        "",
        "File whose first line is the client token, see x402_client_token. It must be readable by you alone (chmod "
        "600). Default: empty.",
    ),
    Option(
        "x402_allow_origins",
        "",
        "Browser origins that may spend money, separated by commas, as in http://localhost:3000. Every page and every "
        "script that such an origin loads can spend your money. Scripts may ask with fetch(), whose answers they can "
        "read; images, frames, forms and links spend nothing. A page that was opened as a file has the origin null, as "
        "has every sandboxed frame, and cannot be allowed. Default: empty, no web page can spend.",
    ),
    Option(
        "x402_web_options",
        "false",
        "Whether the page and the API of mitmweb may change every option and run every command while a wallet is "
        "loaded: true or false. The danger: anyone who gets at the page can run code next to the key (option scripts) "
        "or raise the limits. If false, the page can change options of its view, and lower limits. Default: false.",
    ),
    Option(
        "x402_view_limit",
        "4m",
        "How much of each answer's body is kept in memory, to be looked at in mitmweb and mitmproxy and for the flow "
        "files that mitmdump saves: a number of bytes, or with k, m or g (4m is 4 times 1024 times 1024). Of a longer "
        "body the first part is kept; the client gets all of it in any case. While an answer streams, at most its "
        "first 4m are shown, the rest at its end. 0 keeps nothing. Default: 4m.",
    ),
    Option(
        "x402_dump",
        "",
        "Folder to record into. Each request gets a folder with the request, the answer byte for byte as it streams, "
        "and the time and size of each chunk. It is created if it is missing, readable by you alone. Credentials, "
        "cookies and payment headers are not recorded; bodies are, as they are. Default: empty, nothing is recorded.",
    ),
    Option(
        "x402_dump_filter",
        "",
        "Which requests to record, as a filter expression of mitmproxy: '~u /v1/messages', '~c 200 & ~t event-stream', "
        "'~meta \"x402.state: unknown\"'. What is only known at the end of an answer (~b, ~bs, ~comment, ~marked, "
        "~marker, ~meta, ~e) is recorded at first and removed if it does not match. Default: empty, every request.",
    ),
    Option(
        "x402_dump_format",
        "native",
        "How to record, separated by commas: native (a folder of plain files for each request), har (HAR 1.2, for "
        "the network tab of browsers), mitm (mitmproxy's own flow file, for mitmweb -r). Without native the folders "
        "are there only while the answers stream. Default: native.",
    ),
    Option(
        "x402_fast_path",
        "true",
        "While the addon is loaded, replace the functions of mitmproxy that take most of a request's time with faster "
        "ones that have the same effects, and spare the garbage collector the objects that were loaded at the start. "
        "All is put back when the script is unloaded, and a function that another addon has replaced is left alone. "
        "false leaves mitmproxy as it is; a paid request then takes about twice as long inside the proxy. Default: "
        "true.",
    ),
    Option(
        "x402_config",
        "",
        "The configuration file to read. Default: empty, the first of $X402_CONFIG, ./x402.toml and "
        "~/.config/mitmproxy-x402/x402.toml. A file that is named here or in X402_CONFIG must exist.",
        variable="X402_CONFIG",
    ),
)
"""Every option that the addon declares, in the order of the documentation."""
