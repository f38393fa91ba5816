-- Every statement of the store of credentials, by name. The tables are made in migrations/sql/0005_auth.up.sql and 0006.
-- Times are the database's own: servers whose clocks differ agree on when a credential ends. Whatever is added is named by
-- its hash, so a statement that is sent again after a lost answer changes nothing and answers the same.

-- name: add_key
-- Runs as the owner. $6: seconds until it expires, NULL for never.
INSERT INTO tokentape_auth.keys AS k (hash, id, tenant, name, scopes, expires_at, limits)
VALUES ($1::bytea, $2::text, $3::text, $4::text, $5::text[],
        clock_timestamp() + make_interval(secs => $6::double precision), $7::text)
ON CONFLICT (hash) DO UPDATE SET name = k.name
RETURNING id, tenant, name, scopes, created_at, expires_at, revoked_at, NULL::date AS last_used, limits, '{}' AS used;

-- name: list_keys
-- $1: a tenant, or NULL for all. used: today's sums, by meter.
SELECT k.id, k.tenant, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at,
       (SELECT max(u.day) FROM tokentape_auth.usage u WHERE u.account = k.id AND u.meter = 'requests') AS last_used,
       k.limits,
       (SELECT coalesce(json_object_agg(u.meter, u.amount), '{}')::text FROM tokentape_auth.usage u
         WHERE u.account = k.id AND u.day = (clock_timestamp() AT TIME ZONE 'UTC')::date) AS used
  FROM tokentape_auth.keys k
 WHERE $1::text IS NULL OR k.tenant = $1
 ORDER BY k.created_at, k.id;

-- name: revoke_key
-- Runs as the owner. The first time stays, however often it is revoked.
UPDATE tokentape_auth.keys k SET revoked_at = coalesce(k.revoked_at, clock_timestamp())
 WHERE k.id = $1::text
RETURNING k.id, k.tenant, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at,
          (SELECT max(u.day) FROM tokentape_auth.usage u WHERE u.account = k.id AND u.meter = 'requests') AS last_used,
          k.limits, '{}' AS used;

-- name: look_up
-- At least one row: whether any key was ever made, and a row for each of the given hashes that is known. A session ends
-- with its key, a ticket with its key and its session. seconds_left is NULL for what never expires.
SELECT made.any_key, f.hash, f.kind, f.id, f.tenant, f.subject, f.scopes, f.conversations, f.stream, f.transport,
       f.uses, f.anonymous, f.signer, f.ended, f.limits, f.expires_at,
       extract(epoch FROM f.expires_at - clock_timestamp())::double precision AS seconds_left
  FROM (SELECT EXISTS (SELECT FROM tokentape_auth.keys) AS any_key) made
  LEFT JOIN (
        SELECT k.hash, 'key' AS kind, k.id, k.tenant, k.id AS subject, k.scopes, NULL::text[] AS conversations,
               NULL::text AS stream, NULL::text AS transport, 0 AS uses, false AS anonymous, NULL::text AS signer,
               k.revoked_at IS NOT NULL AS ended, k.limits, k.expires_at
          FROM unnest($1::bytea[]) AS u (hash)
          JOIN tokentape_auth.keys k ON k.hash = u.hash
        UNION ALL
        SELECT s.hash, 'ses', s.id, s.tenant, s.subject, s.scopes, s.conversations, NULL, NULL, 0, false, s.signer,
               s.ended_at IS NOT NULL OR k.revoked_at IS NOT NULL, coalesce(k.limits, ''),
               least(s.expires_at, k.expires_at)
          FROM unnest($1::bytea[]) AS u (hash)
          JOIN tokentape_auth.sessions s ON s.hash = u.hash
          LEFT JOIN tokentape_auth.keys k ON k.hash = s.key
        UNION ALL
        SELECT t.hash, 'tick', t.id, t.tenant, t.subject, t.scopes, t.conversations, t.stream, t.transport, t.uses,
               t.anonymous, t.signer,
               k.revoked_at IS NOT NULL OR s.ended_at IS NOT NULL OR (t.session IS NOT NULL AND s.hash IS NULL),
               coalesce(k.limits, ''), least(t.expires_at, s.expires_at, k.expires_at)
          FROM unnest($1::bytea[]) AS u (hash)
          JOIN tokentape_auth.tickets t ON t.hash = u.hash
          LEFT JOIN tokentape_auth.sessions s ON s.hash = t.session
          LEFT JOIN tokentape_auth.keys k ON k.hash = coalesce(t.key, s.key)
       ) f ON true;

-- name: add_session
-- $3: the hash of the key that it was made from, or NULL. $9: seconds until it expires.
INSERT INTO tokentape_auth.sessions AS s (hash, id, key, signer, tenant, subject, scopes, conversations, expires_at)
VALUES ($1::bytea, $2::text, $3::bytea, $4::text, $5::text, $6::text, $7::text[], $8::text[],
        clock_timestamp() + make_interval(secs => $9::double precision))
ON CONFLICT (hash) DO UPDATE SET ended_at = s.ended_at
RETURNING s.expires_at;

-- name: end_session
UPDATE tokentape_auth.sessions SET ended_at = coalesce(ended_at, clock_timestamp()) WHERE hash = $1::bytea
RETURNING 1 AS ended;

