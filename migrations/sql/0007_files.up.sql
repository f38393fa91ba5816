-- Files that messages name: their bytes in chunks, and which conversations use them.
-- The statements are in server/files/files.sql. Files are removed by the functions below alone.

CREATE SCHEMA tokentape_files;

-- One row for each file of a tenant. `digest`: the SHA-256 of its bytes, which are the chunks of `upload`.
-- `expires_at`: until when the newest upload keeps it. `sweep_at`: when the sweep looks at it; NULL while it is in use.
CREATE TABLE tokentape_files.files (
    tenant     text        NOT NULL,
    digest     text        NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    upload     text        NOT NULL UNIQUE,
    media_type text        NOT NULL,
    size       bigint      NOT NULL CHECK (size > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    sweep_at   timestamptz,
    PRIMARY KEY (tenant, digest)
);
CREATE INDEX files_to_sweep ON tokentape_files.files (sweep_at) WHERE sweep_at IS NOT NULL;

-- Uploads that are under way. The row is removed when the upload becomes a file.
CREATE TABLE tokentape_files.uploads (
    name       text        PRIMARY KEY,
    touched_at timestamptz NOT NULL
);
CREATE INDEX uploads_by_time ON tokentape_files.uploads (touched_at);

-- The bytes of files and of uploads. They are not compressed: most are of a type that is compressed already.
CREATE TABLE tokentape_files.chunks (
    upload text    NOT NULL,
    number integer NOT NULL,
    data   bytea   NOT NULL,
    PRIMARY KEY (upload, number)
);
ALTER TABLE tokentape_files.chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Which conversation uses which file. A row is there before the event that names the file is appended, so the
-- conversation may not have begun. The foreign key is a second guard: no file in use can be removed.
CREATE TABLE tokentape_files.uses (
    tenant       text        NOT NULL,
    digest       text        NOT NULL,
    conversation text        NOT NULL,
    at           timestamptz NOT NULL,
    PRIMARY KEY (tenant, digest, conversation),
    FOREIGN KEY (tenant, digest) REFERENCES tokentape_files.files
);
CREATE INDEX uses_by_conversation ON tokentape_files.uses (conversation);

-- Removes chunks that are of no file. Whoever may begin an upload may give it the name of one that is a file: that file
-- keeps its bytes.
CREATE FUNCTION tokentape_files.drop_chunks(a_upload text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = tokentape_files, pg_catalog, pg_temp
AS $$
    DELETE FROM chunks c WHERE c.upload = a_upload AND NOT EXISTS (SELECT FROM files f WHERE f.upload = a_upload)
$$;

-- Makes an upload a file, or drops its chunks where the tenant has the file. No row: chunks of the upload are gone.
-- Sent again after a lost answer, it finds no upload and answers with the file.
CREATE FUNCTION tokentape_files.finish_upload(a_upload text, a_tenant text, a_digest text, a_media_type text,
                                              a_size bigint, a_seconds double precision)
RETURNS TABLE (media_type text, size bigint, created_at timestamptz, expires_at timestamptz, created boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = tokentape_files, pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => a_seconds);
BEGIN
    DELETE FROM uploads u WHERE u.name = a_upload;
    IF FOUND THEN
        IF (SELECT sum(octet_length(c.data)) FROM chunks c WHERE c.upload = a_upload) = a_size THEN
            INSERT INTO files AS f (tenant, digest, upload, media_type, size, expires_at, sweep_at)
            VALUES (a_tenant, a_digest, a_upload, a_media_type, a_size, until, until)
            ON CONFLICT (tenant, digest) DO UPDATE SET expires_at = excluded.expires_at, sweep_at = excluded.sweep_at;
        END IF;
        PERFORM drop_chunks(a_upload);
    END IF;
    RETURN QUERY SELECT f.media_type, f.size, f.created_at, f.expires_at, f.upload = a_upload
                   FROM files f WHERE f.tenant = a_tenant AND f.digest = a_digest;
END $$;

-- Removes an upload that is no file.
CREATE FUNCTION tokentape_files.drop_upload(a_upload text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = tokentape_files, pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM uploads u WHERE u.name = a_upload;
    IF FOUND THEN
        PERFORM drop_chunks(a_upload);
    END IF;
END $$;

-- Ends the uses of those conversations that are erased, or that did not begin within a_seconds after the use; returns how
-- many. A file that was uploaded again since its last use stays until that upload expires. The files are locked first, in
-- one order, as `use` does, so the two never deadlock.
CREATE FUNCTION tokentape_files.release(a_conversations text[], a_seconds double precision) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = tokentape_files, pg_catalog, pg_temp
AS $$
DECLARE
    over text[]; unbegun text[];
    before timestamptz := clock_timestamp() - make_interval(secs => a_seconds);
    ended bigint;
BEGIN
    SELECT array_agg(n.name) FILTER (WHERE s.last_at = 'infinity'), array_agg(n.name) FILTER (WHERE s.name IS NULL)
      INTO over, unbegun
      FROM unnest(a_conversations) AS n (name)
      LEFT JOIN eventstore.streams s ON s.name = n.name;
    PERFORM FROM files f
      WHERE (f.tenant, f.digest) IN (SELECT u.tenant, u.digest FROM uses u WHERE u.conversation = ANY (over || unbegun))
      ORDER BY f.tenant, f.digest FOR NO KEY UPDATE;
    WITH gone AS (
        DELETE FROM uses u
         WHERE u.conversation = ANY (over) OR (u.conversation = ANY (unbegun) AND u.at < before)
        RETURNING u.tenant, u.digest, u.conversation
    ), due AS (
        UPDATE files f
           SET sweep_at = CASE WHEN g.erased THEN clock_timestamp() ELSE f.expires_at END
          FROM (SELECT g.tenant, g.digest, bool_or(g.conversation = ANY (over)) AS erased
                  FROM gone g GROUP BY g.tenant, g.digest) g
         WHERE f.tenant = g.tenant AND f.digest = g.digest AND f.sweep_at IS NULL
    )
    SELECT count(*) INTO ended FROM gone;
    RETURN ended;
END $$;

-- Removes up to a_limit files that are due and that no conversation uses, and as many uploads that got no chunk for
-- a_seconds; returns how many. The race that the lock prevents: 1. the sweep sees that nothing uses a file; 2. a message
-- begins to use it; 3. the sweep removes it. `use` locks the row too. So either the use was committed before this lock is
-- held, and the next statement sees it; or the use waits, and then finds no file. A locked row is passed by.
CREATE FUNCTION tokentape_files.sweep(a_limit integer, a_seconds double precision) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = tokentape_files, pg_catalog, pg_temp
AS $$
DECLARE
    one record;
    removed bigint := 0;
    now timestamptz := clock_timestamp();
BEGIN
    FOR one IN
        SELECT f.tenant, f.digest, f.upload FROM files f
         WHERE f.sweep_at <= now ORDER BY f.sweep_at LIMIT a_limit FOR UPDATE SKIP LOCKED
    LOOP
        IF EXISTS (SELECT FROM uses u WHERE u.tenant = one.tenant AND u.digest = one.digest) THEN
            UPDATE files f SET sweep_at = NULL WHERE f.tenant = one.tenant AND f.digest = one.digest;
        ELSE
            DELETE FROM files f WHERE f.tenant = one.tenant AND f.digest = one.digest;
            PERFORM drop_chunks(one.upload);
            removed := removed + 1;
        END IF;
    END LOOP;
    FOR one IN
        SELECT u.name FROM uploads u
         WHERE u.touched_at < now - make_interval(secs => a_seconds)
         ORDER BY u.touched_at LIMIT a_limit FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM uploads u WHERE u.name = one.name;
        PERFORM drop_chunks(one.name);
        removed := removed + 1;
    END LOOP;
    RETURN removed;
END $$;

-- Grants the role that serves what it needs and nothing more: it adds files and uses, and can neither change the bytes of
-- one nor remove one that a conversation uses. `tokentape migrate` runs it as the owner.
CREATE FUNCTION tokentape_files.grant_to(app name) RETURNS void LANGUAGE plpgsql
SET search_path = tokentape_files, pg_catalog
AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tokentape_files TO %I', app);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA tokentape_files FROM %I', app);
    EXECUTE format('GRANT SELECT, UPDATE (sweep_at) ON files TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (touched_at) ON uploads TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON chunks TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (at) ON uses TO %I', app);
END $$;
