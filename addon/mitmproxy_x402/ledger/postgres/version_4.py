"""Version 4 of the ledger's tables in PostgreSQL: signatures that live long count until a period after their end."""

from __future__ import annotations

SQL = r"""
CREATE INDEX x402_payment_outliving ON x402_payment (counted_at)
    WHERE dead_at - counted_at > 1500000 OR (dead_at IS NULL AND state = 'unknown');

-- The payments from before a period begins whose signatures lived on in it: until when, what they count for, and what
-- was given back of them without the chain's word.
CREATE FUNCTION x402_outliving(now_ms bigint, period_ms bigint, models text, paths text)
RETURNS TABLE (lives_until bigint, counts bigint, given_back bigint) LANGUAGE sql STABLE AS $$
    SELECT life.lives_until,
        x402_counts(state, micro_usd, uncounted) - due.part,
        CASE WHEN chain_state IS NOT NULL THEN 0 WHEN state = 'expired' THEN micro_usd ELSE uncounted END + due.part
    FROM x402_payment AS its
    CROSS JOIN LATERAL (SELECT coalesce(
        CASE chain_state WHEN 'moved' THEN counted_at + chain_time * 1000 - its.time END, dead_at,
        counted_at + CASE scheme WHEN 'gateway' THEN 691200000 ELSE 90000000 END) AS lives_until) AS life
    CROSS JOIN LATERAL (
        SELECT CASE WHEN free_at <= now_ms THEN x402_ends_with(its) ELSE 0 END AS part) AS due
    WHERE (dead_at - counted_at > 1500000 OR (dead_at IS NULL AND state = 'unknown'))
        AND counted_at <= now_ms - period_ms AND counted_at > now_ms - period_ms - 777600000
        AND life.lives_until > now_ms - period_ms
        AND x402_covers(models, paths, x402_limit_model(its), x402_limit_path(its))
$$;

-- What counts besides the sums: what was given back without the chain's word, beyond the size of the budget, and what
-- outlives its period.
CREATE OR REPLACE FUNCTION x402_unforgiven(now_ms bigint, most bigint, period_ms bigint, models text, paths text)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT greatest(coalesce(sum(given_back), 0) - most, 0)::bigint
        + (SELECT coalesce(sum(counts), 0)::bigint FROM x402_outliving(now_ms, period_ms, models, paths))
    FROM (
        SELECT micro_usd AS given_back FROM x402_payment AS its WHERE state = 'expired' AND chain_state IS NULL
            AND counted_at > coalesce(now_ms - period_ms, 0)
            AND x402_covers(models, paths, x402_limit_model(its), x402_limit_path(its))
        UNION ALL
        SELECT uncounted FROM x402_payment AS its WHERE uncounted <> 0 AND chain_state IS NULL AND state <> 'expired'
            AND counted_at > coalesce(now_ms - period_ms, 0)
            AND x402_covers(models, paths, x402_limit_model(its), x402_limit_path(its))
        UNION ALL  -- what is about to be
        SELECT x402_ends_with(its) FROM x402_payment AS its WHERE free_at <= now_ms
            AND counted_at > coalesce(now_ms - period_ms, 0)
            AND x402_covers(models, paths, x402_limit_model(its), x402_limit_path(its))
        UNION ALL
        SELECT given_back FROM x402_outliving(now_ms, period_ms, models, paths)
    ) AS forgiven
$$;

-- In how many milliseconds as much as is needed will have left a budget's period; null: never.
CREATE OR REPLACE FUNCTION x402_returns(needed bigint, period_ms bigint, models text, paths text)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    now_ms bigint := x402_time();
    begins bigint := now_ms - period_ms;
    its_minute bigint;
    left_before bigint;
    sums bigint;
BEGIN
    SELECT minute, leaves - part INTO its_minute, left_before FROM (
        SELECT minute, sum(part) AS part, sum(sum(part)) OVER (ORDER BY minute) AS leaves FROM (
            SELECT begins / 60000 AS minute, coalesce(sum(x402_counts(state, micro_usd, uncounted)), 0) AS part
                FROM x402_payment WHERE counted_at > begins
                    AND counted_at < (begins / 60000 + 1) * 60000
                    AND x402_covers(models, paths, x402_limit_model(x402_payment), x402_limit_path(x402_payment))
            UNION ALL
            SELECT bucket, sum(counted) FROM x402_sum WHERE width = 60000 AND bucket > begins / 60000
                AND x402_covers(models, paths, model, path) GROUP BY bucket
            UNION ALL
            SELECT lives_until / 60000, sum(counts) FROM x402_outliving(now_ms, period_ms, models, paths) GROUP BY 1
        ) AS minutes GROUP BY minute
    ) AS leaving WHERE leaves >= needed ORDER BY minute LIMIT 1;
    SELECT since INTO sums FROM (
        SELECT since, left_before + sum(counts) OVER (ORDER BY since) AS leaves FROM (
            SELECT counted_at AS since, x402_counts(state, micro_usd, uncounted) AS counts FROM x402_payment
            WHERE counted_at > begins
                AND counted_at >= its_minute * 60000 AND counted_at < (its_minute + 1) * 60000
                AND x402_covers(models, paths, x402_limit_model(x402_payment), x402_limit_path(x402_payment))
            UNION ALL
            SELECT lives_until, counts FROM x402_outliving(now_ms, period_ms, models, paths)
            WHERE lives_until >= its_minute * 60000 AND lives_until < (its_minute + 1) * 60000
        ) AS both_kinds
    ) AS leaving WHERE leaves >= needed ORDER BY since LIMIT 1;
    RETURN coalesce(sums - begins, period_ms);  -- where that is not all, the rest is what is not forgiven
END
$$;
"""
