-- Erasing whole streams. What is left of one is its row, so that its name stays taken and its readers are told:
-- nothing is left of its events (head < earliest), and the next one comes never.

-- An append moves the head and takes no time before that of the last event. So it fails here, on the row that it has
-- locked, however late it noticed; and append() needs no look of its own, which every token would pay for.
-- NOT VALID: the rows that are there are looked at by the next revision, which holds up no append.
ALTER TABLE eventstore.streams
    ADD CONSTRAINT streams_stay_erased CHECK (last_at < 'infinity' OR head < earliest) NOT VALID;

-- Erases streams of a category whose newest event is older than that and of which no writer is open: at most a_limit,
-- and no more once many events are gone, for an append to one of them would wait so long. Their names come back.
-- Each is judged again once it is locked, and then its events are looked up, not before: in between somebody may have
-- appended. A stream that is being appended to is passed over: it is not old. VOLATILE for the same reason as append().
CREATE FUNCTION eventstore.erase_streams(a_category text, a_seconds double precision, a_limit integer)
RETURNS SETOF text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = eventstore, pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    gone bigint := 0;
BEGIN
    -- Runs with the owner's rights, for the role that serves may remove nothing: but for what passes by its category,
    -- which a stream has from its first event on, and which that role cannot change.
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
