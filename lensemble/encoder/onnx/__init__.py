"""The encoder's engine on ONNX Runtime."""
