"""A plan laid out: tables, JSON and a picture."""
