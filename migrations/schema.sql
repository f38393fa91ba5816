-- What all revisions together make. Never applied; refresh it: python -m tests.migrations.refresh
CREATE SCHEMA eventstore;
CREATE SCHEMA tokentape_auth;
CREATE SCHEMA tokentape_files;
CREATE FUNCTION eventstore.append(a_stream text[], a_category text[], a_expected bigint[], a_count integer[], a_writer text[], a_epoch integer[], a_seq bigint[], a_closes boolean[], a_owner bigint, k_append integer[], k_scope text[], k_name text[], k_digest bytea[], k_seconds double precision[], e_append integer[], e_offset integer[], e_type text[], e_tag text[], e_data json[]) RETURNS TABLE(append integer, verdict text, stream text, first bigint, last bigint, at timestamp with time zone, head bigint)
    LANGUAGE sql
    SET search_path TO 'eventstore', 'pg_catalog'
    AS $$
    SELECT * FROM append_1(a_stream, a_category, a_expected, a_count, a_writer, a_epoch, a_seq, a_closes, a_owner,
                           k_append, k_scope, k_name, k_digest, k_seconds, e_append, e_offset, e_type, e_tag, e_data)
$$;
CREATE FUNCTION eventstore.append_1(a_stream text[], a_category text[], a_expected bigint[], a_count integer[], a_writer text[], a_epoch integer[], a_seq bigint[], a_closes boolean[], a_owner bigint, k_append integer[], k_scope text[], k_name text[], k_digest bytea[], k_seconds double precision[], e_append integer[], e_offset integer[], e_type text[], e_tag text[], e_data json[]) RETURNS TABLE(append integer, verdict text, stream text, first bigint, last bigint, at timestamp with time zone, head bigint)
    LANGUAGE plpgsql
    SET search_path TO 'eventstore', 'pg_catalog'
    SET plan_cache_mode TO 'force_generic_plan'
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
CREATE FUNCTION eventstore.erase_streams(a_category text, a_seconds double precision, a_limit integer) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'eventstore', 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
DECLARE
    one record;
    gone bigint := 0;
BEGIN
    -- Runs with the owner's rights, because the role that serves may remove nothing. That role may erase only streams of
    -- an ephemeral category. A stream gets its category with its first event, and the role cannot change it.
    IF a_category NOT LIKE 'ephemeral%' AND NOT pg_has_role(session_user, current_user, 'MEMBER') THEN
        RAISE insufficient_privilege
            USING MESSAGE = 'only the owner erases streams of a category that does not begin with "ephemeral"';
    END IF;
    FOR one IN
        SELECT s.id, s.name, s.head, s.earliest
          FROM streams s
         WHERE s.category = a_category AND s.head >= s.earliest
           AND s.last_at < clock_timestamp() - make_interval(secs => a_seconds)
           AND NOT EXISTS (SELECT FROM writers w WHERE w.stream = s.id AND NOT w.closed)
         ORDER BY s.id LIMIT a_limit
           FOR UPDATE SKIP LOCKED
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM writers w WHERE w.stream = one.id AND NOT w.closed);
        DELETE FROM events e WHERE e.stream = one.id;
        DELETE FROM snapshots p WHERE p.stream = one.id;
        DELETE FROM writers w WHERE w.stream = one.id;
        UPDATE streams s SET earliest = s.head + 1, category = '', last_at = 'infinity' WHERE s.id = one.id;
        RETURN NEXT one.name;
        gone := gone + one.head + 1 - one.earliest;
        EXIT WHEN gone >= 10000;
    END LOOP;
