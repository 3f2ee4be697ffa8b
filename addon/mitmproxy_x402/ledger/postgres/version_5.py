"""Version 5 of the ledger's tables in PostgreSQL: on watched networks only the chain's answer frees amounts.

A payment that is signed again needs room in the budgets.

A session lists its watched networks in the setting `x402.watched`, with a blank before and after each. Sessions of
proxies of the previous version do not set it, and count as before.
"""

from __future__ import annotations

SQL = r"""
CREATE FUNCTION x402_is_watched(its x402_payment) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(position(' ' || its.network || ' ' IN current_setting('x402.watched', true)) > 0
        AND its.scheme <> 'gateway' AND its.wallet <> '', false)
$$;

-- As before, but for signatures of Circle Gateway that live up to two weeks; and whether each is on a watched network.
DROP FUNCTION x402_outliving;
CREATE FUNCTION x402_outliving(now_ms bigint, period_ms bigint, models text, paths text)
RETURNS TABLE (lives_until bigint, counts bigint, given_back bigint, watched boolean) LANGUAGE sql STABLE AS $$
    SELECT life.lives_until,
        x402_counts(state, micro_usd, uncounted) - due.part,
        CASE WHEN chain_state IS NOT NULL THEN 0 WHEN state = 'expired' THEN micro_usd ELSE uncounted END + due.part,
        x402_is_watched(its)
    FROM x402_payment AS its
    CROSS JOIN LATERAL (SELECT coalesce(
        CASE chain_state WHEN 'moved' THEN counted_at + chain_time * 1000 - its.time END, dead_at,
        counted_at + CASE scheme WHEN 'gateway' THEN 691200000 ELSE 90000000 END) AS lives_until) AS life
    CROSS JOIN LATERAL (
        SELECT CASE WHEN free_at <= now_ms THEN x402_ends_with(its) ELSE 0 END AS part) AS due
    WHERE (dead_at - counted_at > 1500000 OR (dead_at IS NULL AND state = 'unknown'))
        AND counted_at <= now_ms - period_ms AND counted_at > now_ms - period_ms - 1382400000
        AND life.lives_until > now_ms - period_ms
        AND x402_covers(models, paths, x402_limit_model(its), x402_limit_path(its))
$$;

-- What was given back without the chain's word: on watched networks, and on others.
CREATE FUNCTION x402_given_back(now_ms bigint, period_ms bigint, models text, paths text,
    OUT awaited bigint, OUT others bigint) LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(given_back) FILTER (WHERE watched), 0)::bigint,
        coalesce(sum(given_back) FILTER (WHERE NOT watched), 0)::bigint
    FROM (
        SELECT micro_usd AS given_back, x402_is_watched(its) AS watched FROM x402_payment AS its
            WHERE state = 'expired' AND chain_state IS NULL
            AND counted_at > coalesce(now_ms - period_ms, 0)
            AND x402_covers(models, paths, x402_limit_model(its), x402_limit_path(its))
        UNION ALL
        SELECT uncounted, x402_is_watched(its) FROM x402_payment AS its
            WHERE uncounted <> 0 AND chain_state IS NULL AND state <> 'expired'
            AND counted_at > coalesce(now_ms - period_ms, 0)
            AND x402_covers(models, paths, x402_limit_model(its), x402_limit_path(its))
        UNION ALL  -- what is about to be
        SELECT x402_ends_with(its), x402_is_watched(its) FROM x402_payment AS its WHERE free_at <= now_ms
            AND counted_at > coalesce(now_ms - period_ms, 0)
            AND x402_covers(models, paths, x402_limit_model(its), x402_limit_path(its))
        UNION ALL
        SELECT given_back, watched FROM x402_outliving(now_ms, period_ms, models, paths)
    ) AS amounts
$$;

-- What counts besides the sums: what was given back without the chain's word, except what is forgiven (up to the size
-- of the budget, and not on watched networks), and what outlives its period.
CREATE OR REPLACE FUNCTION x402_unforgiven(now_ms bigint, most bigint, period_ms bigint, models text, paths text)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT awaited + greatest(others - most, 0)
        + (SELECT coalesce(sum(counts), 0)::bigint FROM x402_outliving(now_ms, period_ms, models, paths))
    FROM x402_given_back(now_ms, period_ms, models, paths)
$$;

-- Count a sent payment for as long as another signature over its nonce will live. full_number: the budget without room
-- for that, with what is spent of it and what the payment would add; then nothing has changed.
CREATE FUNCTION x402_renew(
    its_id bigint, lives_ms bigint, limits bigint[], periods_ms bigint[], models text[], paths text[],
    OUT full_number integer, OUT spent bigint, OUT more bigint
) LANGUAGE plpgsql AS $$
DECLARE
    died_at bigint;
    before bigint[];
    after bigint[];
BEGIN
    SELECT dead_at INTO died_at FROM x402_payment
        WHERE id = its_id AND state IN ('sent', 'unknown', 'settled') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_key, 0) FROM x402_ledger;
    before := ARRAY(SELECT sums.spent FROM x402_spent_of(limits, periods_ms, models, paths) AS sums);
    UPDATE x402_payment SET dead_at = greatest(dead_at, x402_time() + lives_ms) WHERE id = its_id;
    after := ARRAY(SELECT sums.spent FROM x402_spent_of(limits, periods_ms, models, paths) AS sums);
    FOR number IN 1 .. coalesce(array_length(limits, 1), 0) LOOP
        IF after[number] > limits[number] THEN
            UPDATE x402_payment SET dead_at = died_at WHERE id = its_id;
            full_number := number;
            spent := before[number];
            more := after[number] - before[number];
            RETURN;
        END IF;
    END LOOP;
END
$$;
"""
