"""SQL statements that change and read the rows of the SQLite ledger, by the transitions of `ledger.interface`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..interface import (
    CHAIN_TRANSITIONS,
    CHARGES,
    CHARGES_ROWS,
    CHARGES_SECONDS,
    LAPSE_SECONDS,
    PASSING,
    REPLACEABLE,
    TRANSITIONS,
    UNPROVEN,
    State,
    Validity,
    sources,
)
from ..moments import milliseconds_at_least

EARLIEST_MS = 1_767_225_600_000
"""The beginning of 2026; a clock that is earlier was never set, and says nothing."""
REPLACED = f"({', '.join(repr(state) for state in REPLACEABLE)})"
ENDING = f"({', '.join(repr(state) for state in PASSING)})"


def _may_become(target: State, table: Mapping[State, tuple[State, ...]] = TRANSITIONS) -> str:
    """SQL that is true for rows that may become `target`. At most two values in a list: for more, SQLite
    builds a table each time.
    """
    states = [f"'{state}'" for state in sources(target, table)]
    pairs = (", ".join(states[place : place + 2]) for place in range(0, len(states), 2))
    return f"({' OR '.join(f'state IN ({pair})' for pair in pairs) or 'FALSE'})"


INSERT = """
    INSERT INTO payment (time, counted_at, process, method, host, path, model, network, asset, pay_to, amount,
                         micro_usd, cumulative, state, replaces, job, scheme, wallet, nonce, client,
                         limit_path, unclear, exact_micro_usd)
    VALUES (?, ?, ?, ?, ?, ?6, ?, ?, ?, ?, ?, ?, ?, 'reserved', ?, NULLIF(?, ''), ?, ?, ?, NULLIF(?, ''),
            NULLIF(NULLIF(?, ''), ?6), ?, ?)"""
# SQLite uses the index of open rows only for a condition in the same words.
LAPSED = f"state IN ('reserved', 'sent') AND state = 'reserved' AND counted_at < {{now}} - {LAPSE_SECONDS * 1000}"
DUE = "free_at <= {now}"
LAPSE = f"UPDATE payment SET state = 'released' WHERE {LAPSED.format(now='?')} AND process = ?"
# Rows of other processes, which are released only if the process has ended.
LAPSED_ELSEWHERE = f"SELECT DISTINCT process FROM payment WHERE {LAPSED.format(now='?')} AND process <> ?"
END = f"""
    UPDATE payment SET free_at = NULL, state = CASE WHEN state IN {ENDING} THEN 'expired' ELSE state END,
        uncounted = CASE WHEN state = 'settled' AND chain_state IS NULL
                         THEN MAX(micro_usd - COALESCE(charged_micro_usd, micro_usd), 0) ELSE uncounted END
    WHERE {DUE.format(now="?")}"""
# The ledger's time, the total ever reserved, and whether rows have lapsed or expired.
LAST = f"""
    WITH last AS (SELECT MAX(counted_at, ?) AS now, cumulative FROM payment ORDER BY id DESC LIMIT 1)
    SELECT now, cumulative, EXISTS (SELECT 1 FROM payment WHERE {LAPSED.format(now="now")}),
           EXISTS (SELECT 1 FROM payment WHERE {DUE.format(now="now")})
    FROM last"""
_LEAVES = """sends = 1, reference = :reference, valid_until = :valid_until, valid_before = :valid_before,
        blockhash = :blockhash, last_height = :last_height, dead_at = MAX(counted_at, :sent_at) + :dies_in"""
SENT = f"UPDATE payment SET state = 'sent', {_LEAVES} WHERE id = :row AND {_may_become('sent')}"


def sent(row: int, reference: str, valid_until: float, validity: Validity, now: int) -> dict[str, Any]:
    """The parameters of SENT for a payment that leaves at `now`, the ledger's time."""
    return {
        "row": row,
        "reference": reference,
        "valid_until": int(valid_until),
        "valid_before": validity.valid_before,
        "blockhash": validity.blockhash or None,
        "last_height": validity.last_height,
        "sent_at": now,
        "dies_in": milliseconds_at_least(validity.dies_in),
    }


