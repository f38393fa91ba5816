-- What callers may use: limits of single keys, and the counts that servers share.

-- As they were written with the key: `requests=5/s, runs=1`. Empty for what TOKENTAPE_LIMITS says.
ALTER TABLE tokentape_auth.keys ADD COLUMN limits text NOT NULL DEFAULT '';

-- How many runs and readers each caller has on each server: {"runs tenant:acme": 3}. Written anew every second by servers
-- that limit them, so it is unlogged; a server that wrote nothing for five seconds is not counted.
CREATE UNLOGGED TABLE tokentape_auth.servers (
    server text        PRIMARY KEY,
    counts jsonb       NOT NULL,
    at     timestamptz NOT NULL
);

CREATE OR REPLACE FUNCTION tokentape_auth.grant_to(app name) RETURNS void LANGUAGE plpgsql
SET search_path = tokentape_auth, pg_catalog
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
