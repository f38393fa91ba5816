-- Checks the constraint that 0002 added on the rows that existed then. It may take long, but appends and reads go on
-- meanwhile; only another change of the table has to wait. (Early versions of 0002 validated it; then this does nothing.)
ALTER TABLE eventstore.streams VALIDATE CONSTRAINT streams_stay_erased;
