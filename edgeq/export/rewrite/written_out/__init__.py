"""Functions that programs and converters write out in several ops, as the ops that they are.

And what is written out for integers, as one op again where it stays float.
"""
