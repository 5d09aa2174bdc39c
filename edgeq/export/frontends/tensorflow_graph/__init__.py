"""TensorFlow's ops that its converter has no form of, written as others."""
