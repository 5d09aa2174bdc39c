"""A traced PyTorch program on its way to litert-torch: its branches, constants and numbers.

`passes` is the way in. Knows PyTorch's programs, nothing of litert-torch or of quantization.
"""
