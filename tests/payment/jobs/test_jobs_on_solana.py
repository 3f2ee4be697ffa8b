"""Jobs paid on Solana: polls carry a proof, and a bill is answered with the payment until that is dead."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.errors import X402Error
from mitmproxy_x402.ledger.interface import Outcome
from mitmproxy_x402.payment.polls import Poll
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from support import challenges
from support.paying.jobs import DEAD, SUBMIT, Gateway, buy, refused, required, svm


class TestOnSolana:
    def send(self, poll: Poll, **outcome: Any) -> None:
        poll.sending()
        poll.finish(Outcome(**{"state": "unknown", "status": 200, **outcome}))

    def bill(self, gateway: Gateway) -> Poll:
        """A poll whose proof was answered by a 402."""
        poll = gateway.poll()
        assert poll.reuse_retained()
        poll.sending()
        assert poll.rejected("", 402)
        return poll

    def test_polls_carry_a_fresh_proof_and_no_payment(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        seen = set()
        for _ in range(3):
            gateway.now += 10
            poll = gateway.poll()
            assert poll.reuse_retained()
            headers = dict(poll.headers())
            assert headers[b"x-poll-timestamp"] == b"%d" % gateway.now
            seen.add(headers[b"x-poll-signature"])
            self.send(poll)
            assert not poll.sent
        assert len(seen) == 3
        assert gateway.rows() == [("unknown", 1, None, 1)]

    def test_so_after_a_restart(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.start()
        assert gateway.poll().reuse_retained()

    def test_nobody_elses_proof(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        assert gateway.poll(**{"x-poll-signature": "the client's own"}).headers() == ()
        for wallets in (
            Wallets(),
            load_wallets(WalletSources({"SOLANA_WALLET_KEY": "[" + "3," * 31 + "3]"}, gateway.home)),
        ):
            gateway.start(wallets)
            poll = gateway.poll()
            assert not poll.reuse_retained()
            assert refused(poll, svm()) == "no_wallet"

    def test_a_bill_is_answered_with_the_payment_itself_until_that_is_dead(self, gateway: Gateway) -> None:
        payment = gateway.submit(svm())
        gateway.now += DEAD - 1
        for turn in range(2):
            poll = self.bill(gateway)
            assert buy(poll, svm()) is payment
            assert poll.headers()[0][1] == payment.header[1].encode()
            poll.sending()
            poll.finish(Outcome("unknown") if turn == 0 else Outcome("settled", "5" * 88, 200))
        assert gateway.rows() == [("settled", 3, None, 1)]

    def test_then_with_one_new_payment_and_no_third(self, gateway: Gateway) -> None:
        first = gateway.submit(svm())
        gateway.now += DEAD
        poll = self.bill(gateway)
        second = buy(poll, svm())
        assert second.reference != first.reference
        self.send(poll, state="unknown", status=500)
        assert gateway.rows() == [("unknown", 1, None, 1), ("unknown", 1, 1, 1)]
        assert gateway.payer.ledger.spent(gateway.payer.settings.budgets[0]) == 2000
        again = self.bill(gateway)
        assert buy(again, svm()) is second
        again.sending()
        again.finish(Outcome("unknown"), complete=False)
        gateway.now += DEAD
        assert refused(self.bill(gateway), svm()) == "job_already_paid"
        gateway.start()
        assert refused(self.bill(gateway), svm()) == "job_already_paid"
        told = gateway.poll()
        told.reuse_retained()
        self.send(told, state="settled", transaction="5" * 88)
        assert gateway.rows() == [("unknown", 1, None, 1), ("settled", 2, 1, 1)]

    def test_a_payment_that_the_gateway_calls_dead_is_replaced_at_once(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        poll = self.bill(gateway)
        buy(poll, svm())
        poll.sending()
        assert poll.rejected("PAYMENT_BLOCKHASH_STALE", 402)
        buy(poll, svm())
        poll.sending()
        assert gateway.rows() == [("unknown", 2, None, 1), ("sent", 1, 1, 1)]
        poll.finish(Outcome("unknown"), complete=False)
        again = self.bill(gateway)
        buy(again, svm())
        again.sending()
        assert again.rejected("PAYMENT_BLOCKHASH_STALE", 402)
        assert refused(again, svm()) == "job_already_paid"

    def test_after_a_restart_not_before_the_first_is_dead(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.start()
        gateway.now += DEAD - 1
        assert refused(self.bill(gateway), svm()) == "job_payment_pending"
        gateway.now += 1
        buy(self.bill(gateway), svm())
        assert [state for state, *_ in gateway.rows()] == ["unknown", "reserved"]

    def test_a_paid_job_gets_no_more(self, gateway: Gateway) -> None:
        payment = gateway.submit(svm())
        gateway.payer.ledger.finish(payment.row, Outcome("settled", "5" * 88))
        for _ in range(2):
            gateway.now += DEAD
            assert refused(self.bill(gateway), svm()) == "job_already_paid"

    def test_what_was_never_broadcast_is_signed_anew_once(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.now += DEAD
        poll = self.bill(gateway)
        buy(poll, svm())
        poll.sending()
        assert poll.rejected("PAYMENT_BLOCKHASH_STALE", 402)
        buy(poll, svm())
        poll.sending()
        assert not poll.rejected("PAYMENT_BLOCKHASH_STALE", 402)
        assert [state for state, *_ in gateway.rows()] == ["unknown", "rejected", "rejected"]
        buy(self.bill(gateway), svm())

    def test_a_rejection_of_the_first_payment_proves_nothing(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        poll = self.bill(gateway)
        buy(poll, svm())
        poll.sending()
        assert not poll.rejected("PAYMENT_UNDERPAID", 402)
        poll.finish(Outcome("unknown", status=402))
        assert gateway.rows() == [("unknown", 2, None, 1)]

    def test_terms_limits_and_budgets_bind(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.now += DEAD
        assert refused(self.bill(gateway), svm("1001")) == "job_not_payable"
        assert (
            refused(self.bill(gateway), svm(payTo="93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX")) == "job_not_payable"
        )
        assert refused(self.bill(gateway), challenges.evm("1000")) == "job_not_payable"
        for option, code in (("budget", "over_budget"), ("max_request", "over_request_limit")):
            gateway.start(**{option: "0.0015" if option == "budget" else "0.0005"})
            assert refused(self.bill(gateway), svm()) == code
        assert gateway.rows() == [("unknown", 1, None, 1)]

    def test_polls_side_by_side_pay_once(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.now += DEAD
        polls = [self.bill(gateway) for _ in range(3)]

        async def together() -> list[Payment]:
            return await asyncio.gather(*(poll.buy(required(svm())) for poll in polls))

        payments = asyncio.run(together())
        assert len({payment.reference for payment in payments}) == 1
        for poll in polls:
            poll.sending()
        assert gateway.rows() == [("unknown", 1, None, 1), ("unknown", 3, 1, 1)]

    def test_what_was_not_sent_is_given_back(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        gateway.now += DEAD
        poll = self.bill(gateway)
        buy(poll, svm())
        poll.finish(Outcome("unknown"), complete=False)
        assert [state for state, *_ in gateway.rows()] == ["unknown", "released"]
        buy(self.bill(gateway), svm())

    def test_a_402_without_a_bill_is_the_gateways_last_word(self, gateway: Gateway) -> None:
        gateway.submit(svm())
        poll = self.bill(gateway)
        assert not poll.rejected("", 402)
        other = gateway.poll()
        other.reuse_retained()
        assert not other.rejected("PAYMENT_INVALID", 401)


def test_limits_for_the_jobs_model_and_path_bind(tmp_path: Path) -> None:
    (tmp_path / "x402.toml").write_text(f'[[limit]]\npath = "{SUBMIT}"\nmodel = "m"\nmax_request = "0.000999"\n')
    gateway = Gateway(tmp_path)
    with pytest.raises(X402Error, match="for model m and path"):
        gateway.submit(svm())
    (tmp_path / "x402.toml").unlink()
    gateway.start()
    gateway.submit(svm())
    (tmp_path / "x402.toml").write_text(f'[[limit]]\npath = "{SUBMIT}"\nmodel = "m"\nmax_request = "0.000999"\n')
    gateway.start()
    gateway.now += DEAD
    assert refused(gateway.poll(), svm()) == "over_request_limit"
    gateway.payer.ledger.close()
