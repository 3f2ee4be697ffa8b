"""Version 6 of the ledger's tables in PostgreSQL: a clock that is set back leaves counted what is still valid by it.

A signature is valid by the clock of the proxy that made it, and the ledger goes by the database's. Where either was
fast, the signature lives on after the ledger has counted it to its end.
"""

from __future__ import annotations

SQL = r"""
-- The end of an EVM signature by the database's clock; null where that was never set (before 2026).
CREATE FUNCTION x402_valid_until(valid_before bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN x402_now() > 1767225600000 THEN valid_before * 1000 END
$$;

-- Where the database's clock was set back since the last row, by a minute or more, count what is valid by it again,
-- whatever was freed before. The ledger's time stands still until the clock has caught up with it, so no signature that
-- was made by a clock as fast is valid beyond that.
CREATE FUNCTION x402_keep_alive() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    wall bigint := x402_now();
    last_ms bigint;
    last_wall bigint;
BEGIN
    SELECT counted_at, time INTO last_ms, last_wall FROM x402_payment ORDER BY id DESC LIMIT 1;
    IF NOT FOUND OR wall >= last_wall - 60000 OR wall <= 1767225600000 THEN
        RETURN;
    END IF;
    UPDATE x402_payment SET
        dead_at = greatest(dead_at, last_ms + 60000, valid_before * 1000 + 60000),
        uncounted = 0,
        state = CASE state WHEN 'expired' THEN 'rejected' ELSE state END,
        free_at = CASE WHEN state IN ('rejected', 'superseded', 'expired') OR charged_micro_usd IS NOT NULL
            THEN greatest(free_at, dead_at, last_ms + 60000, valid_before * 1000 + 60000) ELSE free_at END
        WHERE id IN (
            SELECT id FROM x402_payment
            WHERE counted_at > last_ms - 1382400000 AND valid_before * 1000 > wall AND dead_at IS NOT NULL
                AND chain_state IS NULL AND state NOT IN ('reserved', 'released')
            ORDER BY id FOR UPDATE);
END
$$;

-- As before, after that. It changes payments, so it comes before the ledger's lock.
ALTER FUNCTION x402_reserve(
    text, text, text, text, text, text, text, text, text, bigint, bigint, text, text, text, text, text, text, integer,
    bigint, bigint, bigint[], bigint[], text[], text[]
) RENAME TO x402_reserve_by_time;
CREATE FUNCTION x402_reserve(
    its_process text, its_method text, its_host text, its_path text, its_model text, its_network text,
    its_asset text, its_pay_to text, its_amount text, its_micro bigint, its_replaces bigint, its_job text,
    its_scheme text, its_wallet text, its_nonce text, its_client text, its_limit_path text, its_unclear integer,
    its_exact bigint,
    lapse_ms bigint, limits bigint[], periods_ms bigint[], models text[], paths text[],
    OUT row_id bigint, OUT row_session integer, OUT full_number integer, OUT spent bigint, OUT job_paid boolean
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM x402_keep_alive();
    SELECT reserved.row_id, reserved.row_session, reserved.full_number, reserved.spent, reserved.job_paid
        INTO row_id, row_session, full_number, spent, job_paid
        FROM x402_reserve_by_time(
            its_process, its_method, its_host, its_path, its_model, its_network, its_asset, its_pay_to, its_amount,
            its_micro, its_replaces, its_job, its_scheme, its_wallet, its_nonce, its_client, its_limit_path,
            its_unclear, its_exact, lapse_ms, limits, periods_ms, models, paths) AS reserved;
END
$$;
"""
