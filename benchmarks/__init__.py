"""Measurements. Each runs as `python -m benchmarks.<name> [--quick]`.

The last line of standard output is one compact JSON object.
"""
