"""Search, stage 3: finds the nearest items to a vector."""
