"""Runs a verb: `./run.sh VERB`, `mitmproxy-x402 VERB` and `python -m mitmproxy_x402 VERB` are the same.

Nothing but the standard library is imported before a verb needs it: the help works without anything installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from .. import __version__
from ..errors import X402Error
from ..machine import installation
from ..machine.program import program
from ..machine.standard_streams import run_with_output
from .help_texts import (
    BENCH_HELP,
    CHECK_HELP,
    ENV_HELP,
    HELP,
    LEDGER_HELP,
    PATH_HELP,
    RECONCILE_HELP,
    REPORT_HELP,
    RUN_HELP,
    SANDBOX_HELP,
    SERVE_HELP,
    TEST_HELP,
    WALLET_HELP,
)

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""
USAGE_ERROR = 2

FIRST_LINES = {
    "serve": "Runs the proxy that pays, on http://127.0.0.1:4402 unless -p or --listen-host say otherwise.",
    "web": "Like serve, in mitmweb, which shows every request in the browser.",
    "tui": "Like serve, in mitmproxy, which shows every request in the terminal.",
}
TOOLS = {"serve": "mitmdump", "web": "mitmweb", "tui": "mitmproxy"}
"""mitmproxy's three programs by our verbs."""
PRINTING = ("-h", "--help", "--version")
"""Options that print something in place of a verb."""


def script_path() -> Path:
    """The script for `mitmdump -s`: `addon/x402.py` of a checkout, or the copy that a wheel carries."""
    package = Path(__file__).resolve().parents[1]
    carried = package / "door" / "x402.py"
    return carried if carried.is_file() else package.parent / "x402.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code. Mistakes of the user's end in one message, never in a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else "serve"
    serves = first in TOOLS or (first.startswith("-") and first not in PRINTING)
    return run_with_output(lambda: _run_verb(arguments), _fail, silent=serves)


