"""Emits a traced JAX program again, in the form that the converter turns into the right ops.

Calls are inlined, scans unrolled, branches computed and selected from; a weight on the left of a
dot goes to its right, and the exact GELU becomes one op. Every op is emitted under the path of its
layer. Knows primitives, nothing of modules or files.
"""

from edgeq.export.frontends.jaxpr.emitter import ABSOLUTE, Emitted, Emitter

__all__ = ["ABSOLUTE", "Emitted", "Emitter"]
