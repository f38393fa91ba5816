-- From here on the function that servers append with has a number. Its arguments and results never change: a change needs
-- a new function with the next number, and the last two are kept. So servers of this version and of the version before
-- work on the same schema, and `migrate` may run while older servers serve.
ALTER FUNCTION eventstore.append(
    text[], text[], bigint[], integer[], text[], integer[], bigint[], boolean[], bigint,
    integer[], text[], text[], bytea[], double precision[], integer[], integer[], text[], text[], json[]
) RENAME TO append_1;

-- For servers of earlier versions, which call the function by this name.
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

-- The oldest revision whose servers can work on this schema. A server that finds a revision it does not know reads here
-- whether the schema still has what it needs.
CREATE TABLE eventstore.compatible (
    since text NOT NULL
);
INSERT INTO eventstore.compatible VALUES ('0002');

-- The best plan depends on how many streams the category has. A generic plan may walk the primary key, over all streams
-- of other categories.
ALTER FUNCTION eventstore.erase_streams(text, double precision, integer) SET plan_cache_mode = force_custom_plan;
