"""What benchmarks share: measuring, workloads, pictures, the reference."""