def _by_its_clock(wall: str) -> str:
    """SQL for the ledger's time at `wall`, Unix milliseconds, by the clock at a row's reservation; 0: it was never set.

    By that clock a payment that is signed again may live longer than by the present one, which may be fast.
    """
    return f"CASE WHEN time > {EARLIEST_MS} THEN COALESCE({wall} - time + counted_at, 0) ELSE 0 END"


RESENT = f"""
    UPDATE payment SET state = CASE state WHEN 'sent' THEN 'unknown' ELSE state END, sends = sends + 1,
        valid_before = MAX(COALESCE(valid_before, ?1), COALESCE(?1, valid_before)),
        dead_at = MAX(COALESCE(dead_at, ?2), COALESCE(?2, dead_at), {_by_its_clock("?1 * 1000")})
    WHERE id = ?3 AND state IN ('sent', 'unknown', 'settled')"""
RENEW = f"""
    UPDATE payment SET dead_at = MAX(COALESCE(dead_at, ?1), ?1, {_by_its_clock("?2")})
    WHERE id = ?3 AND state IN ('sent', 'unknown', 'settled')"""
NOT_RENEWED = "UPDATE payment SET dead_at = ? WHERE id = ?"
# By how much the wall clock was behind the ledger's time at the last payment.
LAST_CLOCK = "SELECT counted_at - time FROM payment ORDER BY id DESC LIMIT 1"
# For a wall clock that was set back: signatures that are valid by it count again until their end, whatever was freed.
ALIVE = f"""
    UPDATE payment SET dead_at = MAX(dead_at, valid_before * 1000 + :behind), uncounted = 0,
        state = CASE state WHEN 'expired' THEN 'rejected' ELSE state END,
        free_at = CASE WHEN state IN {ENDING} OR state = 'expired' OR charged_micro_usd IS NOT NULL
                       THEN MAX(COALESCE(free_at, 0), dead_at, valid_before * 1000 + :behind) ELSE free_at END
    WHERE counted_at > :since AND valid_before * 1000 > :wall AND dead_at IS NOT NULL AND chain_state IS NULL
        AND state NOT IN ('reserved', 'released')"""
RELEASE = f"UPDATE payment SET state = 'released' WHERE id = ? AND {_may_become('released')}"
# For the open rows of processes that have ended.
OPEN = "SELECT DISTINCT process FROM payment WHERE state IN ('reserved', 'sent')"
RESERVED = "SELECT id FROM payment WHERE state = 'reserved' AND process = ?"
UNHEARD_OF = """
    UPDATE payment SET state = 'unknown', sends = MAX(sends, 1),
        reference = COALESCE(reference, CASE WHEN network LIKE 'eip155:%' THEN nonce END)
    WHERE state IN ('reserved', 'sent') AND process = ?"""
# When it expires by itself: a rejection, or the uncharged rest of a ceiling, with its signature.
ENDS = {
    **dict.fromkeys(PASSING, "CASE WHEN dead_at IS NULL OR :until > dead_at THEN :until ELSE dead_at END"),
    "settled": "CASE WHEN :charged_micro_usd IS NOT NULL AND chain_state IS NULL THEN dead_at END",
}
FINISH = {
    state: f"""
    UPDATE payment SET state = CASE WHEN {_may_become(state)} THEN '{state}' ELSE state END,
                       transaction_id = COALESCE(NULLIF(:transaction, ''), transaction_id),
                       status = :status, code = NULLIF(:code, ''), request_id = NULLIF(:request_id, ''),
                       first_byte_ms = :first_byte, total_ms = :total, bytes = :size,
                       charged = COALESCE(:charged, charged),
                       charged_micro_usd = COALESCE(:charged_micro_usd, charged_micro_usd),
                       free_at = CASE WHEN {_may_become(state)} THEN {ENDS.get(state, "free_at")}
                                      ELSE free_at END
    WHERE id = :row AND sends > 0"""
    for state in TRANSITIONS
}
# Both at once, for an exact payment that is settled before the table knows that it was sent.
SENT_AND_SETTLED = f"""
    UPDATE payment SET state = 'settled', {_LEAVES}, transaction_id = NULLIF(:transaction, ''), status = :status,
        code = NULLIF(:code, ''), request_id = NULLIF(:request_id, ''), first_byte_ms = :first_byte, total_ms = :total,
        bytes = :size
    WHERE id = :row AND state = 'reserved'"""
