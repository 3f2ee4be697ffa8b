"""Challenges: what is read of a 402, and what is refused, whatever it consists of."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.errors import ChallengeError
from mitmproxy_x402.protocol.headers import payment_header, read_settlement
from mitmproxy_x402.protocol.messages import PaymentPayload, PaymentRequired
from mitmproxy_x402.protocol.payment_required import (
    MAX_BODY,
    MAX_ENTRIES,
    MAX_HEADER,
    MAX_VALUES,
    challenge_header,
    offers_nothing,
    read_payment_required,
)
from mitmproxy_x402.protocol.strict_json import is_too_deep
from support.paying.offers import ENTRY, as_header, challenge, getter

CHALLENGES = Path(__file__).parents[1] / "challenges"


def read_text(text: str) -> PaymentRequired | None:
    return read_payment_required(base64.b64encode(text.encode()).decode(), b"")


class TestRecordedChallenges:
    @pytest.mark.parametrize("place", ["header", "body"])
    @pytest.mark.parametrize(
        ("name", "schemes", "amounts"),
        [
            ("402-base-v2-chat-body", ["exact", "upto"], [13081, 17686]),
            ("402-base-v2-exa", ["exact"], [3000]),
            ("402-solana-v2-chat", ["exact", "batch-settlement"], [11961, 16686]),
            ("402-solana-v2-small", ["exact", "batch-settlement"], [1000, 1000]),
        ],
    )
    def test_is_read_and_echoed_verbatim(self, name: str, schemes: list[str], amounts: list[int], place: str) -> None:
        body = (CHALLENGES / f"{name}.json").read_bytes()
        offered = json.loads(body)
        in_header = place == "header"
        header = base64.b64encode(body).decode() if in_header else None
        required = read_payment_required(header, b"" if in_header else body)
        assert required is not None
        assert required.x402_version == 2
        assert [entry.scheme for entry in required.accepts] == schemes
        assert [entry.amount for entry in required.accepts] == amounts
        assert required.unreadable == ()
        for index, entry in enumerate(required.accepts):
            payment = PaymentPayload(2, entry, {"signature": "0x"}, required.resource, required.extensions)
            header_name, value = payment_header(payment)
            assert header_name == "PAYMENT-SIGNATURE"
            echoed = json.loads(base64.b64decode(value, validate=True))
            assert json.dumps(echoed["accepted"]) == json.dumps(offered["accepts"][index])
            assert echoed.get("resource") == offered.get("resource")
            assert echoed.get("extensions") == offered.get("extensions")

    def test_the_placeholder_from_the_documentation_is_a_refusal(self) -> None:
        body = (CHALLENGES / "402-v1-clawrouter-docs.json").read_bytes()
        with pytest.raises(ChallengeError, match=r"accepts\[0\]: asset must be a string"):
            read_payment_required(None, body)


class TestVersion:
    def test_header_decides_over_body(self) -> None:
        body = json.dumps({"x402Version": 1, "accepts": []}).encode()
        required = read_payment_required(as_header(challenge()), body)
        assert required is not None
        assert required.x402_version == 2

    def test_undecodable_header_leaves_it_to_the_body(self) -> None:
        required = read_payment_required("%%%", json.dumps(challenge()).encode())
        assert required is not None

    def test_header_without_a_version_is_version_2(self) -> None:
        required = read_payment_required(as_header({"accepts": [ENTRY]}), b"")
        assert required is not None
        assert required.x402_version == 2

    def test_version_1_reads_max_amount_required(self) -> None:
        entry = {key: value for key, value in ENTRY.items() if key != "amount"}
        entry |= {"network": "base", "maxAmountRequired": "5000", "resource": "https://x", "description": ""}
        required = read_payment_required(None, json.dumps({"x402Version": 1, "accepts": [entry]}).encode())
        assert required is not None
        assert (required.x402_version, required.accepts[0].amount) == (1, 5000)
        name, value = payment_header(PaymentPayload(1, required.accepts[0], {"a": "b"}))
        assert name == "X-PAYMENT"
        assert json.loads(base64.b64decode(value)) == {
            "x402Version": 1,
            "scheme": "exact",
            "network": "base",
            "payload": {"a": "b"},
        }

    @pytest.mark.parametrize("version", [0, 3, "2", 2.0, True, None, [2]])
    def test_any_other_version_is_refused(self, version: object) -> None:
        with pytest.raises(ChallengeError, match="versions 1 and 2"):
            read_payment_required(as_header(challenge() | {"x402Version": version}), b"")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"<html>Payment Required</html>",
            b'{"accepts": "application/json"}',
            b'{"accepts": ["application/json"]}',
            b'{"error": {"message": "insufficient credits"}}',
            b'{"error": NaN, "error": 1}',
            b"\xff\xfe",
            b"[" * 100_000,
        ],
    )
    def test_a_402_that_is_no_challenge_passes_through(self, body: bytes) -> None:
        assert read_payment_required(None, body) is None
        assert read_payment_required("Zm9v", body) is None


class TestEntries:
    @pytest.mark.parametrize(
        "amount",
        [
            13081, 0, 1.5, None, True, [], {}, "", "00", "007", "-1", "+1", " 1", "1 ", "1\n", "1_000", "1e3",
            "1.0", "0x10", "١٢٣", "１２", "²", "NaN", "Infinity", str(2**256), "9" * 5000,
        ],
    )  # fmt: skip
    def test_amounts_are_plain_decimal_strings(self, amount: object) -> None:
        with pytest.raises(ChallengeError, match=r"accepts\[0\]: amount must be a string of decimal digits"):
            read_payment_required(as_header(challenge(amount=amount)), b"")

    @pytest.mark.parametrize("amount", [0, 1, 13081, 2**64, 2**256 - 1])
    def test_amounts_are_exact(self, amount: int) -> None:
        required = read_payment_required(as_header(challenge(amount=str(amount))), b"")
        assert required is not None
        assert required.accepts[0].amount == amount

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"scheme": 1}, "scheme must be a string"),
            ({"network": ""}, "network must be a string"),
            ({"asset": None}, "asset must be a string"),
            ({"payTo": ["0x"]}, "payTo must be a string"),
            ({"maxTimeoutSeconds": "3e2"}, "maxTimeoutSeconds must be a whole number"),
            ({"maxTimeoutSeconds": 60.5}, "maxTimeoutSeconds must be a whole number"),
            ({"maxTimeoutSeconds": 1e300}, "maxTimeoutSeconds must be a whole number"),
            ({"maxTimeoutSeconds": True}, "maxTimeoutSeconds must be a whole number"),
            ({"maxTimeoutSeconds": -1}, "maxTimeoutSeconds must be a whole number"),
            ({"extra": "{}"}, "extra must be an object"),
            ({"extra": {"paymentFlow": "escrow"}}, "payment flow"),
            ({"extra": {"paymentFlow": ["upfront"]}}, "payment flow"),
            ({"maxAmountRequired": "1"}, "amount and maxAmountRequired differ"),
            ({"payTo": "0x\ud800" + "0" * 40}, "payTo holds half a surrogate pair"),
        ],
    )
    def test_an_unreadable_entry_is_left_out_and_described(self, changes: dict[str, Any], reason: str) -> None:
        both = {"x402Version": 2, "accepts": [ENTRY | changes, ENTRY]}
        required = read_payment_required(as_header(both), b"")
        assert required is not None
        assert [entry.raw for entry in required.accepts] == [ENTRY]
        assert len(required.unreadable) == 1
        assert required.unreadable[0].startswith(f"accepts[0]: {reason}")
        with pytest.raises(ChallengeError, match=reason):
            read_payment_required(as_header(challenge(**changes)), b"")

    @pytest.mark.parametrize("extra", [None, {}, {"paymentFlow": "upfront"}, {"paymentFlow": "authorization"}])
    def test_known_flows_are_read(self, extra: dict[str, Any] | None) -> None:
        required = read_payment_required(as_header(challenge(extra=extra)), b"")
        assert required is not None
        assert required.accepts[0].extra == (extra or {})

    def test_what_is_shown_of_a_stranger_s_text_is_short_ascii(self) -> None:
        with pytest.raises(ChallengeError) as caught:
            read_payment_required(as_header(challenge(amount="\n\x1b[31m" + "é" * 10_000)), b"")
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400

    def test_hundreds_of_entries_are_bounded(self) -> None:
        wrong: list[Any] = [1, None, "x", [], {}] * 40
        required = read_payment_required(None, json.dumps({"x402Version": 2, "accepts": [*wrong, ENTRY]}).encode())
        assert required is not None
        assert len(required.accepts) == 1
        assert len(required.unreadable) == 16
        assert required.unreadable[-1] == "and 185 more"
        many = {"x402Version": 2, "accepts": [ENTRY] * (MAX_ENTRIES + 10)}
        required = read_payment_required(None, json.dumps(many).encode())
        assert required is not None
        assert len(required.accepts) == MAX_ENTRIES
        assert required.unreadable == (f"only the first {MAX_ENTRIES} of {MAX_ENTRIES + 10} entries were read",)

    @pytest.mark.parametrize(("said", "seconds"), [(60, 60), (60.0, 60), ("60", 60), ("60.0", 60), (0, 0), (None, 0)])
    def test_whole_seconds_are_whole_seconds(self, said: object, seconds: int) -> None:
        required = read_payment_required(as_header(challenge(maxTimeoutSeconds=said)), b"")
        assert required is not None
        assert required.accepts[0].max_timeout_seconds == seconds

    @pytest.mark.parametrize("extensions", [{}, {"sign-in-with-x": {"info": {}}}])
    def test_an_empty_list_offers_nothing_and_passes(self, extensions: dict[str, Any]) -> None:
        said = {"x402Version": 2, "accepts": [], "extensions": extensions}
        header, body = as_header(said), json.dumps(said).encode()
        assert read_payment_required(header, body) is None
        for words in (offers_nothing(header, b""), offers_nothing(None, body)):
            assert ("sign-in-with-x" in words) == bool(extensions)
            assert words
        assert not offers_nothing("%%%", b"<html>")

    def test_two_lists_of_terms_that_differ_are_refused(self) -> None:
        body = json.dumps({"detail": challenge(), "other": challenge(amount="5")}).encode()
        with pytest.raises(ChallengeError, match="several lists of terms"):
            read_payment_required(None, body)

    @pytest.mark.parametrize(
        "head",
        [("PAYMENT-REQUIRED", "{}"), ("x-payment-required", "{}"), ("WWW-Authenticate", 'X402 requirements="{}"')],
    )
    def test_the_terms_are_found_under_each_of_their_names(self, head: tuple[str, str]) -> None:
        name, shape = head
        get = getter(("www-authenticate", "Bearer"), (name, shape.format(as_header(challenge()))))
        assert read_payment_required(challenge_header(get), b"") is not None


class TestHostileJson:
    def test_a_doubled_key_is_refused(self) -> None:
        text = json.dumps(challenge()).replace('"amount"', '"amount": "1", "amount"')
        with pytest.raises(ChallengeError, match='the key "amount" is there twice'):
            read_text(text)

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_numbers_that_are_none_are_refused(self, number: str) -> None:
        text = json.dumps(challenge(extra={"x": 0})).replace('"x": 0', f'"x": {number}')
        with pytest.raises(ChallengeError, match="not a finite number"):
            read_text(text)

    @pytest.mark.parametrize("depth", [65, 1000, 30_000])
    @pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
    def test_deep_nesting_is_no_challenge(self, depth: int, left: str, right: str) -> None:
        text = json.dumps(challenge(extra={"x": 0})).replace('"x": 0', f'"x": {left * depth}0{right * depth}')
        assert read_payment_required(None, text.encode()) is None
        assert read_text(text[:40_000]) is None

    @pytest.mark.parametrize("text", ["[" * 64 + "]" * 64, '["[[[[",' * 64, '{"a\\"[": ' * 64, "[]" * 100_000])
    def test_brackets_in_strings_and_side_by_side_are_not_deep(self, text: str) -> None:
        assert not is_too_deep(text.encode())

    @pytest.mark.parametrize("text", ['"' + '\\"[' * 300_000, '"' * 999_999, "[" * 99 + '"\\', '"\\'])
    def test_strings_that_do_not_end_cost_no_more(self, text: str) -> None:
        assert read_payment_required(None, text.encode()) is None

    def test_deep_nesting_does_not_crash_under_a_raised_recursion_limit(self) -> None:
        # Libraries do raise it, and then the parser's own guard comes after the end of the stack.
        program = """
