"""Functions that programs and converters write out in several ops, as the ops that they are."""
