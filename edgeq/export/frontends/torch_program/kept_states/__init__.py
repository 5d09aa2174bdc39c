"""Modules that keep something between their calls, which a file does not.

What a module writes into itself and reads in its next call becomes inputs and outputs.
"""
