"""What engines stand on: ONNX sessions, weights and the graphs built from them."""
