"""The encoder's engine on PyTorch."""
