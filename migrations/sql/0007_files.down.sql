DROP SCHEMA tokentape_files CASCADE;
