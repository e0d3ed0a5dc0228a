"""Benchmarks of the running server and of the gateway."""
