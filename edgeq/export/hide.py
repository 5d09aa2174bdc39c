"""Takes ops that stay float past the converter, which would make some of them integer all the same.

They go through as custom ops, which it leaves alone, and get their own code and options back after.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeq.flatbuffer import pack, schema, unpack

_PREFIX = "edgeq_float_"


def hide_ops(tflite: bytes, indices: Iterable[int]) -> bytes:
    """The float file with the ops of these indices made custom."""
    tree = unpack(tflite)
    for index in indices:
        op = tree.subgraphs[0].operators[index]
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = f"{_PREFIX}{index}".encode()
        code.version = 1
        tree.operatorCodes.append(code)
        op.opcodeIndex = len(tree.operatorCodes) - 1
        op.builtinOptionsType, op.builtinOptions = 0, None
    return pack(tree)


def restore_ops(tflite: bytes, source: bytes) -> bytes:
    """A converted file with the hidden ops made again what they are in `source`."""
    tree, original = unpack(tflite), unpack(source)
    for op in tree.subgraphs[0].operators:
        name = (tree.operatorCodes[op.opcodeIndex].customCode or b"").decode("utf-8", "replace")
        if name.startswith(_PREFIX):
            old = original.subgraphs[0].operators[int(name.removeprefix(_PREFIX))]
            tree.operatorCodes[op.opcodeIndex] = original.operatorCodes[old.opcodeIndex]
            op.builtinOptionsType, op.builtinOptions = old.builtinOptionsType, old.builtinOptions
            op.customOptions = old.customOptions
    return pack(tree)
