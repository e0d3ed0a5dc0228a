"""The command line `lensemble`: one module for each command."""
