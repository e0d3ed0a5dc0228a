"""Tests of the GPU kernels that need no GPU."""
