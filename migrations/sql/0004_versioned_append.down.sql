ALTER FUNCTION eventstore.erase_streams(text, double precision, integer) RESET plan_cache_mode;
DROP TABLE eventstore.compatible;
DROP FUNCTION eventstore.append;
ALTER FUNCTION eventstore.append_1 RENAME TO append;
