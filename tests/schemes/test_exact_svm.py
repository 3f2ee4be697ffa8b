from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from mitmproxy_x402.errors import ChallengeError
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements
from mitmproxy_x402.protocol.networks import BUILT_IN, TOKEN_2022_PROGRAM, Asset
from mitmproxy_x402.schemes.exact_svm import build

PAIR = Keypair.from_seed(bytes(range(32)))
PAYER = str(PAIR.pubkey())
PAY_TO = "AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA"
FEE_PAYER = "93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX"
BLOCKHASH = "2Etc9q7omPrAu16uFNbM3fwUH7ygCFKkToN4YCXym1nK"
NONCE = bytes(range(16))
SVM = [network for network in BUILT_IN if network.family == "svm"]
MAINNET = SVM[0]
USDC = MAINNET.assets[0]
OWN_ACCOUNT = str(get_associated_token_address(PAIR.pubkey(), Pubkey.from_string(USDC.address)))
TOKEN_2022 = Asset(str(Pubkey.new_unique()), decimals=9, token_program=TOKEN_2022_PROGRAM)


def requirement(asset: Asset = USDC, **changes: Any) -> PaymentRequirements:
    plain = PaymentRequirements(
        "exact", MAINNET.caip2, AtomicUnits(11961), asset.address, PAY_TO, 300, {"feePayer": FEE_PAYER}, {}
    )
    return replace(plain, **changes)


def sign(message: bytes) -> bytes:
    return bytes(PAIR.sign_message(message))


def pay(required: PaymentRequirements, asset: Asset = USDC, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"payer": PAYER, "blockhash": BLOCKHASH, "nonce": NONCE, "sign": sign}
    return build(required, asset, **{**arguments, **changes})


def decode(payload: dict[str, Any]) -> tuple[VersionedTransaction, MessageV0]:
    transaction = VersionedTransaction.from_bytes(base64.b64decode(payload["transaction"], validate=True))
    assert isinstance(transaction.message, MessageV0)
    return transaction, transaction.message


def instructions(message: MessageV0) -> list[tuple[str, list[str], bytes]]:
    keys = [str(key) for key in message.account_keys]
    return [(keys[i.program_id_index], [keys[a] for a in i.accounts], bytes(i.data)) for i in message.instructions]


def with_memo(memo: object) -> PaymentRequirements:
    return requirement(extra={"feePayer": FEE_PAYER, "memo": memo})


def limit_of(payload: dict[str, Any]) -> int:
    return int.from_bytes(instructions(decode(payload)[1])[0][2][1:], "little")


def test_vector() -> None:
    assert pay(requirement()) == {
        "transaction": (
            "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEjxHoZ5xHxHC1"
            "mQ0mbCvNZ8Si8FXi3A4SRDFlOb6DwqOjawNCM7r6WBsReUXl26+p2oLb5jPSPBprHV3ukn4JgAIBBAh3mkqO0B/ofQw/1PGj4gpm"
            "pYDx//+vfXmcpA6TGjfG+AOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4CnCMuG6SjFDAuknpaEHzlQ8XF3cHRMjkVS9t"
            "NrWxA34WC3kmQS2637TxPlwusQWzMntQCox4JlqIkweFl+q42AMGRm/lIRcy/+ytunLDm+e8jOW7xfcSayxDmzpAAAAABUpTWpkp"
            "IQZNJOhxYNo4fHw1td28kruB5B+oQEEFRI0G3fbh12Whk9nL4UbO63msHLSF7V9bN5E6jPWFfv8Aqcb6evO+2606PWXzaqvJdDGx"
            "u+TC0vbg5HymAgNFL11hEmqWr5xdizIaP52fitwBaQBnZWZNTWCDLOLLXxIn1KQEBAAFAiBOAAAEAAkDAQAAAAAAAAAGBAIHAwEK"
            "DLkuAAAAAAAABgUAIDAwMDEwMjAzMDQwNTA2MDcwODA5MGEwYjBjMGQwZTBmAA=="
        )
    }


@pytest.mark.parametrize("asset", [*(network.assets[0] for network in SVM), TOKEN_2022])
def test_the_transaction(asset: Asset) -> None:
    transaction, message = decode(pay(requirement(asset), asset))
    mint, program = Pubkey.from_string(asset.address), Pubkey.from_string(asset.token_program)
    source = get_associated_token_address(PAIR.pubkey(), mint, program)
    destination = get_associated_token_address(Pubkey.from_string(PAY_TO), mint, program)
    budget = "ComputeBudget111111111111111111111111111111"
    amount = (11961).to_bytes(8, "little")
    assert instructions(message) == [
        (budget, [], b"\x02" + (20_000).to_bytes(4, "little")),
        (budget, [], b"\x03" + (1).to_bytes(8, "little")),
        (
            asset.token_program,
            [str(source), asset.address, str(destination), PAYER],
            b"\x0c" + amount + bytes([asset.decimals]),
        ),
        ("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr", [], NONCE.hex().encode()),
    ]
    keys = message.account_keys
    assert [str(key) for key in keys[:2]] == [FEE_PAYER, PAYER]
    assert message.header.num_required_signatures == 2
    assert message.header.num_readonly_signed_accounts == 1
    assert {str(key) for index, key in enumerate(keys) if message.is_maybe_writable(index)} == {
        FEE_PAYER,
        str(source),
        str(destination),
    }
    assert str(message.recent_blockhash) == BLOCKHASH
    assert list(message.address_table_lookups) == []
    assert transaction.signatures[0] == Signature.default()
    assert transaction.signatures[1].verify(PAIR.pubkey(), to_bytes_versioned(message))
    assert to_bytes_versioned(message)[0] == 0x80


