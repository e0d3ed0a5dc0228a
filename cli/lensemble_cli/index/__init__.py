"""`lensemble index`: builds, checks, measures and maintains the folder of an index."""
