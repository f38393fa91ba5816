-- The roles and the database, run by psql as the superuser on every acquire. A statement does nothing when its work
-- is done already, so the next start completes a start that was killed between two of them.
-- The lock: the psql of a killed server may still run these statements when the next server's psql begins.
SELECT pg_advisory_lock(5432) \g /dev/null
SELECT 'CREATE ROLE tokentape_owner LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tokentape_owner') \gexec
SELECT 'CREATE ROLE tokentape_app LOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tokentape_app') \gexec
SELECT format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', rolname)
FROM pg_roles
WHERE rolname IN ('tokentape_owner', 'tokentape_app')
  AND (NOT rolcanlogin OR rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls) \gexec
SELECT 'CREATE DATABASE tokentape OWNER tokentape_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'tokentape') \gexec
SELECT 'ALTER DATABASE tokentape OWNER TO tokentape_owner'
FROM pg_database
WHERE datname = 'tokentape' AND datdba <> 'tokentape_owner'::regrole \gexec
