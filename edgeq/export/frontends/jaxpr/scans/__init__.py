"""Loops of a program: scans that are recurrent layers, loops, or steps one behind the other."""
