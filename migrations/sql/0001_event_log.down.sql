-- Takes the whole log away. Only ever for a database that may lose everything.
DROP FUNCTION eventstore.grant_to(name);
DROP FUNCTION eventstore.append(text[], text[], bigint[], integer[], text[], integer[], bigint[], boolean[], bigint,
                                integer[], text[], text[], bytea[], double precision[],
                                integer[], integer[], text[], text[], json[]);
DROP TABLE eventstore.snapshots, eventstore.keys, eventstore.writers, eventstore.events, eventstore.streams;
