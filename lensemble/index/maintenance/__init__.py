"""Making, compacting, copying and measuring an index."""
