"""Version 1 of the ledger's tables in PostgreSQL: payments, their sums, and payments that are kept to be sent again."""

SQL = """
CREATE TABLE x402_ledger (
    version integer NOT NULL,
    lock_key integer NOT NULL  -- of the advisory locks: with 0 who reserves, with its number who is connected
);
INSERT INTO x402_ledger VALUES (0, floor(random() * 2147483647)::integer);
CREATE SEQUENCE x402_session AS integer;
CREATE TABLE x402_payment (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time bigint NOT NULL,        -- the database's clock at the reservation, Unix milliseconds
    counted_at bigint NOT NULL,  -- the same, but never falls from row to row
    session integer NOT NULL,    -- whoever holds the advisory lock of this number has reserved it
    process text NOT NULL,       -- host, process id and a number of the proxy, for people
    method text NOT NULL,
    host text NOT NULL,
    path text NOT NULL,          -- without its query
    model text,
    network text NOT NULL,       -- CAIP-2
    asset text NOT NULL,
    pay_to text NOT NULL,
    amount text NOT NULL,        -- atomic units of the asset, decimal, may be beyond 64 bits
    micro_usd bigint NOT NULL,
    cumulative bigint NOT NULL,  -- micro_usd of this and all earlier rows, whatever became of them
    state text NOT NULL,
    sends integer NOT NULL DEFAULT 0,
    reference text,              -- EIP-3009 nonce or Solana signature
    valid_until bigint,          -- of the signature, Unix seconds
    transaction_id text,
    status integer,              -- of the upstream's answer
    code text,                   -- of the gateway's rejection
    request_id text,
    first_byte_ms bigint,
    total_ms bigint,
    bytes bigint,
    replaces bigint,             -- row of the payment for the same request that this one repeats
    job text,                    -- where the job is polled that this payment belongs to
    payer text,                  -- who signed, of payments whose answer was the job
    free_at bigint               -- of superseded ones: from when on they count no more
);
CREATE INDEX x402_payment_counted_at ON x402_payment (counted_at, id);
CREATE INDEX x402_payment_time ON x402_payment (time);
CREATE INDEX x402_payment_freed ON x402_payment (counted_at) INCLUDE (micro_usd)
    WHERE state IN ('rejected', 'released', 'expired');
CREATE INDEX x402_payment_open ON x402_payment (counted_at) WHERE state IN ('reserved', 'sent');
CREATE INDEX x402_payment_superseded ON x402_payment (free_at) WHERE state = 'superseded';
CREATE INDEX x402_payment_job ON x402_payment (job) WHERE job IS NOT NULL;

-- What counts and what was freed, by minute and by hour: no budget adds up more rows than these, and those of a
-- minute. Kept by a trigger, so whatever changes a state changes them.
CREATE TABLE x402_sum (
    width integer NOT NULL,      -- of the bucket, milliseconds
    bucket bigint NOT NULL,      -- counted_at / width
    key bytea NOT NULL,          -- of model and path, which may be too long for an index
    model text,
    path text NOT NULL,
    counted bigint NOT NULL,     -- millionths of a dollar
    freed bigint NOT NULL,
    PRIMARY KEY (width, bucket, key)
);
CREATE INDEX x402_sum_freed ON x402_sum (width, bucket) INCLUDE (freed) WHERE freed <> 0;
CREATE TABLE x402_held (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    route bytea NOT NULL,        -- keyed hashes: who has no wallet's key learns nothing of the request
    fingerprint bytea NOT NULL,
    sealed bytea NOT NULL,       -- the payment and its history, encrypted
    sendable_until bigint NOT NULL,  -- the database's clock, Unix milliseconds
    forget_at bigint NOT NULL
);
CREATE INDEX x402_held_route ON x402_held (route);
CREATE INDEX x402_held_fingerprint ON x402_held (fingerprint);
CREATE INDEX x402_held_forget_at ON x402_held (forget_at);

CREATE FUNCTION x402_now() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- The ledger's time: the database's clock, but never before that of the last row.
CREATE FUNCTION x402_time() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT greatest((SELECT counted_at FROM x402_payment ORDER BY id DESC LIMIT 1), x402_now())
$$;

-- The sessions that live. A session lock goes with the connection that holds it, however that ends.
CREATE FUNCTION x402_alive() RETURNS SETOF integer LANGUAGE sql STABLE AS $$
    SELECT held.objid::integer FROM pg_locks AS held JOIN x402_ledger ON held.classid = lock_key::oid
    WHERE held.locktype = 'advisory' AND held.objsubid = 2 AND held.objid > 0 AND held.granted
        AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;

-- To be called first in each session: gives it a number of its own.
CREATE FUNCTION x402_begin() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    number integer;
BEGIN
    LOOP
        number := nextval('x402_session');
        EXIT WHEN (SELECT pg_try_advisory_lock(lock_key, number) FROM x402_ledger);
    END LOOP;
    PERFORM set_config('x402.session', number::text, false);
    RETURN number;
END
$$;

-- The end of what dead sessions have left: of so many rows at most. Gives how many there were.
CREATE FUNCTION x402_recover(most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    ended integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE x402_payment SET state = CASE state WHEN 'reserved' THEN 'released' ELSE 'unknown' END
        WHERE state IN ('reserved', 'sent') AND id IN (
            SELECT id FROM x402_payment WHERE state IN ('reserved', 'sent') AND session NOT IN (SELECT x402_alive())
            LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS ended = ROW_COUNT;
    DELETE FROM x402_held WHERE forget_at <= x402_now();
    RETURN ended;
END
$$;

-- The order of locks: a payment's row, then the ledger, then its sums. Who has the ledger waits for no row.
CREATE FUNCTION x402_count() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    frees boolean := NEW.state IN ('rejected', 'released', 'expired');
    counts_more bigint := CASE WHEN frees THEN 0 ELSE NEW.micro_usd END;
    frees_more bigint := CASE WHEN frees THEN NEW.micro_usd ELSE 0 END;
    its_key bytea := sha256(convert_to(coalesce('+' || NEW.model, '-') || E'\n' || NEW.path, 'UTF8'));
    its_width integer;
BEGIN
    PERFORM pg_advisory_xact_lock(lock_key, 0) FROM x402_ledger;
    IF TG_OP = 'UPDATE' THEN
        counts_more := counts_more - CASE WHEN frees THEN NEW.micro_usd ELSE 0 END;
        frees_more := frees_more - CASE WHEN frees THEN 0 ELSE NEW.micro_usd END;
    END IF;
    FOREACH its_width IN ARRAY ARRAY[60000, 3600000] LOOP
        INSERT INTO x402_sum AS sums (width, bucket, key, model, path, counted, freed)
            VALUES (its_width, NEW.counted_at / its_width, its_key, NEW.model, NEW.path, counts_more, frees_more)
            ON CONFLICT (width, bucket, key)
            DO UPDATE SET counted = sums.counted + excluded.counted, freed = sums.freed + excluded.freed;
    END LOOP;
    RETURN NULL;
END
$$;
CREATE TRIGGER x402_count_new AFTER INSERT ON x402_payment FOR EACH ROW EXECUTE FUNCTION x402_count();
CREATE TRIGGER x402_count_freed AFTER UPDATE OF state ON x402_payment FOR EACH ROW
    WHEN ((OLD.state IN ('rejected', 'released', 'expired')) <> (NEW.state IN ('rejected', 'released', 'expired')))
    EXECUTE FUNCTION x402_count();

-- An empty pattern means every request, and the gateway's alias of a path is the same path.
CREATE FUNCTION x402_covers(model_pattern text, path_pattern text, its_model text, its_path text)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT (model_pattern = '' OR coalesce(its_model LIKE model_pattern, false))
        AND (path_pattern = '' OR its_path LIKE path_pattern OR its_path LIKE '{ALIAS}' || path_pattern)
$$;

-- What counts at now_ms against a budget; period_ms null: one for ever, of which total was ever reserved.
CREATE FUNCTION x402_spent(now_ms bigint, total bigint, period_ms bigint, models text, paths text)
RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    begins bigint := coalesce(now_ms - period_ms, 0);
    minute bigint := begins / 60000 + 1;
    hour bigint := begins / 3600000 + 1;
    before bigint := 0;
    due bigint;
    sums bigint;
BEGIN
    SELECT coalesce(sum(micro_usd), 0) INTO due FROM x402_payment
        WHERE state = 'superseded' AND free_at <= now_ms AND counted_at > begins
            AND x402_covers(models, paths, model, path);
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
            SELECT sum(micro_usd) FROM x402_payment WHERE state IN ('rejected', 'released', 'expired')
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
        SELECT sum(micro_usd) FROM x402_payment WHERE state NOT IN ('rejected', 'released', 'expired')
            AND counted_at > begins AND counted_at < minute * 60000 AND x402_covers(models, paths, model, path)
    ) AS parts;
    RETURN coalesce(sums, 0) - due;
END
$$;

CREATE FUNCTION x402_spent_of(periods_ms bigint[], models text[], paths text[])
RETURNS TABLE (spent bigint) LANGUAGE plpgsql STABLE AS $$
DECLARE
    now_ms bigint;
    total bigint;
BEGIN
    SELECT counted_at, cumulative INTO now_ms, total FROM x402_payment ORDER BY id DESC LIMIT 1;
    now_ms := greatest(now_ms, x402_now());
    FOR number IN 1 .. coalesce(array_length(periods_ms, 1), 0) LOOP
        spent := x402_spent(now_ms, coalesce(total, 0), periods_ms[number], models[number], paths[number]);
        RETURN NEXT;
    END LOOP;
END
$$;

-- In how many milliseconds as much as is needed will have left a budget's period; null: never.
CREATE FUNCTION x402_returns(needed bigint, period_ms bigint, models text, paths text)
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
            SELECT begins / 60000 AS minute, coalesce(sum(micro_usd), 0) AS part FROM x402_payment
                WHERE state NOT IN ('rejected', 'released', 'expired') AND counted_at > begins
                    AND counted_at < (begins / 60000 + 1) * 60000 AND x402_covers(models, paths, model, path)
            UNION ALL
            SELECT bucket, sum(counted) FROM x402_sum WHERE width = 60000 AND bucket > begins / 60000
                AND x402_covers(models, paths, model, path) GROUP BY bucket
        ) AS minutes
    ) AS leaving WHERE leaves >= needed ORDER BY minute LIMIT 1;
    SELECT counted_at INTO sums FROM (
        SELECT counted_at, left_before + sum(micro_usd) OVER (ORDER BY counted_at, id) AS leaves FROM x402_payment
        WHERE state NOT IN ('rejected', 'released', 'expired') AND counted_at > begins
            AND counted_at >= its_minute * 60000 AND counted_at < (its_minute + 1) * 60000
            AND x402_covers(models, paths, model, path)
    ) AS leaving WHERE leaves >= needed ORDER BY counted_at LIMIT 1;
    RETURN sums - begins;
END
$$;

-- Find room in all budgets and write a row. One at a time: from the lock on, nobody else reserves until this
-- transaction has ended. It is not waited for until it is on the disk; that is done before the payment leaves.
-- What has lapsed is freed some at a time: a multitude must not make this take longer than it may.
CREATE FUNCTION x402_reserve(
    its_process text, its_method text, its_host text, its_path text, its_model text, its_network text,
    its_asset text, its_pay_to text, its_amount text, its_micro bigint, its_replaces bigint, its_job text,
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
    UPDATE x402_payment SET state = 'expired' WHERE id IN (
        SELECT id FROM x402_payment WHERE state = 'superseded' AND free_at <= now_ms
        LIMIT 100 FOR UPDATE SKIP LOCKED);
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
        spent := x402_spent(now_ms, total, periods_ms[number], models[number], paths[number]);
        IF spent + its_micro > limits[number] THEN
            full_number := number;
            RETURN;
        END IF;
    END LOOP;
    INSERT INTO x402_payment (time, counted_at, session, process, method, host, path, model, network, asset, pay_to,
                              amount, micro_usd, cumulative, state, replaces, job)
        VALUES (wall, now_ms, row_session, its_process, its_method, its_host, its_path, its_model, its_network,
                its_asset, its_pay_to, its_amount, its_micro, total + its_micro, 'reserved', its_replaces,
                nullif(its_job, ''))
        RETURNING id INTO row_id;
END
$$;
"""
