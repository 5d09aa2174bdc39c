"""What each ONNX op computes, in PyTorch; a module a kind."""
