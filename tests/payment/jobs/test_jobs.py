"""Jobs paid on an EVM chain: what polls carry, and what may be signed for one. With real ledgers and wallets."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from mitmproxy_x402.ledger.interface import LedgerError, Outcome
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support import challenges
from support.paying.jobs import OTHER, TRANSACTION, Gateway, authorization, buy, refused


class TestOnEvm:
    def test_polls_carry_the_jobs_payment(self, gateway: Gateway) -> None:
        payment = gateway.submit(challenges.evm())
        for turn in range(1, 4):
            poll = gateway.poll()
            assert poll.reuse_retained()
            assert poll.headers() == tuple((name.encode(), value.encode()) for name, value in payment.headers)
            poll.sending()
            poll.finish(Outcome("unknown", status=202))
            assert gateway.rows() == [("unknown", 1 + turn, None, 1)]
        poll = gateway.poll()
        poll.reuse_retained()
        poll.sending()
        poll.finish(Outcome("settled", TRANSACTION, 200))
        assert gateway.rows() == [("settled", 5, None, 1)]
        assert (poll.state, poll.transaction) == ("settled", TRANSACTION)

    def test_a_402_is_answered_with_another_signature_of_the_same_payment(self, gateway: Gateway) -> None:
        payment = gateway.submit(challenges.evm())
        gateway.now += 400
        poll = gateway.poll()
        assert not poll.reuse_retained()  # the first one has expired
        renewed = buy(poll, challenges.evm(maxTimeoutSeconds=200))
        first, second = authorization(payment), authorization(renewed)
        assert {key: second[key] for key in ("from", "to", "value", "nonce")} == {
            key: first[key] for key in ("from", "to", "value", "nonce")
        }
        assert int(second["validBefore"]) == gateway.now + 200
        poll.sending()
        assert gateway.rows() == [("unknown", 2, None, 1)]
        assert gateway.payer.ledger.spent(gateway.payer.settings.budgets[0]) == 13081
        assert gateway.poll().reuse_retained()

    def test_so_after_a_restart(self, gateway: Gateway) -> None:
        payment = gateway.submit(challenges.evm())
        gateway.start()
        poll = gateway.poll()
        assert not poll.reuse_retained()
        assert authorization(buy(poll, challenges.evm()))["nonce"] == authorization(payment)["nonce"]
        poll.sending()
        poll.finish(Outcome("settled", TRANSACTION, 200))
        assert gateway.rows() == [("settled", 2, None, 1)]

    def test_for_less_but_never_for_more_or_for_others(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        poll = gateway.poll()
        for other in (
            {"amount": "13082"},
            {"payTo": OTHER},
            {"network": "eip155:8453", "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "extra": {}},
            {"network": "eip155:1"},
            {"asset": OTHER},
        ):
            assert refused(poll, challenges.evm(**{"amount": "13081", **other})) == "job_not_payable"
        both = challenges.evm("1")
        both["accepts"] = [challenges.evm("99999")["accepts"][0], *both["accepts"]]
        assert authorization(buy(poll, both))["value"] == "1"
        assert gateway.rows() == [("unknown", 1, None, 1)]

    def test_the_limits_of_today_bind(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        for option, code in (
            ({"max_request": "0.01"}, "over_request_limit"),
            ({"allow_pay_to": OTHER}, "pay_to_not_allowed"),
            ({"allow_hosts": "other.test"}, "upstream_not_allowed"),
            ({"dry_run": "true"}, "dry_run"),
        ):
            gateway.start(**option)
            assert refused(gateway.poll(), challenges.evm()) == code

    def test_another_wallet_pays_nothing(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        other = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": "0x" + "22" * 32}, gateway.home))
        for wallets in (other, Wallets()):
            gateway.start(wallets)
            assert refused(gateway.poll(), challenges.evm()) == "no_wallet"

    @pytest.mark.parametrize("code", ["", "PAYMENT_INVALID", "PAYMENT_UNDERPAID", "SETTLEMENT_FAILED"])
    def test_a_rejection_is_signed_anew_once(self, gateway: Gateway, code: str) -> None:
        payment = gateway.submit(challenges.evm())
        poll = gateway.poll()
        poll.reuse_retained()
        poll.sending()
        assert poll.rejected(code, 402)
        assert authorization(buy(poll, challenges.evm()))["nonce"] == authorization(payment)["nonce"]
        poll.sending()
        assert not poll.rejected(code, 402)
        poll.finish(Outcome("unknown", status=402))
        assert gateway.rows() == [("unknown", 3, None, 1)]

    def test_a_spent_one_is_not(self, gateway: Gateway) -> None:
        gateway.submit(challenges.evm())
        poll = gateway.poll()
        poll.reuse_retained()
        poll.sending()
        assert not poll.rejected("PAYMENT_REPLAY", 402)

    def test_what_does_not_count_is_not_sent(self, gateway: Gateway) -> None:
        payment = gateway.submit(challenges.evm())
        with closing(sqlite3.connect(gateway.payer.ledger.name)) as file, file:
            file.execute("UPDATE payment SET state = 'rejected'")
        poll = gateway.poll()
        poll.reuse_retained()
        with pytest.raises(LedgerError):
            poll.sending()
        assert payment.row == 1
