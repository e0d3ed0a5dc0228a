"""The encoder on PyTorch."""
