"""Sequences of several lengths that PyTorch packs for its recurrent layers.

A packed sequence has as many rows as the lengths say, and a file has fixed sizes. So all steps run,
and what lies behind a length decides about nothing.
"""
