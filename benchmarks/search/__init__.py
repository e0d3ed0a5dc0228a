"""Benchmarks of search: kinds of index, the served index, and searches during writes."""
