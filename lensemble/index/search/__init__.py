"""Search, stage 3: finds the items that are nearest to a vector."""
