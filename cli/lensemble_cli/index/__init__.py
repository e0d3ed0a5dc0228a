"""`lensemble index`: build, check, measure and maintain the folder of an index."""
