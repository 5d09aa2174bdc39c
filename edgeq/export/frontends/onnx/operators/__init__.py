"""ONNX ops in PyTorch; a module a kind."""
