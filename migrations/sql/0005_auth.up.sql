-- Who may call the servers: API keys, sessions of browsers, tickets for single streams, and what was used.
-- The statements are in server/auth/auth.sql. No table holds a credential itself, only its SHA-256.
-- The schema has the program's name because databases that are shared or managed often have one called "auth".

CREATE SCHEMA tokentape_auth;

-- API keys. A row is never removed: `keys list` shows revoked ones, and servers that ever had a key require one.
CREATE TABLE tokentape_auth.keys (
    hash       bytea       PRIMARY KEY CHECK (octet_length(hash) = 32),
    id         text        NOT NULL UNIQUE,
    tenant     text        NOT NULL,
    name       text        NOT NULL DEFAULT '',
    scopes     text[]      NOT NULL CHECK (cardinality(scopes) > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
);

-- Sessions of browsers. `key`: the one it was made from, with which it ends; NULL for a token of an embedding app.
-- `signer`: the thumbprint (RFC 7638) of the key that signed that token, with whose removal it ends.
-- `conversations`: the only ones it may touch; NULL for all of its tenant.
CREATE TABLE tokentape_auth.sessions (
    hash          bytea       PRIMARY KEY CHECK (octet_length(hash) = 32),
    id            text        NOT NULL UNIQUE,
    key           bytea       REFERENCES tokentape_auth.keys,
    signer        text,
    tenant        text        NOT NULL,
    subject       text        NOT NULL,
    scopes        text[]      NOT NULL,
    conversations text[],
    expires_at    timestamptz NOT NULL,
    ended_at      timestamptz
);
CREATE INDEX sessions_by_expiry ON tokentape_auth.sessions (expires_at);

-- Tickets: each for one stream and one reader. `expires_at` is the time until which the first connect has to come, and
-- with that connect becomes `ends_at`. `reader`: the hash of what the first connect told of its client; NULL before.
-- `uses`: the number of the newest connect, which ends older ones. `last_use`: the random name of the newest connect, by
-- which a statement that is sent again after a lost answer is recognised. `key`, `session`: the one of the two that it was
-- made from. `session` is no foreign key, because old sessions are removed: a ticket of one that is gone has ended.
-- `anonymous`: made while nobody had to sign in.
CREATE TABLE tokentape_auth.tickets (
    hash          bytea       PRIMARY KEY CHECK (octet_length(hash) = 32),
    id            text        NOT NULL UNIQUE,
    key           bytea       REFERENCES tokentape_auth.keys,
    session       bytea,
    signer        text,
    anonymous     boolean     NOT NULL,
    tenant        text        NOT NULL,
    subject       text        NOT NULL,
    scopes        text[]      NOT NULL,
    conversations text[],
    stream        text        NOT NULL,
    transport     text        NOT NULL,
    expires_at    timestamptz NOT NULL,
    ends_at       timestamptz NOT NULL,
    reader        bytea,
    uses          integer     NOT NULL DEFAULT 0,
    last_use      bytea
);
CREATE INDEX tickets_by_expiry ON tokentape_auth.tickets (expires_at);

-- Sums a day: `account` is the id of a key, or another name for whom something is counted; `meter` says what.
CREATE TABLE tokentape_auth.usage (
    account text             NOT NULL,
    meter   text             NOT NULL,
    day     date             NOT NULL,
    amount  double precision NOT NULL,
    PRIMARY KEY (account, meter, day)
);
CREATE INDEX usage_by_day ON tokentape_auth.usage (day);

-- Grants the role that serves what it needs and nothing more. It can neither make a key nor change one: whoever gets hold
-- of a server's login can give nobody a key, and cannot bring back a revoked one. `tokentape migrate` runs it as the owner.
CREATE FUNCTION tokentape_auth.grant_to(app name) RETURNS void LANGUAGE plpgsql
SET search_path = tokentape_auth, pg_catalog
AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tokentape_auth TO %I', app);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA tokentape_auth FROM %I', app);
    EXECUTE format('GRANT SELECT ON keys TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (ended_at), DELETE ON sessions TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (expires_at, reader, uses, last_use), DELETE ON tickets TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (amount), DELETE ON usage TO %I', app);
END $$;
