"""The work of the Triton models: one module for each model, without Triton."""