-- name: add_ticket
-- $3 and $4: the hashes of the key and of the session that it was made from, or NULL. $13 and $14: seconds to connect, and
-- until it ends.
INSERT INTO tokentape_auth.tickets AS t (hash, id, key, session, signer, anonymous, tenant, subject, scopes,
                                         conversations, stream, transport, expires_at, ends_at)
VALUES ($1::bytea, $2::text, $3::bytea, $4::bytea, $5::text, $6::boolean, $7::text, $8::text, $9::text[], $10::text[],
        $11::text, $12::text, clock_timestamp() + make_interval(secs => $13::double precision),
        clock_timestamp() + make_interval(secs => $14::double precision))
ON CONFLICT (hash) DO UPDATE SET uses = t.uses
RETURNING t.expires_at;

-- name: use_ticket
-- One row with the number of this use, or none: it is somebody else's, or this is no reconnect, or it has expired. Of two
-- first uses at once one gets the row lock, and the other one then finds a reader in it. $2: the reader. $3: whether this
-- continues an earlier stream. $4: the random name of this use, the same when the statement is sent again.
UPDATE tokentape_auth.tickets t
   SET reader = $2::bytea, expires_at = t.ends_at, last_use = $4::bytea,
       uses = CASE WHEN t.last_use = $4 THEN t.uses ELSE t.uses + 1 END
 WHERE t.hash = $1::bytea AND t.expires_at > clock_timestamp()
   AND (t.reader IS NULL OR (t.reader = $2 AND $3::boolean) OR t.last_use = $4)
RETURNING t.uses, t.ends_at, extract(epoch FROM t.ends_at - clock_timestamp())::double precision AS seconds_left;

-- name: delete_expired
-- At most $1 of each table. Sessions and tickets stay for an hour after their end, so that who presents one is told that it
-- has expired and not that it is unknown.
WITH sessions AS (
    DELETE FROM tokentape_auth.sessions s
     WHERE s.hash = ANY (ARRAY(SELECT o.hash FROM tokentape_auth.sessions o
                                WHERE o.expires_at < clock_timestamp() - interval '1 hour'
                                ORDER BY o.expires_at LIMIT $1::integer FOR UPDATE SKIP LOCKED))
    RETURNING 1
), tickets AS (
    DELETE FROM tokentape_auth.tickets t
     WHERE t.hash = ANY (ARRAY(SELECT o.hash FROM tokentape_auth.tickets o
                                WHERE o.expires_at < clock_timestamp() - interval '1 hour'
                                ORDER BY o.expires_at LIMIT $1::integer FOR UPDATE SKIP LOCKED))
    RETURNING 1
), sums AS (
    DELETE FROM tokentape_auth.usage u
     WHERE (u.account, u.meter, u.day) IN (SELECT o.account, o.meter, o.day FROM tokentape_auth.usage o
                                            WHERE o.day < current_date - 400
                                            ORDER BY o.day LIMIT $1::integer FOR UPDATE SKIP LOCKED)
    RETURNING 1
), servers AS (
    DELETE FROM tokentape_auth.servers s WHERE s.at < clock_timestamp() - interval '1 hour'
)
SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM tickets) + (SELECT count(*) FROM sums) AS deleted;

-- name: add_usage
-- Ordered, so that two servers lock the same rows in the same order.
INSERT INTO tokentape_auth.usage AS u (account, meter, day, amount)
SELECT n.account, n.meter, (clock_timestamp() AT TIME ZONE 'UTC')::date, n.amount
  FROM unnest($1::text[], $2::text[], $3::double precision[]) AS n (account, meter, amount)
 ORDER BY n.account, n.meter
ON CONFLICT (account, meter, day) DO UPDATE SET amount = u.amount + excluded.amount
RETURNING u.account, u.meter, u.amount;

-- name: read_usage
-- A row for each account and meter that is asked for. seconds_left: of this day.
SELECT n.account, n.meter, coalesce(u.amount, 0) AS amount,
       extract(epoch FROM date_trunc('day', t.now) + interval '1 day' - t.now)::double precision AS seconds_left
  FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) t
 CROSS JOIN unnest($1::text[], $2::text[]) AS n (account, meter)
  LEFT JOIN tokentape_auth.usage u ON u.account = n.account AND u.meter = n.meter AND u.day = t.now::date;

-- name: publish_counts
-- Committed before others_counts is asked: of two servers that do both at once, the one that asks last sees the other.
INSERT INTO tokentape_auth.servers AS s (server, counts, at) VALUES ($1::text, $2::text::jsonb, clock_timestamp())
ON CONFLICT (server) DO UPDATE SET counts = excluded.counts, at = excluded.at;

-- name: others_counts
-- What servers other than $1 have, of those that published it in the last $2 seconds. `what`: meter, space, account.
SELECT n.key AS what, sum(n.value::bigint)::bigint AS amount
  FROM tokentape_auth.servers s
 CROSS JOIN jsonb_each_text(s.counts) n
 WHERE s.server <> $1::text AND s.at > clock_timestamp() - make_interval(secs => $2::double precision)
 GROUP BY n.key;
