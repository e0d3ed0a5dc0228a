"""ONNX graphs of a serving checkpoint's two towers: made, proven equal, made smaller."""
