"""Creating, compacting, verifying and copying an index."""
