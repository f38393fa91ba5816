-- Nothing to take back: a constraint that holds for all rows is what 0002 meant.
SELECT 1;
