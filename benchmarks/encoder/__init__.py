"""Benchmarks of preprocessing, encoding and export, without a server."""
