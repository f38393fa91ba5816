DROP FUNCTION tokentape_auth.grant_to(name);
DROP TABLE tokentape_auth.usage, tokentape_auth.tickets, tokentape_auth.sessions, tokentape_auth.keys;
DROP SCHEMA tokentape_auth;
