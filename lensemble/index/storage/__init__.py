"""The store: every item of an index, in one SQLite file."""