import sys
from mitmproxy_x402.protocol.payment_required import read_payment_required
sys.setrecursionlimit(10_000_000)
print(read_payment_required(None, b'{"x402Version": 2, "accepts": ' + b"[" * 1_000_000))
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "None\n"

    def test_huge_integers_are_no_challenge(self) -> None:
        text = json.dumps(challenge(extra={"x": 0})).replace('"x": 0', f'"x": {"9" * 10_000}')
        assert read_text(text) is None

    def test_ten_megabytes_are_not_decoded(self) -> None:
        header = base64.b64encode(b"[" * 7_500_000).decode()
        with pytest.raises(ChallengeError, match=f"more than the {MAX_HEADER}"):
            read_payment_required(header, b"")
        assert read_payment_required(None, b" " * MAX_BODY + json.dumps(challenge()).encode()) is None
        assert read_payment_required(header, json.dumps(challenge()).encode()) is not None

    def test_an_echo_that_fits_no_header_is_refused(self) -> None:
        body = json.dumps(challenge() | {"extensions": {"x": "y" * MAX_HEADER}}).encode()
        required = read_payment_required(None, body)
        assert required is not None
        with pytest.raises(ChallengeError, match="the header that echoes it"):
            payment_header(PaymentPayload(2, required.accepts[0], {}, None, required.extensions))

    @pytest.mark.parametrize(
        "spoil",
        [str, lambda text: text.rstrip("="), lambda text: text.replace("+", "-").replace("/", "_"), " {} ".format],
    )
    def test_sloppy_base64_is_read(self, spoil: Any) -> None:
        header = as_header(challenge(extra={"x": "~~~???>>>é"}))
        required = read_payment_required(spoil(header), b"")
        assert required is not None

    @pytest.mark.parametrize("header", ["", "=", "é", "Zg", "a" * 5, "Z m 9 v", "\x00", "🜁"])
    def test_what_is_not_base64_json_is_no_challenge(self, header: str) -> None:
        assert read_payment_required(header, b"") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
