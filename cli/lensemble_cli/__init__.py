"""The command line `lensemble`: one module for each command or small group of commands."""
