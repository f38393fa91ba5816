-- Every statement of the Postgres backend, by name. Appending is the function eventstore.append_1, which is defined in
-- migrations/sql/0001_event_log.up.sql and gets its name in 0004_versioned_append.up.sql.

-- name: append
SELECT append, verdict, stream, first, last, at, head
  FROM append_1($1::text[], $2::text[], $3::bigint[], $4::integer[],
              $5::text[], $6::integer[], $7::bigint[], $8::boolean[], $9::bigint,
              $10::integer[], $11::text[], $12::text[], $13::bytea[], $14::double precision[],
              $15::integer[], $16::integer[], $17::text[], $18::text[], $19::json[]);

-- name: append_texts
-- As `append`, but each array, except for those of keys, is one text: U+001F separates its elements, U+001E is NULL.
SELECT append, verdict, stream, first, last, at, head
  FROM append_1(string_to_array($1::text, U&'\001F'), string_to_array($2::text, U&'\001F'),
              string_to_array($3::text, U&'\001F')::bigint[], string_to_array($4::text, U&'\001F')::integer[],
              string_to_array($5::text, U&'\001F', U&'\001E'),
              string_to_array($6::text, U&'\001F', U&'\001E')::integer[],
              string_to_array($7::text, U&'\001F', U&'\001E')::bigint[],
              string_to_array($8::text, U&'\001F')::boolean[], $9::bigint,
              $10::integer[], $11::text[], $12::text[], $13::bytea[], $14::double precision[],
              string_to_array($15::text, U&'\001F')::integer[], string_to_array($16::text, U&'\001F')::integer[],
              string_to_array($17::text, U&'\001F'), string_to_array($18::text, U&'\001F', U&'\001E'),
              string_to_array($19::text, U&'\001F')::json[]);

-- name: append_during
-- As `append`, for a batch in which an append has `during`: it has a seq of 0 and no epoch. The
-- function takes that for closing a writer without being it, and closes nothing, because a_closes is false. But if the
-- writer has never written, the function would store a row for it. To prevent that, such an append is given an epoch
-- that no writer reaches; then the function refuses it, and the refusal is renamed to fenced_unknown. The look at
-- `writers` comes before the function has its locks. That is safe: a writer that has written keeps its row until its
-- stream is erased, and an erased stream takes no append.
SELECT a.append,
       CASE WHEN $7[a.append] = 0 AND (a.verdict = 'fenced_sequence' OR a.verdict = 'wrong_position' AND a.head = 0)
            THEN 'fenced_unknown' ELSE a.verdict END AS verdict,
       a.stream, a.first, a.last, a.at, a.head
  FROM append_1($1::text[], $2::text[], $3::bigint[], $4::integer[],
              $5::text[],
              (SELECT array_agg(CASE WHEN u.seq = 0 AND NOT EXISTS (
                                            SELECT FROM streams s JOIN writers w ON w.stream = s.id
                                             WHERE s.name = u.stream AND w.name = u.writer)
                                     THEN 2147483647 ELSE u.epoch END ORDER BY u.n)
                 FROM unnest($1::text[], $5::text[], $6::integer[], $7::bigint[])
                      WITH ORDINALITY AS u (stream, writer, epoch, seq, n)),
              $7::bigint[], $8::boolean[], $9::bigint,
              $10::integer[], $11::text[], $12::text[], $13::bytea[], $14::double precision[],
              $15::integer[], $16::integer[], $17::text[], $18::text[], $19::json[]) a;