CHAIN: dict[str, str] = {
    "moved": f"""
    UPDATE payment SET state = 'settled', chain_state = 'moved', chain_transaction = NULLIF(:transaction, ''),
        chain_time = :time, chain_amount = :amount, finding = NULLIF(:finding, ''), free_at = NULL,
        uncounted = COALESCE(micro_usd - :micro_usd, uncounted)
    WHERE id = :row AND {_may_become("settled", CHAIN_TRANSITIONS)}""",
    "dead": f"""
    UPDATE payment SET state = 'expired', chain_state = 'dead', finding = NULLIF(:finding, ''), free_at = NULL
    WHERE id = :row AND {_may_become("expired", CHAIN_TRANSITIONS)} AND chain_state IS NOT 'moved'
        AND sends = COALESCE(:sends, sends)""",
    # The nonce is used, so nothing is freed by itself any more.
    "used": """
    UPDATE payment SET free_at = NULL, uncounted = 0, state = CASE state WHEN 'expired' THEN 'rejected' ELSE state END
    WHERE id = :row AND chain_state IS NULL AND state NOT IN ('reserved', 'released')
        AND (free_at IS NOT NULL OR uncounted <> 0 OR state = 'expired')""",
}
# Two subqueries, so that each uses its own index; the first parameter is the ledger's time.
PENDING = f"""
    SELECT COALESCE(SUM(micro_usd), 0),
           COALESCE(SUM(CASE WHEN scheme IN ('permit2', 'upto') THEN micro_usd ELSE 0 END), 0),
           COALESCE(GROUP_CONCAT(CASE WHEN scheme IN ('permit2', 'upto') THEN id END, ' '), '')
    FROM payment
    WHERE id IN (SELECT id FROM payment WHERE state IN ('reserved', 'sent')
                 UNION SELECT id FROM payment WHERE ({UNPROVEN}))
        AND state IN ('reserved', 'sent', 'unknown', 'rejected', 'superseded') AND (dead_at IS NULL OR dead_at > ?)
        AND wallet = ? AND network = ? AND asset = ? AND id <> ? AND scheme <> 'gateway'"""
CHARGED = f"""
    SELECT micro_usd, CASE chain_state WHEN 'moved' THEN micro_usd - uncounted ELSE charged_micro_usd END
    FROM payment
    WHERE id > (SELECT MAX(id) FROM payment) - {CHARGES_ROWS} AND scheme = 'upto' AND path = ? AND model IS ?
        AND counted_at > (SELECT counted_at FROM payment ORDER BY id DESC LIMIT 1) - {CHARGES_SECONDS * 1000}
        AND (chain_state = 'moved' OR charged_micro_usd IS NOT NULL)
    ORDER BY id DESC LIMIT {CHARGES}"""
JOB = "UPDATE payment SET job = ?, payer = ? WHERE id = ?"
FOLLOWING = f"SELECT MAX(id) FROM payment WHERE job = ? AND replaces = ? AND payer IS NULL AND state NOT IN {REPLACED}"
SUBMITTED = """
    SELECT id, method, path, model, network, asset, pay_to, amount, state, reference, payer, counted_at, valid_until,
           COALESCE(scheme, 'exact')
    FROM payment WHERE job = ? AND payer IS NOT NULL ORDER BY id DESC LIMIT 1"""
