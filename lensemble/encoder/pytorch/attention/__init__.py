"""Attention within each segment of a packed row, on CPUs and on GPUs."""
