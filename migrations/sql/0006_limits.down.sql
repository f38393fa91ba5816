DROP TABLE tokentape_auth.servers;
ALTER TABLE tokentape_auth.keys DROP COLUMN limits;

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
END $$;
