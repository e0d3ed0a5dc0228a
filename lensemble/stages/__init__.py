"""The work of the Triton models, without Triton: one module for each model, and what they share."""
