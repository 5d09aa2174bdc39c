"""Files that ask for endless work or text: graphs that run graphs, devices, endless lists."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from mutations import bases

import edgeq
from edgeq.errors import ModelError
from edgeq.export.importing import plain_calls
from edgeq.export.importing.plain_calls import write_out_calls
from edgeq.flatbuffer import pack, parse, schema, unpack

SECONDS = 60.0


def called(bodies: list[list[int]]) -> bytes:
    """A file whose output goes through graph 1; each graph calls others, one after the other.

    Args:
        bodies: Of graph 1 and on, the graphs that it calls; one that calls none computes ABS.
    """
    tree = unpack(bases()[1].tflite)
    main = tree.subgraphs[0]
    codes = {name: code(tree, name) for name in ("CALL", "ABS")}
    main.tensors.append(tensor(len(main.tensors)))
    result = len(main.tensors) - 1
    main.operators.append(op(codes, main.outputs[0], result, 1))
    main.outputs = np.array([result], np.int32)
    tree.signatureDefs[0].outputs[0].tensorIndex = result
    for calls in bodies:
        graph = schema.SubGraphT()
        steps = calls or [0]
        graph.tensors = [tensor(i) for i in range(len(steps) + 1)]
        graph.operators = [op(codes, i, i + 1, other) for i, other in enumerate(steps)]
        graph.inputs, graph.outputs = np.array([0], np.int32), np.array([len(steps)], np.int32)
        tree.subgraphs.append(graph)
    return bytes(pack(tree))


def code(tree: Any, name: str) -> int:
    made = schema.OperatorCodeT()
    made.builtinCode = getattr(schema.BuiltinOperator, name)
    made.deprecatedBuiltinCode, made.version = min(made.builtinCode, 127), 1
    tree.operatorCodes.append(made)
    return len(tree.operatorCodes) - 1


def tensor(number: int) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.buffer = f"called{number}".encode(), np.array([1, 5], np.int32), 0
    made.type = schema.TensorType.FLOAT32
    return made


def op(codes: dict[str, int], source: int, result: int, graph: int) -> Any:
    """A call of a graph; with 0, an ABS."""
    made = schema.OperatorT()
    made.opcodeIndex = codes["CALL" if graph else "ABS"]
    made.inputs, made.outputs = np.array([source], np.int32), np.array([result], np.int32)
    if graph:
        made.builtinOptionsType = schema.BuiltinOptions.CallOptions
        made.builtinOptions = schema.CallOptionsT()
        made.builtinOptions.subgraph = graph
    return made


@pytest.mark.parametrize("bodies", [[[1]], [[2], [1]], [[2], [3], [4], [2]]])
def test_a_circle_is_damage(bodies: list[list[int]]) -> None:
    circle = {other for calls in bodies for other in calls} - ({1} if len(bodies) > 3 else set())
    with pytest.raises(ModelError, match=rf"graph [{min(circle)}-{max(circle)}] runs itself"):
        parse(called(bodies))


def test_calls_of_calls_are_written_out() -> None:
    tree = unpack(called([[2, 3, 2], [3, 3], []]))
    before = len(tree.subgraphs[0].operators) - 1
    assert write_out_calls(tree) > 0
    assert len(tree.subgraphs) == 1
    assert len(tree.subgraphs[0].operators) == before + 5


def test_calls_cannot_ask_for_endless_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_calls, "MOST_OPS", 2000)
    doubled = called([[i + 2, i + 2] for i in range(40)] + [[]])
    with pytest.raises(ModelError, match=r"stand for more than 2,000 ops when they are written"):
        write_out_calls(unpack(doubled))
    with pytest.raises(ModelError, match="stand for more than 2,000 ops"):
        edgeq.export(doubled, list(bases()[1].data), recipe="int8", progress=False)


def test_a_long_chain_of_calls_is_read_in_time() -> None:
    start = time.monotonic()
    chain = called([[i + 2] for i in range(600)] + [[]])
    with pytest.raises(ModelError, match="nothing in the model is quantized"):
        edgeq.dequantize(chain)
    assert write_out_calls(unpack(chain)) >= 600
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize("command", ["inspect", "lint", "dequantize"])
def test_a_device_is_no_model(command: str, tmp_path: Path) -> None:
    more = ("-o", tmp_path / "made.tflite") if command == "dequantize" else ()
    found = run(command, "/dev/zero", *more)
    assert found.exit_code == 2
    assert "It is a device and no file" in found.stderr


def test_a_message_lists_no_hundred_thousand_tensors() -> None:
    tree = unpack(bases()[1].tflite)
    graph = tree.subgraphs[0]
    graph.outputs = np.repeat(graph.outputs, 100_000)
    with pytest.raises(ModelError, match="and 99,980 more") as told:
        parse(bytes(pack(tree)))
    assert len(str(told.value)) < 1000
