-- The roles and the database, run by psql as the superuser on every acquire. Each line does nothing when its work
-- is done already, so a start that was killed between two of them is mended by the next.
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
