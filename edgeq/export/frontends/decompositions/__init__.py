"""Decompositions of what litert-torch lacks or lowers wrongly, into ops that it has.

`passes` is the way in. Knows PyTorch's ops, nothing of litert-torch or of quantization.
"""
