"""Keras models while they are traced: recurrent layers, and what layers keep between calls."""