odd_text = st.text(st.characters(codec=None), max_size=8)
entries = st.fixed_dictionaries(
    {},
    optional={
        key: st.just(ENTRY.get(key)) | json_values
        for key in (*ENTRY, "maxAmountRequired", "resource", "description", "unknown")
    },
)
challenges = st.fixed_dictionaries(
    {"accepts": st.lists(entries | json_values, max_size=4) | json_values},
    optional={"x402Version": st.sampled_from([1, 2]) | json_values, "extensions": json_values, "error": json_values},
)


@given(json_values | challenges, st.booleans())
def test_any_json_is_a_challenge_or_none_or_a_refusal(value: Any, in_header: bool) -> None:
    data = json.dumps(value).encode()
    try:
        required = (
            read_payment_required(base64.b64encode(data).decode(), b"")
            if in_header
            else read_payment_required(None, data)
        )
    except ChallengeError:
        return
    if required is None:
        return
    assert required.accepts
    for entry in required.accepts:
        assert type(entry.amount) is int
        assert 0 < entry.amount < 2**256
        assert entry.raw in value["accepts"]


@given(
    st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")), st.binary(max_size=200)
)
def test_any_bytes_are_no_challenge_or_a_refusal(header: str, body: bytes) -> None:
    assert read_payment_required(header, body) is None
    assert read_settlement(lambda _: header) is None


