-- From here on the function that servers append with bears a number. Its arguments and what it answers never change; what
-- needs other ones is a new function beside it, and the last two are kept. So servers of this version and of the one
-- before work on one schema, and `migrate` may run while the older ones serve.
ALTER FUNCTION eventstore.append(
    text[], text[], bigint[], integer[], text[], integer[], bigint[], boolean[], bigint,
    integer[], text[], text[], bytea[], double precision[], integer[], integer[], text[], text[], json[]
) RENAME TO append_1;

-- For servers of the versions before, which call it by this name.
CREATE FUNCTION eventstore.append(
    a_stream text[], a_category text[], a_expected bigint[], a_count integer[],
    a_writer text[], a_epoch integer[], a_seq bigint[], a_closes boolean[],
    a_owner bigint,
    k_append integer[], k_scope text[], k_name text[], k_digest bytea[], k_seconds double precision[],
    e_append integer[], e_offset integer[], e_type text[], e_tag text[], e_data json[]
) RETURNS TABLE (append integer, verdict text, stream text, first bigint, last bigint, at timestamptz, head bigint)
LANGUAGE sql VOLATILE
SET search_path = eventstore, pg_catalog
AS $$
    SELECT * FROM append_1(a_stream, a_category, a_expected, a_count, a_writer, a_epoch, a_seq, a_closes, a_owner,
                           k_append, k_scope, k_name, k_digest, k_seconds, e_append, e_offset, e_type, e_tag, e_data)
$$;

-- The oldest revision whose servers can work on this schema: a server that finds a revision it does not know looks here
-- whether the schema still has what it needs.
CREATE TABLE eventstore.compatible (
    since text NOT NULL
);
INSERT INTO eventstore.compatible VALUES ('0002');

-- Its plan depends on how many streams there are of the category. One for any category, made once, may walk along the
-- primary key, over all streams of the others.
ALTER FUNCTION eventstore.erase_streams(text, double precision, integer) SET plan_cache_mode = force_custom_plan;