END $$;
CREATE FUNCTION eventstore.grant_to(app name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'eventstore', 'pg_catalog'
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
CREATE FUNCTION tokentape_auth.grant_to(app name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'tokentape_auth', 'pg_catalog'
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tokentape_auth TO %I', app);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA tokentape_auth FROM %I', app);
    EXECUTE format('GRANT SELECT ON keys TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (ended_at), DELETE ON sessions TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (expires_at, reader, uses, last_use), DELETE ON tickets TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (amount), DELETE ON usage TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (counts, at), DELETE ON servers TO %I', app);
END $$;
CREATE FUNCTION tokentape_files.drop_chunks(a_upload text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'tokentape_files', 'pg_catalog', 'pg_temp'
    AS $$
    DELETE FROM chunks c WHERE c.upload = a_upload AND NOT EXISTS (SELECT FROM files f WHERE f.upload = a_upload)
$$;
CREATE FUNCTION tokentape_files.drop_upload(a_upload text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'tokentape_files', 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    DELETE FROM uploads u WHERE u.name = a_upload;
    IF FOUND THEN
        PERFORM drop_chunks(a_upload);
    END IF;
END $$;
CREATE FUNCTION tokentape_files.finish_upload(a_upload text, a_tenant text, a_digest text, a_media_type text, a_size bigint, a_seconds double precision) RETURNS TABLE(media_type text, size bigint, created_at timestamp with time zone, expires_at timestamp with time zone, created boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'tokentape_files', 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => a_seconds);
BEGIN
    DELETE FROM uploads u WHERE u.name = a_upload;
    IF FOUND THEN
        IF (SELECT sum(octet_length(c.data)) FROM chunks c WHERE c.upload = a_upload) = a_size THEN
            INSERT INTO files AS f (tenant, digest, upload, media_type, size, expires_at, sweep_at)
            VALUES (a_tenant, a_digest, a_upload, a_media_type, a_size, until, until)
            ON CONFLICT (tenant, digest) DO UPDATE SET expires_at = excluded.expires_at, sweep_at = excluded.sweep_at;
        END IF;
        PERFORM drop_chunks(a_upload);
    END IF;
    RETURN QUERY SELECT f.media_type, f.size, f.created_at, f.expires_at, f.upload = a_upload
                   FROM files f WHERE f.tenant = a_tenant AND f.digest = a_digest;
END $$;
CREATE FUNCTION tokentape_files.grant_to(app name) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'tokentape_files', 'pg_catalog'
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tokentape_files TO %I', app);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA tokentape_files FROM %I', app);
    EXECUTE format('GRANT SELECT, UPDATE (sweep_at) ON files TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (touched_at) ON uploads TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON chunks TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (at) ON uses TO %I', app);
END $$;
CREATE FUNCTION tokentape_files.release(a_conversations text[], a_seconds double precision) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'tokentape_files', 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    over text[]; unbegun text[];
    before timestamptz := clock_timestamp() - make_interval(secs => a_seconds);
    ended bigint;
BEGIN
    SELECT array_agg(n.name) FILTER (WHERE s.last_at = 'infinity'), array_agg(n.name) FILTER (WHERE s.name IS NULL)
      INTO over, unbegun
      FROM unnest(a_conversations) AS n (name)
      LEFT JOIN eventstore.streams s ON s.name = n.name;
    PERFORM FROM files f
      WHERE (f.tenant, f.digest) IN (SELECT u.tenant, u.digest FROM uses u WHERE u.conversation = ANY (over || unbegun))
      ORDER BY f.tenant, f.digest FOR NO KEY UPDATE;
    WITH gone AS (
        DELETE FROM uses u
         WHERE u.conversation = ANY (over) OR (u.conversation = ANY (unbegun) AND u.at < before)
        RETURNING u.tenant, u.digest, u.conversation
    ), due AS (
        UPDATE files f
           SET sweep_at = CASE WHEN g.erased THEN clock_timestamp() ELSE f.expires_at END
          FROM (SELECT g.tenant, g.digest, bool_or(g.conversation = ANY (over)) AS erased
                  FROM gone g GROUP BY g.tenant, g.digest) g
         WHERE f.tenant = g.tenant AND f.digest = g.digest AND f.sweep_at IS NULL
    )
    SELECT count(*) INTO ended FROM gone;
    RETURN ended;
END $$;
CREATE FUNCTION tokentape_files.sweep(a_limit integer, a_seconds double precision) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'tokentape_files', 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    one record;
    removed bigint := 0;
    now timestamptz := clock_timestamp();
BEGIN
    FOR one IN
        SELECT f.tenant, f.digest, f.upload FROM files f
         WHERE f.sweep_at <= now ORDER BY f.sweep_at LIMIT a_limit FOR UPDATE SKIP LOCKED
    LOOP
        IF EXISTS (SELECT FROM uses u WHERE u.tenant = one.tenant AND u.digest = one.digest) THEN
            UPDATE files f SET sweep_at = NULL WHERE f.tenant = one.tenant AND f.digest = one.digest;
        ELSE
            DELETE FROM files f WHERE f.tenant = one.tenant AND f.digest = one.digest;
            PERFORM drop_chunks(one.upload);
            removed := removed + 1;
        END IF;
    END LOOP;
    FOR one IN
        SELECT u.name FROM uploads u
         WHERE u.touched_at < now - make_interval(secs => a_seconds)
         ORDER BY u.touched_at LIMIT a_limit FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM uploads u WHERE u.name = one.name;
        PERFORM drop_chunks(one.name);
        removed := removed + 1;
    END LOOP;
    RETURN removed;
END $$;
CREATE TABLE eventstore.compatible (
    since text NOT NULL
);
CREATE TABLE eventstore.events (
    stream bigint NOT NULL,
    "position" bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    type text NOT NULL,
    tag text,
    data json NOT NULL,
    CONSTRAINT events_position_check CHECK (("position" >= 1))
);
CREATE TABLE eventstore.keys (
    scope text NOT NULL,
    name text NOT NULL,
    digest bytea,
    stream bigint,
    first bigint,
    last bigint,
    expires_at timestamp with time zone
);
CREATE TABLE eventstore.revision (
    version_num character varying(32) NOT NULL
);
CREATE TABLE eventstore.snapshots (
    stream bigint NOT NULL,
    name text NOT NULL,
    "position" bigint NOT NULL,
    data json NOT NULL
);
CREATE TABLE eventstore.streams (
    id bigint NOT NULL,
    name text NOT NULL,
    category text NOT NULL,
    head bigint DEFAULT 0 NOT NULL,
    earliest bigint DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT streams_earliest_check CHECK ((earliest >= 1)),
    CONSTRAINT streams_head_check CHECK ((head >= 0)),
    CONSTRAINT streams_stay_erased CHECK (((last_at < 'infinity'::timestamp with time zone) OR (head < earliest)))
)
WITH (fillfactor='50');
ALTER TABLE eventstore.streams ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME eventstore.streams_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE eventstore.writers (
    stream bigint NOT NULL,
    name text NOT NULL,
    epoch integer NOT NULL,
    seq bigint NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    owner bigint NOT NULL,
    closed boolean DEFAULT false NOT NULL,
    released boolean DEFAULT false NOT NULL
)
WITH (fillfactor='50');
CREATE TABLE tokentape_auth.keys (
    hash bytea NOT NULL,
    id text NOT NULL,
    tenant text NOT NULL,
    name text DEFAULT ''::text NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    limits text DEFAULT ''::text NOT NULL,
    CONSTRAINT keys_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT keys_scopes_check CHECK ((cardinality(scopes) > 0))
);
CREATE UNLOGGED TABLE tokentape_auth.servers (
    server text NOT NULL,
    counts jsonb NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE tokentape_auth.sessions (
    hash bytea NOT NULL,
    id text NOT NULL,
    key bytea,
    signer text,
    tenant text NOT NULL,
    subject text NOT NULL,
    scopes text[] NOT NULL,
    conversations text[],
    expires_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT sessions_hash_check CHECK ((octet_length(hash) = 32))
);
CREATE TABLE tokentape_auth.tickets (
    hash bytea NOT NULL,
    id text NOT NULL,
    key bytea,
    session bytea,
    signer text,
    anonymous boolean NOT NULL,
    tenant text NOT NULL,
    subject text NOT NULL,
    scopes text[] NOT NULL,
    conversations text[],
    stream text NOT NULL,
    transport text NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ends_at timestamp with time zone NOT NULL,
    reader bytea,
    uses integer DEFAULT 0 NOT NULL,
    last_use bytea,
    CONSTRAINT tickets_hash_check CHECK ((octet_length(hash) = 32))
);
CREATE TABLE tokentape_auth.usage (
    account text NOT NULL,
    meter text NOT NULL,
    day date NOT NULL,
    amount double precision NOT NULL
);
CREATE TABLE tokentape_files.chunks (
    upload text NOT NULL,
    number integer NOT NULL,
    data bytea NOT NULL
);
ALTER TABLE ONLY tokentape_files.chunks ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE tokentape_files.files (
    tenant text NOT NULL,
    digest text NOT NULL,
    upload text NOT NULL,
    media_type text NOT NULL,
    size bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    sweep_at timestamp with time zone,
    CONSTRAINT files_digest_check CHECK ((digest ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT files_size_check CHECK ((size > 0))
);
CREATE TABLE tokentape_files.uploads (
    name text NOT NULL,
    touched_at timestamp with time zone NOT NULL
);
CREATE TABLE tokentape_files.uses (
    tenant text NOT NULL,
    digest text NOT NULL,
    conversation text NOT NULL,
    at timestamp with time zone NOT NULL
);
ALTER TABLE ONLY eventstore.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (stream, "position");
ALTER TABLE ONLY eventstore.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (scope, name);
ALTER TABLE ONLY eventstore.revision
    ADD CONSTRAINT revision_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY eventstore.snapshots
    ADD CONSTRAINT snapshots_pkey PRIMARY KEY (stream, name, "position");
ALTER TABLE ONLY eventstore.streams
    ADD CONSTRAINT streams_name_key UNIQUE (name);
ALTER TABLE ONLY eventstore.streams
    ADD CONSTRAINT streams_pkey PRIMARY KEY (id);
ALTER TABLE ONLY eventstore.writers
    ADD CONSTRAINT writers_pkey PRIMARY KEY (stream, name);
ALTER TABLE ONLY tokentape_auth.keys
    ADD CONSTRAINT keys_id_key UNIQUE (id);
ALTER TABLE ONLY tokentape_auth.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (hash);
ALTER TABLE ONLY tokentape_auth.servers
    ADD CONSTRAINT servers_pkey PRIMARY KEY (server);
ALTER TABLE ONLY tokentape_auth.sessions
    ADD CONSTRAINT sessions_id_key UNIQUE (id);
ALTER TABLE ONLY tokentape_auth.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (hash);
ALTER TABLE ONLY tokentape_auth.tickets
    ADD CONSTRAINT tickets_id_key UNIQUE (id);
ALTER TABLE ONLY tokentape_auth.tickets
    ADD CONSTRAINT tickets_pkey PRIMARY KEY (hash);
ALTER TABLE ONLY tokentape_auth.usage
    ADD CONSTRAINT usage_pkey PRIMARY KEY (account, meter, day);
ALTER TABLE ONLY tokentape_files.chunks
    ADD CONSTRAINT chunks_pkey PRIMARY KEY (upload, number);
ALTER TABLE ONLY tokentape_files.files
    ADD CONSTRAINT files_pkey PRIMARY KEY (tenant, digest);
ALTER TABLE ONLY tokentape_files.files
    ADD CONSTRAINT files_upload_key UNIQUE (upload);
ALTER TABLE ONLY tokentape_files.uploads
    ADD CONSTRAINT uploads_pkey PRIMARY KEY (name);
ALTER TABLE ONLY tokentape_files.uses
    ADD CONSTRAINT uses_pkey PRIMARY KEY (tenant, digest, conversation);
CREATE INDEX keys_expiry ON eventstore.keys USING btree (expires_at) WHERE (expires_at IS NOT NULL);
CREATE INDEX streams_by_category ON eventstore.streams USING btree (category, id);
CREATE INDEX writers_open ON eventstore.writers USING btree (owner) WHERE (NOT closed);
CREATE INDEX writers_unreleased ON eventstore.writers USING btree (owner) WHERE (closed AND (NOT released));
CREATE INDEX sessions_by_expiry ON tokentape_auth.sessions USING btree (expires_at);
CREATE INDEX tickets_by_expiry ON tokentape_auth.tickets USING btree (expires_at);
CREATE INDEX usage_by_day ON tokentape_auth.usage USING btree (day);
CREATE INDEX files_to_sweep ON tokentape_files.files USING btree (sweep_at) WHERE (sweep_at IS NOT NULL);
CREATE INDEX uploads_by_time ON tokentape_files.uploads USING btree (touched_at);
CREATE INDEX uses_by_conversation ON tokentape_files.uses USING btree (conversation);
ALTER TABLE ONLY tokentape_auth.sessions
    ADD CONSTRAINT sessions_key_fkey FOREIGN KEY (key) REFERENCES tokentape_auth.keys(hash);
ALTER TABLE ONLY tokentape_auth.tickets
    ADD CONSTRAINT tickets_key_fkey FOREIGN KEY (key) REFERENCES tokentape_auth.keys(hash);
ALTER TABLE ONLY tokentape_files.uses
    ADD CONSTRAINT uses_tenant_digest_fkey FOREIGN KEY (tenant, digest) REFERENCES tokentape_files.files(tenant, digest);
