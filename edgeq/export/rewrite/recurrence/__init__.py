"""Recurrent layers in other ops: as loops, and written out."""
