-- Every statement of the store of files, by name. The tables and functions are made in migrations/sql/0007_files.up.sql.
-- Each may be sent again after a lost answer: it then changes nothing and answers the same.

-- name: describe
-- $3: only files that one of these conversations uses; NULL for all.
SELECT f.digest, f.media_type, f.size, f.created_at
  FROM tokentape_files.files f
 WHERE f.tenant = $1::text AND f.digest = ANY ($2::text[])
   AND ($3::text[] IS NULL
        OR EXISTS (SELECT FROM tokentape_files.uses u
                    WHERE u.tenant = f.tenant AND u.digest = f.digest AND u.conversation = ANY ($3)));

-- name: read_chunk
-- No row for an unknown file; a row without data behind the last chunk.
SELECT f.size, c.data
  FROM tokentape_files.files f
  LEFT JOIN tokentape_files.chunks c ON c.upload = f.upload AND c.number = $3::integer
 WHERE f.tenant = $1::text AND f.digest = $2::text;

-- name: use
-- Returns the digests that are there; nothing is kept unless all are. The files are locked first, in one order: a sweep that
-- is removing one is waited for, and then that file is not there.
WITH held AS MATERIALIZED (
    SELECT f.tenant, f.digest
      FROM tokentape_files.files f
     WHERE f.tenant = $1::text AND f.digest = ANY ($3::text[])
     ORDER BY f.digest FOR NO KEY UPDATE
), found AS MATERIALIZED (
    SELECT h.tenant, h.digest FROM held h WHERE (SELECT count(*) FROM held) = cardinality($3)
), kept AS (
    UPDATE tokentape_files.files f SET sweep_at = NULL
      FROM found h
     WHERE f.tenant = h.tenant AND f.digest = h.digest AND f.sweep_at IS NOT NULL
), used AS (
    INSERT INTO tokentape_files.uses AS u (tenant, digest, conversation, at)
    SELECT h.tenant, h.digest, $2::text, clock_timestamp() FROM found h ORDER BY h.digest
    ON CONFLICT (tenant, digest, conversation) DO UPDATE SET at = excluded.at
)
SELECT h.digest FROM held h;

-- name: add_chunk
WITH touched AS (
    INSERT INTO tokentape_files.uploads AS u (name, touched_at) VALUES ($1::text, clock_timestamp())
    ON CONFLICT (name) DO UPDATE SET touched_at = excluded.touched_at
)
INSERT INTO tokentape_files.chunks (upload, number, data) VALUES ($1, $2::integer, $3::bytea)
ON CONFLICT (upload, number) DO NOTHING;

-- name: finish_upload
SELECT d.media_type, d.size, d.created_at, d.expires_at, d.created
  FROM tokentape_files.finish_upload($1::text, $2::text, $3::text, $4::text, $5::bigint, $6::double precision) d;

-- name: drop_upload
SELECT tokentape_files.drop_upload($1::text);

-- name: list_users
SELECT DISTINCT u.conversation FROM tokentape_files.uses u
 WHERE u.conversation > $1::text ORDER BY u.conversation LIMIT $2::integer;

-- name: release
SELECT tokentape_files.release($1::text[], $2::double precision) AS ended;

-- name: sweep
SELECT tokentape_files.sweep($1::integer, $2::double precision) AS removed;
