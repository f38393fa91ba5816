-- The event log: streams, their events, writers, keys and snapshots, and the one function that appends.
-- Every table is read and written by the statements in eventstore/postgres/statements.sql and by append() below.

CREATE SCHEMA IF NOT EXISTS eventstore;

-- One row for each stream. An append locks the row of its stream, which is what makes positions gapless.
-- fillfactor: every append updates the head. Free space in the page keeps those updates HOT, so no index is touched.
CREATE TABLE eventstore.streams (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL UNIQUE,
    category   text        NOT NULL,
    head       bigint      NOT NULL DEFAULT 0 CHECK (head >= 0),
    earliest   bigint      NOT NULL DEFAULT 1 CHECK (earliest >= 1),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at    timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
CREATE INDEX streams_by_category ON eventstore.streams (category, id);

-- One row for each event, never changed. `data` is json and not jsonb: the text is stored unchanged, and ->> reads it.
-- There is no foreign key to streams: its check would lock one more row for each event, and only append() inserts here.
CREATE TABLE eventstore.events (
    stream   bigint      NOT NULL,
    position bigint      NOT NULL CHECK (position >= 1),
    at       timestamptz NOT NULL,
    type     text        NOT NULL,
    tag      text,
    data     json        NOT NULL,
    PRIMARY KEY (stream, position)
);

-- One row for each writer of a stream, by which stale writers are fenced off. (first, last) are the positions of its
-- newest append, number `seq`, so that a retry after a lost answer gets the same answer. `owner` is the number of the
-- advisory lock that the writer's process holds while it is alive.
CREATE TABLE eventstore.writers (
    stream    bigint  NOT NULL,
    name      text    NOT NULL,
    epoch     integer NOT NULL,
    seq       bigint  NOT NULL,
    first     bigint  NOT NULL,
    last      bigint  NOT NULL,
    owner     bigint  NOT NULL,
    closed    boolean NOT NULL DEFAULT false,
    released  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (stream, name)
) WITH (fillfactor = 50);
CREATE INDEX writers_open ON eventstore.writers (owner) WHERE NOT closed;
CREATE INDEX writers_unreleased ON eventstore.writers (owner) WHERE closed AND NOT released;

-- One row for each idempotency key, with the append that claimed it. A row is inserted before its append is checked, and
-- `stream` is NULL until then. No other transaction sees such a row: at commit it is filled in, or deleted.
CREATE TABLE eventstore.keys (
    scope      text  NOT NULL,
    name       text  NOT NULL,
    digest     bytea,
    stream     bigint,
    first      bigint,
    last       bigint,
    expires_at timestamptz,
    PRIMARY KEY (scope, name)
);
CREATE INDEX keys_expiry ON eventstore.keys (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE eventstore.snapshots (
    stream   bigint NOT NULL,
    name     text   NOT NULL,
    position bigint NOT NULL,
    data     json   NOT NULL,
    PRIMARY KEY (stream, name, position)
);

-- Appends a batch, with a verdict for each append. The caller guarantees that the batch has at most one append for a
-- stream, and no key twice. Locks are always taken in one order (keys by name, new streams by name, streams by id), so
-- two batches never deadlock. VOLATILE gives each statement a new snapshot: the verdicts are formed after the locks are
-- held, and see what the transaction that held a lock before has committed.
CREATE FUNCTION eventstore.append(
    a_stream text[], a_category text[], a_expected bigint[], a_count integer[],   -- one element for each append
    a_writer text[], a_epoch integer[], a_seq bigint[], a_closes boolean[],       -- epoch NULL: not sent by that writer, but closes it
    a_owner bigint,
    k_append integer[], k_scope text[], k_name text[], k_digest bytea[], k_seconds double precision[],  -- one element for each key
    e_append integer[], e_offset integer[], e_type text[], e_tag text[], e_data json[]                 -- one element for each event
) RETURNS TABLE (append integer, verdict text, stream text, first bigint, last bigint, at timestamptz, head bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = eventstore, pg_catalog
SET plan_cache_mode = force_generic_plan  -- a new plan for every call took half of its time
AS $$
#variable_conflict use_column
DECLARE
    -- What was read and decided, one element for each append. These are arrays and not a table, so that an event finds
    -- its append by index, whatever number of rows the planner expects.
    locked bigint[]; ids bigint[]; heads bigint[]; ats timestamptz[]; verdicts text[]; stands boolean[];
    held_streams bigint[]; firsts bigint[]; lasts bigint[];
    one_id bigint; one_head bigint; one_at timestamptz; one_stands boolean;
BEGIN
    -- The fast path. Nearly every batch holds only tokens: each append is its writer's next one. One statement locks the
    -- rows of streams and writers, in the order of the streams' ids, and reads them under the lock, so that the verdicts
    -- need no further read. If any append of the batch cannot be accepted this way, the whole batch takes the full path
    -- below; the locks held by then are the first ones in its order too. (One exception: the first append of a writer
    -- with a seq above 1. The fast path does not lock its stream, which is then locked out of order. A deadlock is
    -- possible, the server ends it after a second, and its victim is sent again.)
    IF cardinality(k_append) = 0 AND 1 < ALL (a_seq) AND cardinality(a_stream) = 1 THEN
        -- A batch of one append, as when a single answer is running: the same without building arrays.
        SELECT s.id, s.head, greatest(clock_timestamp(), s.last_at),
               NOT w.closed AND w.epoch = a_epoch[1] AND w.seq + 1 = a_seq[1]
               AND (a_expected[1] < 0 OR a_expected[1] = s.head)
          INTO one_id, one_head, one_at, one_stands
          FROM streams s JOIN writers w ON w.stream = s.id AND w.name = a_writer[1]
         WHERE s.name = a_stream[1] FOR NO KEY UPDATE OF s, w;
        IF one_stands THEN
            INSERT INTO events (stream, position, at, type, tag, data)
            SELECT one_id, one_head + e."offset", one_at, e.type, e.tag, e.data
              FROM unnest(e_offset, e_type, e_tag, e_data) AS e ("offset", type, tag, data);
            UPDATE streams SET head = one_head + a_count[1], last_at = one_at WHERE id = one_id;
            UPDATE writers SET seq = a_seq[1], first = one_head + 1, last = one_head + a_count[1], owner = a_owner,
                               closed = a_closes[1], released = a_closes[1]
             WHERE stream = one_id AND name = a_writer[1];
            RETURN QUERY SELECT 1, 'appended', a_stream[1], one_head + 1, one_head + a_count[1], one_at, one_head;
            RETURN;
        END IF;
    ELSIF cardinality(k_append) = 0 AND 1 < ALL (a_seq) THEN
        SELECT array_agg(l.id ORDER BY l.n), array_agg(l.head ORDER BY l.n),
               array_agg(l.head + a_count[l.n] ORDER BY l.n),
               array_agg(greatest(clock_timestamp(), l.last_at) ORDER BY l.n),
               array_agg(NOT l.closed AND l.epoch = a_epoch[l.n] AND l.seq + 1 = a_seq[l.n]
                         AND (a_expected[l.n] < 0 OR a_expected[l.n] = l.head) ORDER BY l.n)
          INTO ids, heads, lasts, ats, stands
          FROM (SELECT u.n, s.id, s.head, s.last_at, w.epoch, w.seq, w.closed
                  FROM unnest(a_stream, a_writer) WITH ORDINALITY AS u (stream, writer, n)
                  JOIN streams s ON s.name = u.stream
                  JOIN writers w ON w.stream = s.id AND w.name = u.writer
                 ORDER BY s.id FOR NO KEY UPDATE OF s, w) l;
        IF cardinality(ids) = cardinality(a_stream) AND true = ALL (stands) THEN
            WITH moved AS (
                UPDATE streams s SET head = u.last, last_at = u.at
                  FROM unnest(ids, lasts, ats) AS u (id, last, at)
                 WHERE s.id = u.id
            ), written AS (
                UPDATE writers w SET seq = u.seq, first = u.head + 1, last = u.last, owner = a_owner,
                                     closed = u.closes, released = u.closes
                  FROM unnest(ids, a_writer, a_seq, a_closes, heads, lasts) AS u (id, writer, seq, closes, head, last)
                 WHERE w.stream = u.id AND w.name = u.writer
            )
            INSERT INTO events (stream, position, at, type, tag, data)
            SELECT ids[e.append], heads[e.append] + e."offset", ats[e.append], e.type, e.tag, e.data
              FROM unnest(e_append, e_offset, e_type, e_tag, e_data) AS e (append, "offset", type, tag, data);
            RETURN QUERY
            SELECT u.n::integer, 'appended', u.stream, u.head + 1, u.last, u.at, u.head
              FROM unnest(a_stream, lasts, ats, heads) WITH ORDINALITY AS u (stream, last, at, head, n)
             ORDER BY u.n;
            RETURN;
        END IF;
    END IF;

    IF cardinality(k_append) > 0 THEN
        INSERT INTO keys AS k (scope, name, digest, expires_at)
        SELECT u.scope, u.name, u.digest, clock_timestamp() + make_interval(secs => u.seconds)
          FROM unnest(k_scope, k_name, k_digest, k_seconds) AS u (scope, name, digest, seconds)
         ORDER BY u.scope, u.name
        ON CONFLICT (scope, name) DO UPDATE
           SET digest = excluded.digest, stream = NULL, first = NULL, last = NULL, expires_at = excluded.expires_at
         WHERE k.expires_at < clock_timestamp();
    END IF;

    -- A stream is created only for an append that can be the first of a stream. So a refused append leaves no empty one.
    IF EXISTS (SELECT FROM unnest(a_expected, a_seq) AS u (expected, seq)
                WHERE u.expected <= 0 AND coalesce(u.seq, 1) = 1) THEN
        INSERT INTO streams (name, category)
        SELECT u.stream, u.category
          FROM unnest(a_stream, a_category, a_expected, a_seq) WITH ORDINALITY AS u (stream, category, expected, seq, n)
         WHERE u.expected <= 0 AND coalesce(u.seq, 1) = 1
           AND NOT EXISTS (SELECT FROM streams s WHERE s.name = u.stream)
           AND NOT EXISTS (SELECT FROM unnest(k_append, k_scope, k_name) AS q (append, scope, name)
                             JOIN keys k ON k.scope = q.scope AND k.name = q.name
                            WHERE q.append = u.n AND k.stream IS NOT NULL)
         ORDER BY u.stream
        ON CONFLICT DO NOTHING;
    END IF;

    SELECT array_agg(l.id) INTO locked
      FROM (SELECT s.id FROM streams s WHERE s.name = ANY (a_stream) ORDER BY s.id FOR NO KEY UPDATE) l;

    SELECT array_agg(j.id ORDER BY j.n), array_agg(coalesce(j.head, 0) ORDER BY j.n), array_agg(j.at ORDER BY j.n),
           array_agg(j.verdict ORDER BY j.n), array_agg(j.verdict = 'appended' ORDER BY j.n),
           array_agg(j.held_stream ORDER BY j.n),
           array_agg(CASE j.verdict WHEN 'appended' THEN j.head + 1 WHEN 'repeated_key' THEN j.held_first
                                    WHEN 'repeated_seq' THEN j.first END ORDER BY j.n),
           array_agg(CASE j.verdict WHEN 'appended' THEN j.head + j.count WHEN 'repeated_key' THEN j.held_last
                                    WHEN 'repeated_seq' THEN j.last END ORDER BY j.n)
      INTO ids, heads, ats, verdicts, stands, held_streams, firsts, lasts
      FROM (
        SELECT u.n, s.id, s.head, u.count, greatest(clock_timestamp(), s.last_at) AS at, w.first, w.last,
               held.stream AS held_stream, held.first AS held_first, held.last AS held_last,
               CASE
                   WHEN held.reused THEN 'key_reused'
                   WHEN held.stream IS NOT NULL THEN 'repeated_key'
                   WHEN s.id IS NULL AND coalesce(u.seq, 1) > 1 THEN 'fenced_sequence'
                   WHEN s.id IS NULL THEN 'wrong_position'
                   -- Before "closed": an append that closed its own writer may be retried.
                   WHEN u.epoch = w.epoch AND u.seq = w.seq THEN 'repeated_seq'
                   WHEN w.closed THEN 'fenced_closed'
                   WHEN u.epoch < w.epoch THEN 'fenced_epoch'
                   WHEN u.epoch = w.epoch AND u.seq <> w.seq + 1 THEN 'fenced_sequence'
                   WHEN u.epoch > coalesce(w.epoch, -1) AND u.seq <> 1 THEN 'fenced_sequence'
                   WHEN u.expected >= 0 AND u.expected <> s.head THEN 'wrong_position'
                   ELSE 'appended'
               END AS verdict
          FROM unnest(a_stream, a_expected, a_count, a_writer, a_epoch, a_seq)
               WITH ORDINALITY AS u (stream, expected, count, writer, epoch, seq, n)
          -- A stream that another transaction created after our locks were taken is not locked by us, so we must not
          -- write to it: the append is refused as if the stream did not exist.
          LEFT JOIN streams s ON s.name = u.stream AND s.id = ANY (locked)
          LEFT JOIN writers w ON w.stream = s.id AND w.name = u.writer
          LEFT JOIN LATERAL (
                SELECT bool_or(q.digest IS NULL OR k.digest IS DISTINCT FROM q.digest)
                       OR count(DISTINCT (k.stream, k.first)) > 1 AS reused,
                       min(k.stream) AS stream, min(k.first) AS first, min(k.last) AS last
                  FROM unnest(k_append, k_scope, k_name, k_digest) AS q (append, scope, name, digest)
                  JOIN keys k ON k.scope = q.scope AND k.name = q.name
                 WHERE q.append = u.n AND k.stream IS NOT NULL
               ) held ON cardinality(k_append) > 0
      ) j;

    INSERT INTO events (stream, position, at, type, tag, data)
    SELECT ids[e.append], heads[e.append] + e."offset", ats[e.append], e.type, e.tag, e.data
      FROM unnest(e_append, e_offset, e_type, e_tag, e_data) AS e (append, "offset", type, tag, data)
     WHERE stands[e.append];

    UPDATE streams s SET head = u.last, last_at = u.at
      FROM unnest(ids, lasts, ats, stands) AS u (id, last, at, stands)
     WHERE s.id = u.id AND u.stands;

    -- An append without an epoch closes the writer on behalf of somebody else. It sets `closed` but keeps the row's epoch,
    -- seq, positions and owner, so that the writer's own process can still recognise its last append. `released` means
    -- that the writer's process holds nothing more for it: true at once if the writer closes itself.
    INSERT INTO writers AS w (stream, name, epoch, seq, first, last, owner, closed, released)
    SELECT u.id, u.writer, coalesce(u.epoch, 0), coalesce(u.seq, 0), u.first, u.last, a_owner, u.closes, u.closes
      FROM unnest(ids, a_writer, a_epoch, a_seq, a_closes, firsts, lasts, stands)
           AS u (id, writer, epoch, seq, closes, first, last, stands)
     WHERE u.stands AND u.writer IS NOT NULL
    ON CONFLICT (stream, name) DO UPDATE SET
        epoch    = CASE WHEN excluded.seq = 0 THEN w.epoch ELSE excluded.epoch END,
        seq      = CASE WHEN excluded.seq = 0 THEN w.seq   ELSE excluded.seq   END,
        first    = CASE WHEN excluded.seq = 0 THEN w.first ELSE excluded.first END,
        last     = CASE WHEN excluded.seq = 0 THEN w.last  ELSE excluded.last  END,
        owner    = CASE WHEN excluded.seq = 0 THEN w.owner ELSE excluded.owner END,
        closed   = excluded.closed,
        released = excluded.closed AND excluded.seq > 0;

    IF cardinality(k_append) > 0 THEN
        UPDATE keys k SET stream = ids[q.append], first = firsts[q.append], last = lasts[q.append]
          FROM unnest(k_append, k_scope, k_name) AS q (append, scope, name)
         WHERE stands[q.append] AND k.scope = q.scope AND k.name = q.name;
        DELETE FROM keys k  -- a key is stored only if its append was accepted
         USING unnest(k_append, k_scope, k_name) AS q (append, scope, name)
         WHERE NOT stands[q.append] AND k.stream IS NULL AND k.scope = q.scope AND k.name = q.name;
    END IF;

    RETURN QUERY
    SELECT u.n::integer, u.verdict, coalesce(h.name, u.stream), u.first, u.last, u.at, u.head
      FROM unnest(a_stream, verdicts, held_streams, firsts, lasts, ats, heads)
           WITH ORDINALITY AS u (stream, verdict, held, first, last, at, head, n)
      LEFT JOIN streams h ON h.id = u.held
     ORDER BY u.n;
END $$;

-- Grants the role that serves what it needs and nothing more: it can append and read events, but neither change nor
-- remove one. `tokentape migrate` runs it as the owner at every migration.
CREATE FUNCTION eventstore.grant_to(app name) RETURNS void LANGUAGE plpgsql
SET search_path = eventstore, pg_catalog
AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA eventstore TO %I', app);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA eventstore FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON events TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (head, last_at) ON streams TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON writers TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON keys TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON snapshots TO %I', app);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA eventstore TO %I', app);
END $$;
