"""The command line `lensemble`: each module holds one command, or a small family of commands."""
