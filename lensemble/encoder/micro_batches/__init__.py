"""Micro-batches: the items that one pass encodes together."""
