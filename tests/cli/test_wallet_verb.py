"""`wallet`: keys made, restored and shown, as a person at a terminal or a script does it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from eth_account import Account

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support import effort
from support.chains.json_rpc import Rpc
from support.running import warm
from support.running.sessions import Person

WORDS = "abandon " * 11 + "about"
"""BIP-39's own test vector; MetaMask and Phantom show these addresses for it."""
EVM = "0x9858EfFD232B4033E47d90003D41EC34EcaEda94"
SVM = "HAgk14JpMQLgt6rVgv7cBQFJWFto5Dqxi472uT3DKpqk"
PASSWORD = "correct horse"
COMMAND = (*warm.VERB, "wallet")


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], "TERM": "xterm", "X402_PROGRAM": "x402", **(more or {})}


def run(
    home: Path, *arguments: str, typed: str = "", more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return warm.run([*COMMAND, *arguments], environment(home, more), home, typed=typed)


def sits_down(home: Path, *arguments: str) -> Person:
    return Person([*COMMAND, *arguments], environment(home), home)


def key_file(home: Path) -> Path:
    return home / ".blockrun" / ".session"


def test_a_person_makes_a_wallet_and_backs_it_up(tmp_path: Path) -> None:
    person = sits_down(tmp_path, "new", "--evm")
    shown = person.read_until(r"(?s)Nobody can give.*?Press Enter").group()
    words = dict(re.findall(r" (\d+) ([a-z]+)", shown))
    assert len(words) == 24
    assert not key_file(tmp_path).exists()  # not before the backup is known to be one
    person.types("\n")
    for _ in range(2):
        place = person.read_until(r"Word number (\d+)").group(1)
        person.types(words[place] + "\n")
    address = person.read_until(r"New wallet (0x[0-9a-fA-F]{40})").group(1)
    assert person.ends() == 0
    assert stat.S_IMODE(key_file(tmp_path).stat().st_mode) == 0o600
    assert Account.from_key(key_file(tmp_path).read_text().strip()).address == address

    other = tmp_path / "other"
    other.mkdir()
    answer = run(other, "restore", "--evm", typed=" ".join(words[str(n)] for n in range(1, 25)) + "\n")
    assert answer.returncode == 0, answer.stderr
    assert address in answer.stdout
    assert key_file(other).read_text() == key_file(tmp_path).read_text()


def test_the_screen_is_wiped_after_the_words(tmp_path: Path) -> None:
    person = sits_down(tmp_path, "new", "--solana")
    person.read_until(r"Press Enter[^\n]*")
    person.types("\n")
    assert person.read_until("\x1b\\[3J\x1b\\[2J")
    person.types("\x03")
    assert person.ends() == 130
    assert not (tmp_path / ".blockrun").exists()


def test_who_wrote_nothing_down_gets_no_wallet(tmp_path: Path) -> None:
    person = sits_down(tmp_path, "new", "--evm")
    person.read_until("Press Enter")
    person.types("\n")
    for _ in range(3):
        person.read_until("Word number")
        person.types("nonsense\n")
    person.read_until("the backup is not right")
    assert person.ends() == 1
    assert not (tmp_path / ".blockrun").exists()


def test_a_script_has_to_say_that_it_wants_no_backup(tmp_path: Path) -> None:
    answer = run(tmp_path, "new", "--evm")
    assert answer.returncode == 1
    assert "--no-backup" in answer.stderr
    assert not (tmp_path / ".blockrun").exists()
    answer = run(tmp_path, "new", "--evm", "--no-backup")
    assert answer.returncode == 0
    key = key_file(tmp_path).read_text().strip()
    assert key not in answer.stdout + answer.stderr
    assert Account.from_key(key).address in answer.stdout


@pytest.mark.parametrize("verb", ["new", "restore"])
@pytest.mark.parametrize("chain", effort.chosen(["--evm", "--solana"], "--evm"))
def test_a_wallet_that_is_there_is_never_changed(tmp_path: Path, verb: str, chain: str) -> None:
    assert run(tmp_path, "restore", chain, typed=WORDS).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / ".blockrun").iterdir()}
    answer = run(tmp_path, verb, chain, *(["--no-backup"] if verb == "new" else []), typed=WORDS)
    assert answer.returncode == 1
    assert "never changed" in answer.stderr
    assert {path: path.read_bytes() for path in (tmp_path / ".blockrun").iterdir()} == before


def test_a_file_that_holds_no_key_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / ".blockrun").mkdir()
    (tmp_path / ".blockrun" / ".solana-session").symlink_to("nowhere")
    answer = run(tmp_path, "new", "--solana", "--no-backup")
    assert answer.returncode == 1
    assert "never overwritten" in answer.stderr
    assert not (tmp_path / ".blockrun" / "nowhere").exists()


