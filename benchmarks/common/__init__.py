"""What all benchmarks share: timing, results, workloads, pictures, the reference."""
