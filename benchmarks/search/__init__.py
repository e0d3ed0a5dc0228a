"""Benchmarks of search: kinds of index, the served index, writes beside searches."""
