-- Erases whole streams. The row of an erased stream stays, so that its name is not used again and its readers are told.
-- It says that no event is left (head < earliest) and that none will follow (last_at is infinity).

-- An append to an erased stream raises the head and keeps last_at, so it violates this constraint. Therefore append()
-- needs no check of its own, which every token would pay for. NOT VALID: the next revision checks the rows that exist,
-- in a way that delays no append.
ALTER TABLE eventstore.streams
    ADD CONSTRAINT streams_stay_erased CHECK (last_at < 'infinity' OR head < earliest) NOT VALID;

-- Erases streams of a category that have no open writer and whose newest event is older than a_seconds; returns their
-- names. It stops at a_limit streams, or once many events were removed, because an append to one of the streams waits
-- until this transaction ends. A stream is checked again after it is locked, because somebody may have appended in
-- between. A stream that is locked by an append is skipped: it is not old. VOLATILE for the same reason as append().
CREATE FUNCTION eventstore.erase_streams(a_category text, a_seconds double precision, a_limit integer)
RETURNS SETOF text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = eventstore, pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    gone bigint := 0;
BEGIN
    -- Runs with the owner's rights, because the role that serves may remove nothing. That role may erase only streams of
    -- an ephemeral category. A stream gets its category with its first event, and the role cannot change it.
    IF a_category NOT LIKE 'ephemeral%' AND NOT pg_has_role(session_user, current_user, 'MEMBER') THEN
        RAISE insufficient_privilege
            USING MESSAGE = 'only the owner erases streams of a category that does not begin with "ephemeral"';
    END IF;
    FOR one IN
        SELECT s.id, s.name, s.head, s.earliest
          FROM streams s
         WHERE s.category = a_category AND s.head >= s.earliest
           AND s.last_at < clock_timestamp() - make_interval(secs => a_seconds)
           AND NOT EXISTS (SELECT FROM writers w WHERE w.stream = s.id AND NOT w.closed)
         ORDER BY s.id LIMIT a_limit
           FOR UPDATE SKIP LOCKED
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM writers w WHERE w.stream = one.id AND NOT w.closed);
        DELETE FROM events e WHERE e.stream = one.id;
        DELETE FROM snapshots p WHERE p.stream = one.id;
        DELETE FROM writers w WHERE w.stream = one.id;
        UPDATE streams s SET earliest = s.head + 1, category = '', last_at = 'infinity' WHERE s.id = one.id;
        RETURN NEXT one.name;
        gone := gone + one.head + 1 - one.earliest;
        EXIT WHEN gone >= 10000;
    END LOOP;
END $$;
