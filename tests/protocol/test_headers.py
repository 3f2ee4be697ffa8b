"""The headers of payments and settlements, in both versions, there and back."""

from __future__ import annotations

from typing import Any

import pytest

from mitmproxy_x402.errors import PaymentHeaderError
from mitmproxy_x402.protocol.headers import (
    payment_header,
    payment_required_header,
    read_payment,
    read_settlement,
    settlement_header,
)
from mitmproxy_x402.protocol.messages import PaymentPayload, SettlementResponse
from mitmproxy_x402.protocol.payment_required import (
    MAX_HEADER,
    read_payment_required,
)
from support.paying.offers import ENTRY, as_header, challenge, getter


class TestPayment:
    def test_round_trip_version_2(self) -> None:
        required = read_payment_required(payment_required_header(challenge() | {"resource": {"url": "u"}}), b"")
        assert required is not None
        sent = PaymentPayload(2, required.accepts[0], {"signature": "0x"}, required.resource, {"bazaar": {}})
        assert read_payment(getter(payment_header(sent))) == sent

    def test_round_trip_version_1(self) -> None:
        header = as_header({"x402Version": 1, "scheme": "exact", "network": "base", "payload": {"a": 1}})
        payment = read_payment(getter(("x-payment", header)))
        assert payment is not None
        assert (payment.x402_version, payment.accepted.scheme, payment.accepted.network) == (1, "exact", "base")
        assert (payment.accepted.amount, payment.payload) == (0, {"a": 1})
        assert read_payment(getter(payment_header(payment))) == payment

    def test_absent(self) -> None:
        assert read_payment(lambda _: None) is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PAYMENT-SIGNATURE", ""),
            ("PAYMENT-SIGNATURE", "%%%"),
            ("PAYMENT-SIGNATURE", as_header(challenge()).rstrip("=") + "-_"),
            ("PAYMENT-SIGNATURE", as_header([])),
            ("PAYMENT-SIGNATURE", as_header({"x402Version": 1, "accepted": ENTRY, "payload": {}})),
            ("PAYMENT-SIGNATURE", as_header({"x402Version": 2, "payload": {}})),
            ("PAYMENT-SIGNATURE", as_header({"x402Version": 2, "accepted": ENTRY, "payload": "x"})),
            ("PAYMENT-SIGNATURE", as_header({"x402Version": 2, "accepted": ENTRY | {"amount": 1}, "payload": {}})),
            ("PAYMENT-SIGNATURE", "A" * (MAX_HEADER + 4)),
            ("X-PAYMENT", as_header({"x402Version": 2, "scheme": "exact", "network": "base", "payload": {}})),
            ("X-PAYMENT", as_header({"x402Version": 1, "scheme": "exact", "payload": {}})),
        ],
    )
    def test_unreadable(self, name: str, value: str) -> None:
        with pytest.raises(PaymentHeaderError, match=f"{name} is unreadable"):
            read_payment(getter((name, value)))

    def test_the_payload_stays_out_of_the_repr(self) -> None:
        required = read_payment_required(as_header(challenge()), b"")
        assert required is not None
        assert "hunter2" not in repr(PaymentPayload(2, required.accepts[0], {"signature": "hunter2"}))


EVM_ID = "0x" + "ab" * 32
SVM_ID = "5" * 88


class TestSettlement:
    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("transaction", [EVM_ID, SVM_ID, ""])
    def test_round_trip(self, version: Any, transaction: str) -> None:
        told = SettlementResponse(bool(transaction), transaction, "base", "0xpayer", "" if transaction else "no")
        name, value = settlement_header(version, told)
        assert name == ("X-PAYMENT-RESPONSE" if version == 1 else "PAYMENT-RESPONSE")
        assert read_settlement(getter((name, value))) == told

    def test_signature_is_an_alias(self) -> None:
        told = read_settlement(getter(("PAYMENT-RESPONSE", as_header({"success": True, "signature": SVM_ID}))))
        assert told == SettlementResponse(True, SVM_ID, "", "")

    def test_the_receipt_gives_the_id(self) -> None:
        said = ("PAYMENT-RESPONSE", as_header({"success": True, "network": "base"}))
        assert read_settlement(getter(said, ("x-payment-receipt", EVM_ID)), "X-Payment-Receipt") == SettlementResponse(
            True, EVM_ID, "base", ""
        )
        assert read_settlement(getter(("x-payment-receipt", EVM_ID)), "X-Payment-Receipt") == SettlementResponse(
            True, EVM_ID, "", ""
        )
        assert read_settlement(getter(("x-payment-receipt", "pending")), "X-Payment-Receipt") is None
        assert read_settlement(getter(("x-payment-receipt", EVM_ID))) is None

    @pytest.mark.parametrize("transaction", ["pending", "0x", "0x12", None, 1, EVM_ID + "\n", "0" * 70, ["x"]])
    def test_only_an_id_is_an_id(self, transaction: object) -> None:
        said = as_header({"success": True, "transaction": transaction})
        told = read_settlement(getter(("PAYMENT-RESPONSE", said)))
        assert told is not None
        assert told.transaction == ""

    @pytest.mark.parametrize("success", ["true", 1, None, {}])
    def test_only_true_is_success(self, success: object) -> None:
        told = read_settlement(getter(("PAYMENT-RESPONSE", as_header({"success": success}))))
        assert told is not None
        assert told.success is False

    @pytest.mark.parametrize("value", ["", "%%%", as_header([]), as_header("x"), "A" * (MAX_HEADER + 4)])
    def test_absent_or_unreadable(self, value: str) -> None:
        assert read_settlement(lambda _: None) is None
        assert read_settlement(getter(("PAYMENT-RESPONSE", value))) is None