def test_a_key_in_the_environment_counts_as_a_wallet(tmp_path: Path) -> None:
    answer = run(tmp_path, "new", "--evm", "--no-backup", more={"BLOCKRUN_WALLET_KEY": "0x" + "11" * 32})
    assert answer.returncode == 1
    assert "BLOCKRUN_WALLET_KEY" in answer.stderr


@pytest.mark.parametrize(("chain", "address"), [("--evm", EVM), ("--solana", SVM)])
def test_the_addresses_are_those_of_metamask_and_phantom(tmp_path: Path, chain: str, address: str) -> None:
    answer = run(tmp_path, "restore", chain, typed=WORDS + "\n")
    assert answer.returncode == 0, answer.stderr
    assert address in answer.stdout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("abandon about", "not 2"),
        ("abandon " * 11 + "abandon", "checksum"),
        ("abandon " * 11 + "bitcoin", "number 12"),
        ("", "holds no EVM private key"),
        ("0x1234", "holds no EVM private key"),
    ],
)
def test_what_is_no_backup_is_refused_and_not_shown(tmp_path: Path, typed: str, said: str) -> None:
    answer = run(tmp_path, "restore", "--evm", typed=typed + "\n")
    assert answer.returncode == 1
    assert said in answer.stderr
    assert "bitcoin" not in answer.stderr
    assert not (tmp_path / ".blockrun").exists()


def test_a_private_key_is_restored_too(tmp_path: Path) -> None:
    answer = run(tmp_path, "restore", "--evm", typed="0x" + "11" * 32 + "\n")
    assert answer.returncode == 0
    assert "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A" in answer.stdout


def test_a_keystore_opens_with_its_password(tmp_path: Path) -> None:
    password = {"X402_KEYSTORE_PASSWORD": PASSWORD}
    answer = run(tmp_path, "restore", "--keystore", typed=WORDS + "\n", more=password)
    assert answer.returncode == 0, answer.stderr
    path = tmp_path / ".blockrun" / "keystore.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Account.from_key(Account.decrypt(json.loads(path.read_text()), PASSWORD)).address == EVM
    assert run(tmp_path, "new", "--keystore", "--no-backup", more=password).returncode == 1
    option = f"--set x402_keystore={path}"
    assert option in answer.stdout
    assert option in run(tmp_path).stdout  # it is not used by itself
    assert EVM in run(tmp_path, "fund", *option.split(), "--network", "base", more=password).stdout


