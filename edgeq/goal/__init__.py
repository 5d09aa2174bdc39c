"""A search for the plan that keeps a task: exports, compares and remembers what it tried.

Knows exports and comparisons as a caller does; how a plan is made or a metric computed is theirs.
"""