-- name: read
-- Head and events come from one statement, so from one snapshot: "the head is N and nothing follows N" is
-- one fact. Each read is bounded in events and in bytes ($4), but its first event always comes. Without the bound in
-- bytes a page of large events would be loaded whole. Small values are measured as they are stored; only large ones are
-- decompressed.
SELECT q.n, s.head, s.earliest, e.position, e.type, e.at, e.tag, e.data
  FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS q (stream, after, most, n)
  JOIN streams s ON s.name = q.stream
  LEFT JOIN LATERAL (
        SELECT e.position, e.type, e.at, e.tag, e.data
          FROM events e
         WHERE e.stream = s.id AND e.position > q.after AND e.position <= (
                SELECT max(sized.position)
                  FROM (SELECT near.position, sum(near.size) OVER (ORDER BY near.position) - near.size AS before
                          FROM (SELECT n.position,
                                       CASE WHEN pg_column_size(n.data) > 1000 THEN octet_length(n.data::text)
                                            ELSE pg_column_size(n.data) END AS size
                                  FROM events n
                                 WHERE n.stream = s.id AND n.position > q.after
                                 ORDER BY n.position
                                 LIMIT q.most) near) sized
                 WHERE sized.before < $4::bigint)
         ORDER BY e.position
       ) e ON true
 ORDER BY q.n, e.position;

-- name: heads
SELECT q.n, s.head, s.earliest
  FROM unnest($1::text[]) WITH ORDINALITY AS q (stream, n)
  JOIN streams s ON s.name = q.stream;

-- name: find_keys
SELECT q.n, s.name AS stream, k.first, k.last, k.digest
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS q (scope, name, n)
  JOIN keys k ON k.scope = q.scope AND k.name = q.name
  JOIN streams s ON s.id = k.stream
 WHERE k.expires_at IS NULL OR k.expires_at > clock_timestamp();

-- name: save_snapshot
-- FOR KEY SHARE does not conflict with appends, but it does with erase_streams: either this waits and then finds the
-- stream erased, or erase_streams waits and then removes the snapshot too. A snapshot that is ahead of the log is of a
-- past that the log has left, and is not stored.
INSERT INTO snapshots (stream, name, position, data)
SELECT s.id, $2, $3, $4::json
  FROM streams s WHERE s.name = $1 AND s.head >= s.earliest AND s.head >= $3 FOR KEY SHARE
ON CONFLICT DO NOTHING;

-- name: load_snapshots
SELECT q.n, p.position, p.data
  FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS q (stream, name, at_most, n)
  JOIN streams s ON s.name = q.stream
 CROSS JOIN LATERAL (
        SELECT p.position, p.data
          FROM snapshots p
         WHERE p.stream = s.id AND p.name = q.name AND p.position <= q.at_most
         ORDER BY p.position DESC LIMIT 1
       ) p;

-- name: list_streams
-- Without `before` ($2) from the newest on. The bound is always there, so that it is a condition of the index. With
-- `$2 IS NULL OR …` it would be a filter, and a page far back would walk over all newer streams.
SELECT name, id, head, created_at
  FROM streams
 WHERE category = $1 AND head >= earliest AND id < coalesce($2::bigint, 9223372036854775807)
 ORDER BY id DESC LIMIT $3;

-- name: trim
-- Runs as the owner of the tables: the role that serves may not remove events.
WITH bounds AS (
    SELECT id, greatest(earliest, least($2::bigint, head)) AS earliest FROM streams WHERE name = $1 FOR NO KEY UPDATE
), gone AS (
    DELETE FROM events e USING bounds b WHERE e.stream = b.id AND e.position < b.earliest
)
UPDATE streams s SET earliest = b.earliest FROM bounds b WHERE s.id = b.id
RETURNING s.head, s.earliest;

-- name: erase_streams
-- The function is defined in migrations/sql/0002_erasing.up.sql and runs with the rights of the tables' owner.
SELECT stream FROM erase_streams($1, $2, $3) AS stream;

-- name: expire_keys
-- now() and not clock_timestamp(): only a value that is the same during the whole statement can be a condition of the
-- index. Removes at most $1 keys, the oldest first. If it removes fewer, no more were due.
DELETE FROM keys k USING (
    SELECT scope, name FROM keys WHERE expires_at < now()
     ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
) old WHERE k.scope = old.scope AND k.name = old.name
RETURNING 1;