def test_a_hostile_umask_changes_nothing(tmp_path: Path) -> None:
    code = f"import os; os.umask(0); os.execv({COMMAND[0]!r}, {[*COMMAND, 'new', '--solana', '--no-backup']!r})"
    subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), check=True, capture_output=True)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / ".blockrun").rglob("*")]
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / ".blockrun").stat().st_mode) == 0o700


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """No file may grow beyond nothing: what is written fails as on a full disk."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(1, (0, 0)); "
    code = f"{limit}import os; os.execv({COMMAND[0]!r}, {[*COMMAND, 'new', '--evm', '--no-backup']!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Nothing was changed" in done.stderr
    assert not list((tmp_path / ".blockrun").iterdir())


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxConfig(networks=("base-sepolia",))).run_in_thread() as running:
        yield running


def beside(sandbox: Sandbox) -> dict[str, str]:
    return {
        "X402_UPSTREAM": sandbox.url,
        "X402_EVM_RPC": f"base-sepolia={sandbox.url}/v1/rpc/base-sepolia",
    }


def test_what_is_there_is_shown(tmp_path: Path, sandbox: Sandbox) -> None:
    assert run(tmp_path, "restore", "--evm", typed=WORDS).returncode == 0
    answer = run(tmp_path, "--set", "x402_networks=base-sepolia", more=beside(sandbox))
    assert answer.returncode == 0, answer.stderr
    for part in (
        EVM,
        "readable by you alone",
        "base-sepolia: 1000 USDC",
        "costs 0.001 USDC on base-sepolia",
        "--solana",
    ):
        assert part in answer.stdout
    (tmp_path / ".blockrun" / ".session").chmod(0o644)
    answer = run(tmp_path, more=beside(sandbox))
    assert answer.returncode == 1
    assert f"chmod 600 {tmp_path / '.blockrun' / '.session'}" in answer.stderr


def test_what_it_buys_there_is_said(tmp_path: Path, sandbox: Sandbox) -> None:
    assert run(tmp_path, "restore", "--evm", typed=WORDS).returncode == 0
    answer = run(tmp_path, more=beside(sandbox))
    assert (
        "small chat request (sandbox-1) costs 0.001 USDC on base-sepolia; there is enough for 1,000,000"
        in answer.stdout
    )
    assert re.search(
        r"coding agent's size \(85 kB.*costs 0\.18\d+ USDC on base-sepolia; there is enough for", answer.stdout
    )
    assert "Permit2" not in answer.stdout
    assert "Circle" not in answer.stdout
    answer = run(tmp_path, "--set", "x402_schemes=auto", "--set", "x402_gateway=true", more=beside(sandbox))
    assert "base-sepolia: Permit2 may take 0 USDC of that" in answer.stdout
    assert "base-sepolia: 1000 USDC deposited with Circle Gateway" in answer.stdout


def test_what_is_missing_is_said(tmp_path: Path, sandbox: Sandbox) -> None:
    assert run(tmp_path, "restore", "--evm", typed=WORDS).returncode == 0
    with Rpc(lambda method, _: hex(84532) if method == "eth_chainId" else f"0x{7:064x}") as rpc:
        answer = run(tmp_path, more={**beside(sandbox), "X402_EVM_RPC": f"base-sepolia={rpc.url}"})
    assert "there is not enough for one" in answer.stdout
    assert f"Missing: USDC on base-sepolia, at {EVM}." in answer.stdout
    answer = run(tmp_path, "--upstream", "http://127.0.0.1:1", more=beside(sandbox))
    assert answer.returncode == 0
    assert "What a request costs at http://127.0.0.1:1 is not known: connection refused." in answer.stdout
    other = tmp_path / "other"
    other.mkdir()
    answer = run(other)
    assert answer.returncode == 1
    assert "x402 wallet new" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["new", "--wait"], "--wait"),
        (["--network", "base"], "--network"),
        (["fund", "--yes"], "--yes"),
        (["new", "5"], "'5'"),
    ],
)
def test_what_a_verb_does_not_take_is_refused(tmp_path: Path, arguments: list[str], name: str) -> None:
    answer = run(tmp_path, *arguments)
    assert answer.returncode == 1
    assert f"{name} is not expected" in answer.stderr
    assert answer.stderr.endswith("See x402 wallet --help.\n")


def test_the_network_to_fund_is_the_gateways(tmp_path: Path, sandbox: Sandbox) -> None:
    assert run(tmp_path, "restore", "--evm", typed=WORDS).returncode == 0
    more = beside(sandbox)
    answer = run(tmp_path, "fund", more=more)
    assert answer.returncode == 0, answer.stderr
    for part in (
        "takes USDC on base-sepolia",
        f"@84532/transfer?address={EVM}",
        "It holds 1000 USDC now",
        "test network",
    ):
        assert part in answer.stdout
    answer = run(tmp_path, "fund", "--network", "base", more=more)
    assert f"@8453/transfer?address={EVM}" in answer.stdout
    answer = run(tmp_path, "fund", "--network", "polygon", more=more)
    assert "polygon is known but not enabled: add --set x402_networks=polygon" in answer.stderr
    assert run(tmp_path, "restore", "--solana", typed=WORDS).returncode == 0
    answer = run(tmp_path, "fund", "--html", "codes.html", more=more)
    assert "The codes of both wallets are in codes.html." in answer.stdout
    page = (tmp_path / "codes.html").read_text()
    assert (
        page.index("Send USDC on base-sepolia") < page.index(EVM) < page.index("Send USDC on solana") < page.index(SVM)
    )
    assert page.count("<svg") == 2
    (tmp_path / ".blockrun" / ".solana-session").unlink()
    answer = run(tmp_path, "fund", "--upstream", "http://127.0.0.1:1", more=more)
    assert "takes payment is not known (connection refused)" in answer.stdout
    assert f"@8453/transfer?address={EVM}" in answer.stdout


def test_an_allowance_is_set_and_revoked_at_the_sandbox(tmp_path: Path, sandbox: Sandbox) -> None:
    """With its own key, so that other tests see no allowance."""
    assert run(tmp_path, "new", "--evm", "--no-backup").returncode == 0
    for dollars in ("20", "0.5", "0"):
        answer = run(tmp_path, "allow", "--network", "base-sepolia", dollars, "--yes", more=beside(sandbox))
        assert answer.returncode == 0, answer.stderr
        assert "Done: transaction 0x" in answer.stdout
        assert f"Permit2 may take of that: {dollars}." in answer.stdout
        answer = run(tmp_path, "allow", more=beside(sandbox))
        assert f"{sandbox.url} takes USDC on base-sepolia." in answer.stdout
        assert f"Permit2 may take of that: {dollars}." in answer.stdout


def test_no_allowance_is_set_on_a_network_that_the_gateway_may_not_use(tmp_path: Path) -> None:
    assert run(tmp_path, "new", "--evm", "--no-backup").returncode == 0
    with Rpc(lambda method, _: hex(8453) if method == "eth_chainId" else f"0x{5_000_000:064x}") as rpc:
        more = {"X402_EVM_RPC": f"base={rpc.url}"}
        answer = run(tmp_path, "allow", "5", "--yes", "--upstream", "http://127.0.0.1:1", more=more)
        assert "eth_sendRawTransaction" not in [method for method, _ in rpc.asked]
    assert answer.returncode == 1
    assert "takes payment is not known (connection refused). Name one with --network" in answer.stderr


def test_an_allowance_that_stands_is_not_set_again(tmp_path: Path, sandbox: Sandbox) -> None:
    assert run(tmp_path, "new", "--evm", "--no-backup").returncode == 0
    command = ("allow", "--network", "base-sepolia", "7", "--yes")
    assert "Sending the transaction 0x" in run(tmp_path, *command, more=beside(sandbox)).stdout
    again = run(tmp_path, *command, more=beside(sandbox))
    assert again.returncode == 0
    assert "That is what Permit2 may take already. Nothing was changed." in again.stdout
    assert "transaction" not in again.stdout


@pytest.mark.parametrize(
    "amount", ["0.0000001", "1.0000001", "1e-7", "1e3", "1_0", "+5", " 5", "５", "", "-1", "nan", "100001", "5."]
)
def test_an_allowance_is_a_plain_amount(tmp_path: Path, sandbox: Sandbox, amount: str) -> None:
    assert run(tmp_path, "new", "--evm", "--no-backup").returncode == 0
    answer = run(tmp_path, "allow", "--network", "base-sepolia", "--yes", "--", amount, more=beside(sandbox))
    assert answer.returncode != 0
    assert "expected dollars" in answer.stderr or "USDC has 6 decimals at most" in answer.stderr
    assert "transaction" not in answer.stdout


@pytest.mark.parametrize(
    ("key", "code", "words"),
    [("\x04", 1, "Nothing was changed"), ("\x03", 130, ""), ("no\n", 1, "Nothing was changed")],
)
def test_the_question_before_an_allowance_can_be_left(
    tmp_path: Path, sandbox: Sandbox, key: str, code: int, words: str
) -> None:
    assert run(tmp_path, "new", "--evm", "--no-backup").returncode == 0
    options = ("--set", f"x402_evm_rpc=base-sepolia={sandbox.url}/v1/rpc/base-sepolia")
    person = sits_down(tmp_path, "allow", "7", "--network", "base-sepolia", *options)
    person.read_until("Type yes to do it: ")
    person.types(key)
    assert person.ends() == code
    assert words in person.seen
    assert "Traceback" not in person.seen


def test_ctrl_c_ends_the_waiting(tmp_path: Path) -> None:
    assert run(tmp_path, "restore", "--evm", typed=WORDS).returncode == 0
    with Rpc(lambda method, _: hex(8453) if method == "eth_chainId" else f"0x{5_000_000:064x}") as rpc:
        options = ("--set", f"x402_evm_rpc=base={rpc.url}", "--network", "base", "--html", "code.html")
        person = sits_down(tmp_path, "fund", "--wait", *options)
        person.read_until(r"It holds 5 USDC now\.\s+Waiting until more has arrived")
        person.read_until("waiting for USDC on base")
        person.types("\x03")
        assert person.ends() == 130
        assert "Traceback" not in person.seen


def test_money_that_arrives_is_seen(tmp_path: Path) -> None:
    assert run(tmp_path, "restore", "--evm", typed=WORDS).returncode == 0
    balances = [5_000_000, 5_000_000, 7_250_000]
    with Rpc(lambda method, _: hex(8453) if method == "eth_chainId" else f"0x{balances.pop(0):064x}") as rpc:
        more = {"X402_EVM_RPC": f"base={rpc.url}"}
        answer = run(tmp_path, "fund", "--network", "base", "--wait", "--html", "code.html", more=more)
    assert answer.returncode == 0, answer.stderr
    assert "It holds 5 USDC now." in answer.stdout
    assert "Arrived: 2.25 USDC. The wallet now holds 7.25 USDC.\nNext: x402 check" in answer.stdout
    page = (tmp_path / "code.html").read_text()
    assert EVM in page
    assert "<svg" in page


def test_there_is_nothing_to_fund_without_a_wallet(tmp_path: Path) -> None:
    answer = run(tmp_path, "fund", "--solana")
    assert answer.returncode == 1
    assert "x402 wallet new --solana" in answer.stderr


@pytest.mark.parametrize("verb", [("fund",), ("allow", "20")])
def test_a_network_that_is_known_and_not_enabled(tmp_path: Path, verb: tuple[str, ...]) -> None:
    answer = run(tmp_path, *verb, "--network", "polygon", more={"BLOCKRUN_WALLET_KEY": "0x" + "1" * 64})
    assert "--network polygon is known but not enabled: add --set x402_networks=polygon" in answer.stderr
