"""What each Triton model does, without Triton: one module per model."""
