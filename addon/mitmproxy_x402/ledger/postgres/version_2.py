"""Version 2 of the ledger's tables in PostgreSQL: payments count until they are dead; ceilings; the chain's word."""

SQL = """
ALTER TABLE x402_payment
    ADD COLUMN scheme text,           -- of x402; null in rows of older versions: exact
    ADD COLUMN wallet text,           -- public address of whoever signs
    ADD COLUMN client text,           -- who asked for it, as the client names itself
    ADD COLUMN nonce text,            -- EVM: of the signature; Solana: the memo
    ADD COLUMN valid_before bigint,   -- EVM: Unix seconds by the chain's clock
    ADD COLUMN blockhash text,        -- Solana
    ADD COLUMN last_height bigint,    -- Solana: the last block that can hold the transaction
    ADD COLUMN dead_at bigint,        -- from when on nobody can submit it: the ledger's time, milliseconds
    ADD COLUMN charged text,          -- of a ceiling, as the answer says: atomic units
    ADD COLUMN charged_micro_usd bigint,
    ADD COLUMN uncounted bigint NOT NULL DEFAULT 0,  -- of micro_usd, counts no more
    ADD COLUMN chain_state text,      -- what the chain says: moved or dead; null: not looked up
    ADD COLUMN chain_transaction text,
    ADD COLUMN chain_time bigint,     -- of the block, Unix seconds
    ADD COLUMN chain_amount text,     -- that moved, atomic units
    ADD COLUMN finding text,          -- where the chain contradicts the gateway
    ADD COLUMN limit_path text,       -- what limits go by, where it is not the path in lower case
    ADD COLUMN unclear integer NOT NULL DEFAULT 0,  -- 1: it may be for any model, 2: at any path
    ADD COLUMN exact_micro_usd bigint;  -- the exact price beside a ceiling

-- Rejections counted nothing. Those whose signature may live count again, by the triggers of the version before;
-- an hour beyond its end, whatever clocks differ.
UPDATE x402_payment SET state = 'superseded',
    free_at = counted_at + greatest(coalesce(valid_until * 1000 - time, 86400000), 0) + 3600000
    WHERE state = 'rejected';

DROP INDEX x402_payment_freed;
CREATE INDEX x402_payment_freed ON x402_payment (counted_at)
    WHERE state IN ('released', 'expired') OR uncounted <> 0;
DROP INDEX x402_payment_superseded;
CREATE INDEX x402_payment_ending ON x402_payment (free_at) WHERE free_at IS NOT NULL;
CREATE INDEX x402_payment_unproven ON x402_payment (id)
    WHERE state IN ('sent', 'unknown', 'rejected', 'superseded') OR (state = 'expired' AND chain_state IS NULL);

CREATE INDEX x402_payment_ceiling ON x402_payment (time) WHERE scheme = 'upto';
CREATE INDEX x402_payment_finding ON x402_payment (id) WHERE finding IS NOT NULL;

-- What a row counts for. What is freed of it is the rest.
CREATE FUNCTION x402_counts(its_state text, its_micro bigint, its_uncounted bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN its_state IN ('released', 'expired') THEN 0 ELSE its_micro - its_uncounted END
$$;

-- What it gives back when it ends by itself: all of a rejection, and of a ceiling what was not charged.
CREATE FUNCTION x402_ends_with(its x402_payment) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN its.state IN ('rejected', 'superseded') THEN its.micro_usd - its.uncounted
        WHEN its.state = 'settled' AND its.chain_state IS NULL
            THEN greatest(its.micro_usd - coalesce(its.charged_micro_usd, its.micro_usd), 0) - its.uncounted
        ELSE 0 END
$$;

-- What limits go by; sums are kept by it. The character 1, which is in no name, matches every pattern.
CREATE FUNCTION x402_limit_model(its x402_payment) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN its.unclear & 1 <> 0 THEN chr(1) ELSE lower(its.model) END
$$;
CREATE FUNCTION x402_limit_path(its x402_payment) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN its.unclear & 2 <> 0 THEN chr(1) ELSE lower(coalesce(its.limit_path, its.path)) END
$$;
CREATE OR REPLACE FUNCTION x402_covers(model_pattern text, path_pattern text, its_model text, its_path text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (model_pattern = '' OR coalesce(its_model = chr(1) OR lower(its_model) LIKE model_pattern, false))
        AND (path_pattern = '' OR its_path = chr(1) OR lower(its_path) LIKE path_pattern
            OR lower(its_path) LIKE '{ALIAS}' || path_pattern)
$$;

-- The order of locks: a payment's row, then the ledger, then its sums. Who has the ledger waits for no row.
CREATE OR REPLACE FUNCTION x402_count() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    counts_more bigint := x402_counts(NEW.state, NEW.micro_usd, NEW.uncounted);
    frees_more bigint := NEW.micro_usd - counts_more;
    its_model text := x402_limit_model(NEW);
    its_path text := x402_limit_path(NEW);
    its_key bytea := sha256(convert_to(coalesce('+' || its_model, '-') || E'\n' || its_path, 'UTF8'));
    its_width integer;
BEGIN
    PERFORM pg_advisory_xact_lock(lock_key, 0) FROM x402_ledger;
    IF TG_OP = 'UPDATE' THEN
        counts_more := counts_more - x402_counts(OLD.state, OLD.micro_usd, OLD.uncounted);
        frees_more := -counts_more;
    END IF;
    FOREACH its_width IN ARRAY ARRAY[60000, 3600000] LOOP
        INSERT INTO x402_sum AS sums (width, bucket, key, model, path, counted, freed)
            VALUES (its_width, NEW.counted_at / its_width, its_key, its_model, its_path, counts_more, frees_more)
            ON CONFLICT (width, bucket, key)
            DO UPDATE SET counted = sums.counted + excluded.counted, freed = sums.freed + excluded.freed;
    END LOOP;
    RETURN NULL;
END
$$;
DROP TRIGGER x402_count_freed ON x402_payment;
CREATE TRIGGER x402_count_freed AFTER UPDATE OF state, uncounted ON x402_payment FOR EACH ROW
    WHEN (x402_counts(OLD.state, OLD.micro_usd, OLD.uncounted)
          <> x402_counts(NEW.state, NEW.micro_usd, NEW.uncounted))
    EXECUTE FUNCTION x402_count();

-- What became of payments, by quarter of an hour, so that any time zone's days are known; without what is under way.
CREATE TABLE x402_tally (
    bucket bigint NOT NULL,          -- time / 900000
    state text NOT NULL,
    network text NOT NULL,
    model text NOT NULL,             -- empty: it names none
    path text NOT NULL,
    client text NOT NULL,
    key bytea PRIMARY KEY,           -- of all of these, which may be too long for an index
    payments bigint NOT NULL,
    micro_usd bigint NOT NULL,
    counts bigint NOT NULL           -- of micro_usd
);
CREATE INDEX x402_tally_bucket ON x402_tally (bucket);
CREATE FUNCTION x402_tally_key(its x402_payment) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(convert_to(jsonb_build_array(its.time / 900000, its.state, its.network, coalesce(its.model, ''),
        its.path, coalesce(its.client, ''))::text, 'UTF8'))
$$;
INSERT INTO x402_tally
    SELECT time / 900000, state, network, coalesce(model, ''), path, coalesce(client, ''), x402_tally_key(its),
        count(*), sum(micro_usd), sum(x402_counts(state, micro_usd, uncounted))
    FROM x402_payment AS its WHERE state NOT IN ('reserved', 'sent') GROUP BY 1, 2, 3, 4, 5, 6, 7;
-- All changes of one statement in the order of keys: so two proxies never wait for each other.
CREATE FUNCTION x402_count_ends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO x402_tally AS sums
            SELECT time / 900000, state, network, coalesce(model, ''), path, coalesce(client, ''), key,
                sum(sign), sum(sign * micro_usd), sum(sign * x402_counts(state, micro_usd, uncounted))
            FROM (SELECT 1 AS sign, *, x402_tally_key(after) AS key FROM after
                UNION ALL SELECT -1, *, x402_tally_key(before) FROM before) AS changes
            WHERE state NOT IN ('reserved', 'sent') GROUP BY 1, 2, 3, 4, 5, 6, 7
            HAVING sum(sign) <> 0 OR sum(sign * x402_counts(state, micro_usd, uncounted)) <> 0 ORDER BY key
            ON CONFLICT (key) DO UPDATE SET payments = sums.payments + excluded.payments,
                micro_usd = sums.micro_usd + excluded.micro_usd, counts = sums.counts + excluded.counts;
    ELSE
        UPDATE x402_tally AS sums SET payments = sums.payments - gone.payments,
                micro_usd = sums.micro_usd - gone.micro_usd, counts = sums.counts - gone.counts
            FROM (SELECT x402_tally_key(before) AS key, count(*) AS payments, sum(micro_usd) AS micro_usd,
                    sum(x402_counts(state, micro_usd, uncounted)) AS counts
                FROM before WHERE state NOT IN ('reserved', 'sent') GROUP BY 1) AS gone
            WHERE sums.key = gone.key;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER x402_tally_changed AFTER UPDATE ON x402_payment REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION x402_count_ends();
CREATE TRIGGER x402_tally_deleted AFTER DELETE ON x402_payment REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION x402_count_ends();

-- What counts at now_ms against a budget; period_ms null: one for ever, of which total was ever reserved.
CREATE OR REPLACE FUNCTION x402_spent(now_ms bigint, total bigint, period_ms bigint, models text, paths text)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    begins bigint := coalesce(now_ms - period_ms, 0);
    minute bigint := begins / 60000 + 1;
    hour bigint := begins / 3600000 + 1;
    before bigint := 0;
    due bigint;
    sums bigint;
BEGIN
    SELECT coalesce(sum(x402_ends_with(x402_payment)), 0) INTO due FROM x402_payment
        WHERE free_at <= now_ms AND counted_at > begins
            AND x402_covers(models, paths, x402_limit_model(x402_payment), x402_limit_path(x402_payment));
    IF models = '' AND paths = '' THEN
        IF period_ms IS NOT NULL THEN
            SELECT cumulative - micro_usd INTO before FROM x402_payment
                WHERE counted_at > begins ORDER BY counted_at, id LIMIT 1;
            IF NOT FOUND THEN
                RETURN 0;
            END IF;
        END IF;
        SELECT sum(part) INTO sums FROM (
            SELECT sum(freed) AS part FROM x402_sum WHERE width = 3600000 AND bucket >= hour AND freed <> 0
            UNION ALL
            SELECT sum(freed) FROM x402_sum
                WHERE width = 60000 AND bucket >= minute AND bucket < hour * 60 AND freed <> 0
            UNION ALL
            SELECT sum(micro_usd - x402_counts(state, micro_usd, uncounted)) FROM x402_payment
                WHERE (state IN ('released', 'expired') OR uncounted <> 0)
                    AND counted_at > begins AND counted_at < minute * 60000
        ) AS parts;
        RETURN total - before - coalesce(sums, 0) - due;
    END IF;
    SELECT sum(part) INTO sums FROM (
        SELECT sum(counted) AS part FROM x402_sum
            WHERE width = 3600000 AND bucket >= hour AND x402_covers(models, paths, model, path)
        UNION ALL
        SELECT sum(counted) FROM x402_sum WHERE width = 60000 AND bucket >= minute AND bucket < hour * 60
            AND x402_covers(models, paths, model, path)
        UNION ALL
        SELECT sum(x402_counts(state, micro_usd, uncounted)) FROM x402_payment
            WHERE counted_at > begins AND counted_at < minute * 60000
                AND x402_covers(models, paths, x402_limit_model(x402_payment), x402_limit_path(x402_payment))
    ) AS parts;
    RETURN coalesce(sums, 0) - due;
END
$$;

CREATE INDEX x402_payment_charge ON x402_payment (id)
    WHERE state = 'settled' AND charged_micro_usd IS NOT NULL AND chain_state IS NULL;

-- What was given back without the chain's word, whole payments and parts of ceilings, and counts beyond the size of a
-- budget.
CREATE INDEX x402_payment_given_back ON x402_payment (counted_at) WHERE uncounted <> 0 AND chain_state IS NULL;
CREATE INDEX x402_payment_forgiven ON x402_payment (counted_at) WHERE state = 'expired' AND chain_state IS NULL;
CREATE FUNCTION x402_unforgiven(now_ms bigint, most bigint, period_ms bigint, models text, paths text)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT greatest(coalesce(sum(given_back), 0) - most, 0)::bigint FROM (
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
    ) AS forgiven
$$;
CREATE FUNCTION x402_spent_of(limits bigint[], periods_ms bigint[], models text[], paths text[])
RETURNS TABLE (spent bigint) LANGUAGE plpgsql STABLE AS $$
DECLARE
    now_ms bigint;
    total bigint;
BEGIN
    SELECT counted_at, cumulative INTO now_ms, total FROM x402_payment ORDER BY id DESC LIMIT 1;
    now_ms := greatest(now_ms, x402_now());
    FOR number IN 1 .. coalesce(array_length(periods_ms, 1), 0) LOOP
        spent := x402_spent(now_ms, coalesce(total, 0), periods_ms[number], models[number], paths[number])
            + x402_unforgiven(now_ms, limits[number], periods_ms[number], models[number], paths[number]);
        RETURN NEXT;
    END LOOP;
END
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
        SELECT minute, part, sum(part) OVER (ORDER BY minute) AS leaves FROM (
            SELECT begins / 60000 AS minute, coalesce(sum(x402_counts(state, micro_usd, uncounted)), 0) AS part
                FROM x402_payment WHERE counted_at > begins
                    AND counted_at < (begins / 60000 + 1) * 60000
                    AND x402_covers(models, paths, x402_limit_model(x402_payment), x402_limit_path(x402_payment))
            UNION ALL
            SELECT bucket, sum(counted) FROM x402_sum WHERE width = 60000 AND bucket > begins / 60000
                AND x402_covers(models, paths, model, path) GROUP BY bucket
        ) AS minutes
    ) AS leaving WHERE leaves >= needed ORDER BY minute LIMIT 1;
    SELECT counted_at INTO sums FROM (
        SELECT counted_at, left_before + sum(x402_counts(state, micro_usd, uncounted))
            OVER (ORDER BY counted_at, id) AS leaves FROM x402_payment
        WHERE counted_at > begins
            AND counted_at >= its_minute * 60000 AND counted_at < (its_minute + 1) * 60000
            AND x402_covers(models, paths, x402_limit_model(x402_payment), x402_limit_path(x402_payment))
    ) AS leaving WHERE leaves >= needed ORDER BY counted_at LIMIT 1;
    RETURN coalesce(sums - begins, period_ms);  -- where that is not all, the rest is what is not forgiven
END
$$;

-- Find room in all budgets and write a row. One at a time: from the lock on, nobody else reserves until this
-- transaction has ended. It is not waited for until it is on the disk; that is done before the payment leaves.
-- What has lapsed is freed some at a time: a multitude must not make this take longer than it may.
CREATE FUNCTION x402_reserve(
    its_process text, its_method text, its_host text, its_path text, its_model text, its_network text,
    its_asset text, its_pay_to text, its_amount text, its_micro bigint, its_replaces bigint, its_job text,
    its_scheme text, its_wallet text, its_nonce text, its_client text, its_limit_path text, its_unclear integer,
    its_exact bigint,
    lapse_ms bigint, limits bigint[], periods_ms bigint[], models text[], paths text[],
    OUT row_id bigint, OUT row_session integer, OUT full_number integer, OUT spent bigint, OUT job_paid boolean
) LANGUAGE plpgsql AS $$
DECLARE
    wall bigint;
    now_ms bigint;
    total bigint;
BEGIN
    job_paid := false;
    row_session := current_setting('x402.session')::integer;
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM pg_advisory_xact_lock(lock_key, 0) FROM x402_ledger;
    wall := x402_now();
    SELECT counted_at, cumulative INTO now_ms, total FROM x402_payment ORDER BY id DESC LIMIT 1;
    now_ms := greatest(now_ms, wall);
    total := coalesce(total, 0);
    UPDATE x402_payment SET state = 'released' WHERE id IN (
        SELECT id FROM x402_payment WHERE state = 'reserved' AND counted_at < now_ms - lapse_ms
        LIMIT 100 FOR UPDATE SKIP LOCKED);
    UPDATE x402_payment AS its SET free_at = NULL,
        uncounted = CASE state WHEN 'settled' THEN uncounted + x402_ends_with(its) ELSE uncounted END,
        state = CASE WHEN state IN ('rejected', 'superseded') THEN 'expired' ELSE state END
        WHERE id IN (
            SELECT id FROM x402_payment WHERE free_at <= now_ms LIMIT 100 FOR UPDATE SKIP LOCKED);
    DELETE FROM x402_sum WHERE (width, bucket, key) IN (
        SELECT width, bucket, key FROM x402_sum
        WHERE width = 60000 AND bucket < now_ms / 60000 - 45000 LIMIT 10);
    IF its_job <> '' THEN
        PERFORM 1 FROM x402_payment WHERE job = its_job AND replaces = its_replaces AND payer IS NULL
            AND state NOT IN ('rejected', 'released', 'expired');
        IF FOUND THEN
            job_paid := true;
            RETURN;
        END IF;
    END IF;
    FOR number IN 1 .. coalesce(array_length(limits, 1), 0) LOOP
        spent := x402_spent(now_ms, total, periods_ms[number], models[number], paths[number])
            + x402_unforgiven(now_ms, limits[number], periods_ms[number], models[number], paths[number]);
        IF spent + its_micro > limits[number] THEN
            full_number := number;
            RETURN;
        END IF;
    END LOOP;
    INSERT INTO x402_payment (time, counted_at, session, process, method, host, path, model, network, asset, pay_to,
                              amount, micro_usd, cumulative, state, replaces, job, scheme, wallet, nonce,
                              client, limit_path, unclear, exact_micro_usd)
        VALUES (wall, now_ms, row_session, its_process, its_method, its_host, its_path, its_model, its_network,
                its_asset, its_pay_to, its_amount, its_micro, total + its_micro, 'reserved', its_replaces,
                nullif(its_job, ''), its_scheme, its_wallet, its_nonce, nullif(its_client, ''),
                nullif(nullif(its_limit_path, ''), its_path), its_unclear, its_exact)
        RETURNING id INTO row_id;
END
$$;
"""
