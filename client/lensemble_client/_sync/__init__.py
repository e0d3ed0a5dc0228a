# Generated from lensemble_client/_async/ by `make generate`. Edit that file instead.
"""The calls of `Client`, generated from `_async/`."""
