"""How what a caller passes becomes what the inputs of a loaded model hold."""
