-- What was erased stays so: to the revision before, those streams are trimmed to nothing.
DROP FUNCTION eventstore.erase_streams(text, double precision, integer);
ALTER TABLE eventstore.streams DROP CONSTRAINT streams_stay_erased;
UPDATE eventstore.streams SET last_at = clock_timestamp() WHERE last_at = 'infinity';
