"""Shared by all benchmarks: timing, results, workloads, pictures, the reference."""