-- name: writers
SELECT q.n, w.epoch, w.owner, w.closed, w.released, w.owner = ANY (ARRAY (
         SELECT l.classid::bigint << 32 | l.objid::bigint
           FROM pg_locks l
          WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       )) AS owner_alive
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS q (stream, name, n)
  JOIN streams s ON s.name = q.stream
  JOIN writers w ON w.stream = s.id AND w.name = q.name;

-- name: release
-- The rows are locked in the order of their streams, as append_1 locks them. Two transactions that lock the same rows
-- in different orders end in a deadlock.
WITH held AS MATERIALIZED (
    SELECT w.stream, w.name
      FROM unnest($1::text[], $2::text[]) AS q (stream, name)
      JOIN streams s ON s.name = q.stream
      JOIN writers w ON w.stream = s.id AND w.name = q.name
     ORDER BY w.stream, w.name FOR NO KEY UPDATE OF w
)
UPDATE writers w SET released = true FROM held WHERE w.stream = held.stream AND w.name = held.name;

-- name: closed_by_others
SELECT s.name AS stream, w.name
  FROM writers w JOIN streams s ON s.id = w.stream
 WHERE w.owner = $1 AND w.closed AND NOT w.released;

-- name: open_writers
-- 1. The owners that have open writers, each found by one step along the index. 2. The open writers
-- of those owners that are this process or hold no liveness lock. So the cost depends on the number of owners and on
-- the size of the answer, and not on the number of all open writers.
WITH RECURSIVE owners (owner) AS (
    VALUES (-1::bigint)
    UNION ALL
    SELECT (SELECT w.owner FROM writers w WHERE NOT w.closed AND w.owner > o.owner ORDER BY w.owner LIMIT 1)
      FROM owners o
     WHERE o.owner IS NOT NULL
)
SELECT s.name AS stream, w.name, w.epoch, w.owner
  FROM owners o
 CROSS JOIN LATERAL (
        -- OFFSET 0 keeps this a query for each owner. Otherwise the planner may read all open writers first.
        SELECT w.stream, w.name, w.epoch, w.owner FROM writers w WHERE w.owner = o.owner AND NOT w.closed OFFSET 0
       ) w
  JOIN streams s ON s.id = w.stream
 WHERE o.owner = $1 OR o.owner <> ALL (ARRAY (
         SELECT l.classid::bigint << 32 | l.objid::bigint
           FROM pg_locks l
          WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       ));

-- name: hold_liveness_lock
SELECT pg_advisory_lock($1);

-- name: count_other_processes
-- The processes that hold a liveness lock, besides the process $1.
SELECT count(*)::integer
  FROM pg_locks l
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND NOT (l.classid::bigint = ($1::bigint >> 32) AND l.objid::bigint = ($1::bigint & 4294967295));

-- name: clock
SELECT clock_timestamp() AS at;

-- name: apply_settings
-- Runs after connecting. In the startup packet a pooler would refuse the parameters that it does not know.
SELECT name, set_config(name, value, false) AS value
  FROM unnest($1::text[], $2::text[]) AS wanted (name, value);

-- name: inspect_server
-- What the connection leads to, and whether the settings still hold in a transaction after the one that made them.
SELECT pg_is_in_recovery() AS standby, pg_backend_pid() AS pid, pg_encoding_to_char(d.encoding) AS encoding,
       ARRAY (SELECT coalesce(current_setting(w.name, true), '')
                FROM unnest($1::text[]) WITH ORDINALITY AS w (name, n) ORDER BY w.n) AS settings
  FROM pg_database d WHERE d.datname = current_database();

-- name: identity
-- Which history of which database cluster this is. A promoted standby continues in a new, higher timeline. The name of
-- the newest WAL file begins with the timeline; pg_control_checkpoint() shows a new one only after a checkpoint.
SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster,
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint AS timeline;

-- name: backend
SELECT pg_backend_pid() AS pid;

-- name: set_lock_timeout
SELECT set_config('lock_timeout', $1, false);

-- name: alive
SELECT 1;

-- name: notify
SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload;

-- name: revision
SELECT version_num AS revision FROM eventstore.revision;

-- name: compatible
SELECT since AS revision FROM eventstore.compatible;
