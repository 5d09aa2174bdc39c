"""What ONNX itself says of its ops: their definitions by others, and what attributes are else.

Knows ONNX's schemas, nothing of how a graph is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from edgeq.export.frontends.onnx.onnx_file import plain_value
from edgeq.export.frontends.onnx.op_table import MICROSOFT, Node


def definition_of(node: Node, given: Sequence[Tensor | None]) -> Any:
    """ONNX's own definition of a node's op by other ops, for inputs; None where it has none."""
    schema = _schema(node)
    if schema is None:
        return None
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function or node.proto is None:
        return None
    types = [_type(tensor) for tensor in given]
    written = schema.get_context_dependent_function_with_opset_version(
        max(v for v in schema.context_dependent_function_opset_versions if v <= node.version),
        _written(node).SerializeToString(), types,
    )  # fmt: skip
    return onnx.FunctionProto.FromString(written)


def without_form(node: Node) -> str:
    """Why a node that nothing here computes is refused, and what to do."""
    if "nchwc" in node.domain or ".internal" in node.domain:
        return (
            "is laid out for one kind of processor; give the model as it was before onnxruntime "
            "optimized it, or have it optimized with ORT_ENABLE_EXTENDED"
        )
    if node.op == "ZipMap":
        return (
            "makes dictionaries; convert the model with options={'zipmap': False}, or end it at "
            f"{node.inputs[0]!r} (onnx.utils.extract_model cuts a file)"
        )
    if node.domain == "ai.onnx.ml":
        return (
            "is of classical machine learning and has no form here: trees and support vectors run "
            "elsewhere, and what is in front of it can be exported alone"
        )
    if node.domain not in ("", MICROSOFT):
        return "is no op of ONNX: export the model without custom ops, or with a function for it"
    return f"of opset {node.version} has no form here; write it with other ops"


def with_defaults(node: Node) -> Mapping[str, Any]:
    """A node's attributes, with what ONNX says of those that it leaves out."""
    schema = _schema(node)
    if schema is None:
        return node.attributes
    defaults = {
        name: plain_value(onnx.helper.get_attribute_value(attribute.default_value))
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }
    return {**defaults, **node.attributes}


def _schema(node: Node) -> Any:
    try:
        return onnx.defs.get_schema(node.op, node.version, node.domain)
    except onnx.defs.SchemaError:
        return None


def _written(node: Node) -> Any:
    """A node as its file has it, with values for attributes that refer to those of a caller."""
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    referring = [entry.name for entry in proto.attribute if entry.ref_attr_name]
    plain = [entry for entry in proto.attribute if not entry.ref_attr_name]
    del proto.attribute[:]
    proto.attribute.extend(plain)
    for name in referring:
        value = node.get(name)
        if value is not None:
            proto.attribute.append(onnx.helper.make_attribute(name, value))
    return proto


_NUMBERS = {torch.float32: 1, torch.uint8: 2, torch.int8: 3, torch.int16: 5, torch.int32: 6,
            torch.int64: 7, torch.bool: 9}  # fmt: skip


def _type(tensor: Tensor | None) -> bytes:
    if tensor is None:
        written: bytes = onnx.TypeProto().SerializeToString()
    else:
        proto = onnx.helper.make_tensor_type_proto(_NUMBERS[tensor.dtype], list(tensor.shape))
        written = proto.SerializeToString()
    return written
