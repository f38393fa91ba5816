-- The database and its two roles, run by psql as an administrator: by the Postgres image when its volume is new,
-- by you on a server of your own, and again whenever a password is to change. Each line may be run again.
--
--   tokentape_owner  owns the database; `tokentape migrate` works as this role
--   tokentape_app    serves: `tokentape migrate` lets it add events and read them, never change or remove one
--
-- The passwords come from the environment (psql 14 or newer), so that they stand in no file and no process list:
--   DB_OWNER_PASSWORD=… DB_APP_PASSWORD=… psql -f deploy/postgres/roles.sql postgresql://admin@host/postgres
\set ON_ERROR_STOP on

-- First of all, and only a superuser may: the server's log can be set to keep statements, or those that fail.
SELECT rolsuper AS superuser FROM pg_roles WHERE rolname = current_user \gset
\if :superuser
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
\endif
SET password_encryption = 'scram-sha-256';

\set owner_password ''
\set app_password ''
\getenv owner_password DB_OWNER_PASSWORD
\getenv app_password DB_APP_PASSWORD
SELECT length(:'owner_password') < 12 OR length(:'app_password') < 12 AS too_short \gset
\if :too_short
DO $$BEGIN
    RAISE 'DB_OWNER_PASSWORD and DB_APP_PASSWORD have to be set, to 12 characters or more (openssl rand -hex 24)';
END$$;
\endif

SELECT format('CREATE ROLE %I LOGIN', name)
FROM (VALUES ('tokentape_owner'), ('tokentape_app')) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE tokentape_owner LOGIN PASSWORD :'owner_password';
ALTER ROLE tokentape_app LOGIN PASSWORD :'app_password';

-- An administrator who is no superuser gives a database only to a role of which they are a member.
SELECT format('GRANT tokentape_owner TO %I', current_user) WHERE NOT :'superuser' \gexec
-- From template0, which may be copied in another encoding than the server's own.
SELECT 'CREATE DATABASE tokentape OWNER tokentape_owner ENCODING ''UTF8'' TEMPLATE template0'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'tokentape') \gexec
-- Everybody may connect to a new database, and make temporary tables in it; here only these two.
REVOKE ALL ON DATABASE tokentape FROM PUBLIC;
GRANT CONNECT ON DATABASE tokentape TO tokentape_app;
