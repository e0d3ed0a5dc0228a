"""Shared by clients and servers: tensors and limits, errors, items, data URLs, certificates."""