def _run_verb(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        # Where Ctrl-C ends a lock's or an event loop's cleaning up, Python raises RuntimeError after it.
        if _comes_of_ctrl_c(error):
            return _interrupted()
        if isinstance(error, ImportError):
            return _fail(installation.cannot_be_imported(error))
        if isinstance(error, X402Error):
            return _fail(str(error))
        raise


def _comes_of_ctrl_c(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _interrupted() -> int:
    if sys.stderr.isatty():
        sys.stderr.write("\n")  # the terminal has shown ^C; the prompt is to begin a new line
    return INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else "serve"
    if first == "help" and len(arguments) > 1:
        return _print(_help_of(arguments[1])) if arguments[1] in VERBS else _unknown_verb(arguments[1])
    if first in {"-h", "--help", "help"}:
        return _print(HELP.format(prog=program()))
    if first == "--version":
        return _print(f"mitmproxy-x402 {__version__}\n")
    verb, rest = ("serve", arguments) if first.startswith("-") else (first, arguments[1:])
    if verb not in VERBS:
        return _unknown_verb(verb)
    if "-h" in _own(rest) or "--help" in _own(rest):
        return _print(_help_of(verb))
    if verb not in NEED_NOTHING and (wrong := installation.what_is_wrong()):
        return _fail(wrong)
    return VERBS[verb](verb, rest)


def _own(arguments: list[str]) -> list[str]:
    """The arguments before `--`; those after it belong to another program."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _help_of(verb: str) -> str:
    if verb in TOOLS:
        return SERVE_HELP.format(prog=program(), verb=verb, first=FIRST_LINES[verb])
    if verb == "fixtures":
        from ..fixtures.usage import HELP as FIXTURES_HELP  # noqa: PLC0415  (nothing but the text)

        return FIXTURES_HELP.format(prog=f"{program()} fixtures")
    texts = {
        "sandbox": SANDBOX_HELP,
        "report": REPORT_HELP,
        "reconcile": RECONCILE_HELP,
        "ledger": LEDGER_HELP,
        "check": CHECK_HELP,
        "wallet": WALLET_HELP,
        "env": ENV_HELP,
        "run": RUN_HELP,
        "test": TEST_HELP,
        "bench": BENCH_HELP,
        "path": PATH_HELP,
    }
    return texts[verb].format(prog=program(), pad=" " * len(f"{program()} {verb}"))


def _serve(verb: str, arguments: list[str]) -> int:
    from . import launch  # noqa: PLC0415  (imports what must be installed)

    return launch.serve(TOOLS[verb], arguments, script_path=script_path(), program=program())


def _sandbox(_: str, arguments: list[str]) -> int:
    from . import sandbox as demo  # noqa: PLC0415  (imports what must be installed)

    return demo.run(arguments)


def _report(verb: str, arguments: list[str]) -> int:
    from . import report  # noqa: PLC0415  (imports what must be installed)

    return _on_ledger(verb, report.run, arguments)


def _reconcile(verb: str, arguments: list[str]) -> int:
    from . import reconcile  # noqa: PLC0415  (imports what must be installed)

    return _on_ledger(verb, reconcile.run, arguments)


def _ledger(verb: str, arguments: list[str]) -> int:
    from . import ledger  # noqa: PLC0415  (imports what must be installed)

    if not arguments:
        _print(_help_of(verb))
        return USAGE_ERROR
    return _on_ledger(verb, ledger.run, arguments)


def _on_ledger(verb: str, run: Callable[[Sequence[str]], int], arguments: list[str]) -> int:
    from .ledger_options import UsageError  # noqa: PLC0415  (imports what must be installed)

    try:
        return run(arguments)
    except UsageError as error:
        return _fail(f"{verb}: {error}. See {program()} {verb} --help.", USAGE_ERROR)


def _check(_: str, arguments: list[str]) -> int:
    from ..check import check  # noqa: PLC0415  (imports what must be installed)

    return check.run(arguments)


def _env(_: str, arguments: list[str]) -> int:
    from . import clients  # noqa: PLC0415  (imports what must be installed)

    return clients.print_env(arguments, program())


def _run(_: str, arguments: list[str]) -> int:
    from . import clients  # noqa: PLC0415  (imports what must be installed)

    return clients.run_client(arguments, program())


def _wallet(_: str, arguments: list[str]) -> int:
    from .wallet import verb as wallet  # noqa: PLC0415  (imports what must be installed)

    return wallet.run(arguments, program())


def _fixtures(_: str, arguments: list[str]) -> int:
    from ..fixtures import __main__ as fixtures  # noqa: PLC0415  (imports what must be installed)

    return fixtures.main(arguments, f"{program()} fixtures")


def _test(_: str, arguments: list[str]) -> int:  # noqa: RET503  (it ends in a function that never returns)
    if not _enter_checkout():
        return _fail("the tests are not installed; they run in a checkout: ./run.sh test")
    parallel = [] if any(argument.startswith("-n") for argument in arguments) else ["-n", "4"]
    # Four keep two cores busy, since tests often wait for time-outs and disks. Neighbouring tests share proxies, so
    # each process takes a run of them; an idle one steals from the others.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of them would compile all the tests
    _become([sys.executable, "-I", "-m", "pytest", "--dist", "worksteal", *parallel, *arguments])


def _bench(_: str, arguments: list[str]) -> int:  # noqa: RET503  (as above)
    if not _enter_checkout():
        return _fail("the benchmark is not installed; it runs in a checkout: ./run.sh bench")
    # Not -I, which would hide the checkout's own tests.bench; the two others keep the user's settings away.
    _become([sys.executable, "-E", "-s", "-m", "tests.bench", *arguments])


def _enter_checkout() -> bool:
    """Change to the checkout that holds this package; False if it is not in one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "tests").is_dir() or not (root / "pyproject.toml").is_file():
        return False
    os.chdir(root)
    return True


def _become(command: list[str]) -> NoReturn:
    """Replace this process with `command`, without the user's X402_ variables."""
    sys.stdout.flush()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("X402_")}
    os.execve(command[0], command, environ)  # noqa: S606  (no shell is wanted)


def _path(_: str, arguments: list[str]) -> int:
    if arguments:
        return _fail(f"path takes no arguments, got {' '.join(arguments):.60}", USAGE_ERROR)
    return _print(f"{script_path()}\n")


def _unknown_verb(verb: str) -> int:
    from ..settings.suggest import nearest  # noqa: PLC0415  (rarely needed)

    near = nearest(verb, VERBS, 0.6)
    hint = f"did you mean {near}?" if near else f"known are {', '.join(VERBS)}."
    return _fail(f"there is no verb {verb!r:.60}; {hint} See {program()} --help.", USAGE_ERROR)


def _print(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def _fail(message: str, code: int = 1) -> int:
    sys.stderr.write(f"{program()}: {message}\n")
    return code


NEED_NOTHING = ("fixtures", "path", "test", "bench")
"""Verbs that run without what the proxy needs, or in an environment that they look at themselves."""
VERBS: dict[str, Callable[[str, list[str]], int]] = {
    "serve": _serve,
    "web": _serve,
    "tui": _serve,
    "sandbox": _sandbox,
    "report": _report,
    "reconcile": _reconcile,
    "ledger": _ledger,
    "check": _check,
    "wallet": _wallet,
    "env": _env,
    "run": _run,
    "fixtures": _fixtures,
    "test": _test,
    "bench": _bench,
    "path": _path,
}
