"""Decompositions of what litert-torch lacks or lowers wrongly, into ops that it has.

Each module has a `TABLE` by PyTorch's ops, whose entries return `NotImplemented` where
litert-torch's own way is right. Knows those ops, nothing of litert-torch or of quantization.
"""
