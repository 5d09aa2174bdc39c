"""The view of a .tflite file: tensors, ops, constants and signatures as plain values.

Pure Python: a damaged file ends in a `ModelError`, never in a dead process. The only package that
touches the generated flatbuffer schema. Knows nothing of MLIR, runtimes or quantization rules.
What changes a file is imported from its own module: `graph_editor`, `tensor_merger`, `object_tree`.
"""

from edgeq.flatbuffer.generated_schema import builtin_name, schema
from edgeq.flatbuffer.graph import Graph, Model, Operator, Signature, Tensor
from edgeq.flatbuffer.packing import pack
from edgeq.flatbuffer.parsing import NO_SUCH_OP, op_name, parse, parse_only, parse_tree, unpack
from edgeq.flatbuffer.tensor_names import (
    rename_tensors,
    with_inputs,
    with_numbered_outputs,
    with_port_names,
    with_signature,
)

__all__ = [
    "NO_SUCH_OP",
    "Graph",
    "Model",
    "Operator",
    "Signature",
    "Tensor",
    "builtin_name",
    "op_name",
    "pack",
    "parse",
    "parse_only",
    "parse_tree",
    "rename_tensors",
    "schema",
    "unpack",
    "with_inputs",
    "with_numbered_outputs",
    "with_port_names",
    "with_signature",
]
