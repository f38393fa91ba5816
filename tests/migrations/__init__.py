"""The schema's history: up, down, at the same time, by the wrong role; and the picture of it in schema.sql."""
