"""The calls of `AsyncClient`, and the source from which `Client`'s are generated.

Edit this folder, then run `make generate`: it writes `_sync/` with `unasync`.
"""
