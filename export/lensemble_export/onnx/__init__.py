"""ONNX graphs of the two towers of a serving checkpoint: export, verification, quantization."""