@given(
    st.dictionaries(st.text() | odd_text, json_values | odd_text, max_size=5),
    json_values | odd_text,
    json_values | odd_text,
)
def test_what_is_echoed_is_what_was_offered(more: dict[str, Any], resource: Any, extensions: Any) -> None:
    offered = {**more, **ENTRY}
    text = json.dumps({"x402Version": 2, "accepts": [offered], "resource": resource, "extensions": extensions})
    required = read_payment_required(None, text.encode())
    assert required is not None
    _, value = payment_header(PaymentPayload(2, required.accepts[0], {"p": 1}, required.resource, required.extensions))
    echoed = json.loads(base64.b64decode(value, validate=True))
    assert json.dumps(echoed["accepted"]) == json.dumps(offered)  # text: the order of keys, 1 and 1.0 and True
    assert json.dumps(echoed.get("resource")) == json.dumps(resource)
    assert json.dumps(echoed.get("extensions")) == json.dumps(extensions)


@pytest.mark.parametrize("value", ["{}", "1", "[]", '"a"', '{"a":[]}'])
@pytest.mark.parametrize("key", ["accepts", "more"])
def test_a_challenge_of_too_many_values_is_refused_in_words(value: str, key: str) -> None:
    terms = {"x402Version": 2, "accepts": [ENTRY]}
    said = json.dumps(terms)[:-1] + f', "{key}": [{",".join([value] * MAX_VALUES)}]}}'
    with pytest.raises(ChallengeError, match=f"more than the {MAX_VALUES} values that are read"):
        read_payment_required(None, said.encode())
    assert read_payment_required(None, f"[{said}]".replace("x402Version", "version").encode()) is None


def test_a_challenge_of_as_many_entries_as_are_read_has_room_for_their_schemas() -> None:
    entry = {**ENTRY, "description": "a, b, c", "outputSchema": {f"field{n}": {"type": "string"} for n in range(20)}}
    said = json.dumps({"x402Version": 2, "accepts": [entry] * MAX_ENTRIES}).encode()
    required = read_payment_required(None, said)
    assert required is not None
    assert len(required.accepts) == MAX_ENTRIES
