"""Damaged quantized files: `dequantize` refuses them in edgeq's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.errors import ModelError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import pack, parse, schema, unpack


def no_operands(tree: Any) -> None:
    tree.subgraphs[0].operators[0].inputs = np.zeros(0, np.int32)


def no_operands_of_a_convolution(tree: Any) -> None:
    code = schema.BuiltinOperator.CONV_2D
    kinds = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in tree.operatorCodes]
    op = next(op for op in tree.subgraphs[0].operators if kinds[op.opcodeIndex] == code)
    op.inputs = np.zeros(0, np.int32)


def an_op_that_is_not_there(tree: Any) -> None:
    tree.subgraphs[0].operators[1].opcodeIndex = 10**6


def more_zero_points_than_scales(tree: Any) -> None:
    for tensor in tree.subgraphs[0].tensors:
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            tensor.quantization.zeroPoint = np.arange(3, dtype=np.int64)


def another_graph_behind_it(tree: Any) -> None:
    second = schema.SubGraphT()
    second.tensors, second.operators = tree.subgraphs[0].tensors[:2], []
    second.inputs, second.outputs = [0], [1]
    tree.subgraphs.append(second)


def swapped_options(tree: Any) -> None:
    operators = tree.subgraphs[0].operators
    for op in operators:
        op.builtinOptions = schema.ConcatenationOptionsT()
        op.builtinOptionsType = schema.BuiltinOptions.ConcatenationOptions


REFUSED: dict[Callable[[Any], None], str] = {
    no_operands: r"NumInputs\(node\) != 1",
    no_operands_of_a_convolution: "failed to prepare",
    an_op_that_is_not_there: "op 1 names op code 1000000 of",
    swapped_options: "failed to prepare",
}


def changed(model: EdgeModel, damage: Callable[[Any], None]) -> bytes:
    tree = unpack(model.tflite)
    damage(tree)
    return bytes(pack(tree))


@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.__name__)
def test_damage_is_refused_in_edgeqs_words(
    exported: EdgeModel, damage: Callable[[Any], None]
) -> None:
    with pytest.raises(ModelError, match=REFUSED[damage]):
        edgeq.dequantize(changed(exported, damage))


@pytest.mark.parametrize("damage", [more_zero_points_than_scales, another_graph_behind_it])
def test_what_does_no_harm_is_read(exported: EdgeModel, damage: Callable[[Any], None]) -> None:
    made = edgeq.dequantize(changed(exported, damage))
    assert {t.dtype for t in parse(made).graphs[0].tensors} <= {"float32", "int32"}


def test_lint_tells_of_ops_without_operands(exported: EdgeModel) -> None:
    for damage in (no_operands, no_operands_of_a_convolution):
        (found,) = edgeq.lint(changed(exported, damage)).errors
        assert "failed to prepare" in found.message