class TestMemo:
    @pytest.mark.parametrize("memo", [None, ""])
    def test_none_means_the_nonce(self, memo: str | None) -> None:
        assert pay(with_memo(memo)) == pay(requirement())

    @pytest.mark.parametrize(
        ("memo", "floor"),
        [("x", 20_700), ("order 4711", 27_000), ("é" * 50, 90_000), ("x" * 256, 199_200), ("€" * 85, 198_500)],
    )
    @pytest.mark.parametrize("nonce", [bytes(16), b"\xff" * 16, NONCE])
    def test_a_seller_s_memo(self, memo: str, floor: int, nonce: bytes) -> None:
        payload = pay(with_memo(memo), nonce=nonce)
        assert instructions(decode(payload)[1])[3][2] == memo.encode()
        assert floor <= limit_of(payload) <= 200_000

    @pytest.mark.parametrize("memo", ["x" * 257, "é" * 129, 1, ["x"], {}, True, 0, False, "\ud800"])
    def test_what_is_no_memo_is_refused(self, memo: object) -> None:
        with pytest.raises(ChallengeError, match=r"extra\.memo"):
            pay(with_memo(memo))

    @pytest.mark.parametrize("required", [requirement(), with_memo("order 4711"), with_memo("x" * 256)])
    def test_equal_payments_under_one_blockhash_differ(self, required: PaymentRequirements) -> None:
        payloads = {pay(required, nonce=bytes(15) + bytes([number]))["transaction"] for number in range(50)}
        assert len(payloads) == 50
        assert pay(required) == pay(required)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": {}}, r"extra\.feePayer must be 32 bytes in base58, got nothing"),
        ({"extra": {"feePayer": None}}, r"extra\.feePayer must be"),
        ({"extra": {"feePayer": 7}}, r"extra\.feePayer must be"),
        ({"extra": {"feePayer": "0" * 44}}, r"extra\.feePayer must be"),
        ({"extra": {"feePayer": FEE_PAYER[:-4]}}, r"extra\.feePayer must be"),
        ({"extra": {"feePayer": PAYER}}, "takes part in the payment"),
        ({"extra": {"feePayer": USDC.address}}, "takes part in the payment"),
        ({"extra": {"feePayer": "1" * 32}}, "is a program, which pays no fees"),
        ({"extra": {"feePayer": OWN_ACCOUNT}}, "takes part in the payment"),
        ({"extra": {"feePayer": "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"}}, "takes part in the payment"),
        ({"pay_to": PAYER}, "is the paying wallet itself"),
        ({"pay_to": OWN_ACCOUNT}, "is the paying wallet itself"),
        ({"pay_to": "1" * 32}, "is a program or a token"),
        ({"pay_to": USDC.address}, "is a program or a token"),
        ({"pay_to": SVM[1].assets[0].address}, "is a program or a token"),
        ({"pay_to": "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"}, "is a program or a token"),
        ({"pay_to": TOKEN_2022_PROGRAM}, "is a program or a token"),
        ({"pay_to": "SysvarRent111111111111111111111111111111111"}, "is a program or a token"),
        ({"pay_to": "1nc1nerator11111111111111111111111111111111"}, "is a program or a token"),
        ({"pay_to": USDC.token_program}, "is a program or a token"),
        ({"pay_to": "0x..."}, "payTo must be 32 bytes in base58"),
        ({"pay_to": "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"}, "payTo must be"),
        ({"pay_to": PAY_TO + " "}, "payTo must be"),
        ({"amount": 2**64}, "more than a Solana transfer can hold"),
        ({"amount": 2**256 - 1}, "more than a Solana transfer can hold"),
    ],
)
def test_a_wrong_challenge_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ChallengeError, match=rf"{reason}.*Nothing was signed"):
        pay(requirement(**changes))


@pytest.mark.parametrize("blockhash", ["", "abc", "0" * 44, BLOCKHASH + "1", "1" * 64, "é", None, 7, [BLOCKHASH]])
def test_a_wrong_blockhash_is_refused(blockhash: Any) -> None:
    with pytest.raises(ChallengeError, match="recentBlockhash"):
        pay(requirement(), blockhash=blockhash)


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)
addresses = st.binary(min_size=32, max_size=32).map(lambda data: str(Pubkey(data)))


@given(
    pay_to=addresses | st.text(), fee_payer=addresses | json_values, memo=json_values, amount=st.integers(1, 2**70),
    blockhash=addresses | json_values,
)  # fmt: skip
def test_any_challenge_becomes_a_payment_or_a_refusal(
    pay_to: str, fee_payer: Any, memo: Any, amount: int, blockhash: Any
) -> None:
    required = requirement(pay_to=pay_to, extra={"feePayer": fee_payer, "memo": memo}, amount=amount)
    try:
        payload = pay(required, blockhash=blockhash)
    except ChallengeError:
        return
    message = decode(payload)[1]
    assert str(message.account_keys[0]) == fee_payer
    assert instructions(message)[2][2] == b"\x0c" + amount.to_bytes(8, "little") + b"\x06"
    assert message.recent_blockhash == Hash.from_string(blockhash)
