"""`lensemble corpus sync`: makes the items of an index equal to the rows of a table."""
