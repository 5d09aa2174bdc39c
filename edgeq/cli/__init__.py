"""The command line: thin wrappers over the public functions, with help that shows examples.

Exit codes: 0 done, 1 a promise of the exported model is broken or lint found errors, 2 could not
run.
"""

from edgeq.cli.app import app, main

# The help lists the commands in this order.
# isort: off
from edgeq.cli import exporting, calibrating, accuracy, inspecting, running

__all__ = ["accuracy", "app", "calibrating", "exporting", "inspecting", "main", "running"]
