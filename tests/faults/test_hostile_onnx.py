"""ONNX files that ask for endless work, for other files, or for what the runtime cannot hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fuzz_drivers import GOOD, Key, run_share
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx_mutations import ONNX_WAYS, classifier, onnx_bases, onnx_mutant, rearranger

import edgeq
from edgeq.errors import EdgeqError, ModelError
from edgeq.export.frontends import onnx as onnx_frontend
from edgeq.export.frontends.onnx import graph_interpreter, onnx_file
from edgeq.export.frontends.onnx.child import bound
from edgeq.export.frontends.onnx.graph_interpreter import Program, specialised
from edgeq.export.frontends.onnx.onnx_file import read_model
from edgeq.flatbuffer import parse, with_port_names
from edgeq.model import LiteModel


def interpreted(content: bytes, base: int) -> Program:
    """What the child makes of a file before PyTorch traces it."""
    model = read_model(content)
    arguments = bound(model, onnx_bases()[base].data[0])
    return specialised(model, {name: torch.from_numpy(a) for name, a in arguments.items()})


def with_turns(count: int, depth: int) -> bytes:
    """The base with loops in its loop."""
    model = onnx.ModelProto.FromString(rearranger())
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    body = loop.attribute[0].g
    for number in range(depth):
        inner = onnx.NodeProto()
        inner.CopyFrom(loop)
        inner.input[2], inner.output[0] = "sum", f"inner{number}"
        body.node.append(inner)
    (turns,) = (tensor for tensor in model.graph.initializer if tensor.name == "three")
    turns.CopyFrom(numpy_helper.from_array(np.array(count), "three"))
    made: bytes = model.SerializeToString()
    return made


def with_functions(count: int) -> bytes:
    """The base with functions that each call the one before twice; with 0, one calls itself."""
    model = onnx.ModelProto.FromString(rearranger())
    (first,) = model.functions
    if not count:
        first.node[0].CopyFrom(helper.make_node("Twice", ["v"], ["w"], domain="own"))
    first.opset_import.add(domain="own", version=1)
    for number in range(count):
        called = f"Twice{number - 1}" if number else "Twice"
        function = model.functions.add()
        function.CopyFrom(first)
        function.name = f"Twice{number}"
        del function.node[:]
        for source, result in (("v", "u"), ("u", "w")):
            function.node.append(helper.make_node(called, [source], [result], domain="own"))
    for node in model.graph.node:
        if count and node.op_type == "Twice":
            node.op_type = f"Twice{count - 1}"
    made: bytes = model.SerializeToString()
    return made


def huge(op: str, rank: int, numbers: int = 1 << 40) -> bytes:
    """The base with a few bytes that stand for very many numbers."""
    model = onnx.ModelProto.FromString(classifier())
    shape = np.array([round(numbers ** (1 / rank))] * rank)
    model.graph.initializer.append(numpy_helper.from_array(shape, "shape"))
    reads = ["shape"] if op == "ConstantOfShape" else ["a", "shape"]
    model.graph.node.insert(1, helper.make_node(op, reads, ["huge"]))
    model.graph.output.add(name="huge")
    made: bytes = model.SerializeToString()
    return made


ENDLESS: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "a loop without end": (lambda: with_turns(1 << 62, 0), 1, "up to 4096 turns are unrolled"),
    "loops in loops": (lambda: with_turns(1000, 3), 1, "is reached after 10,000 others have run"),
    "functions of functions": (lambda: with_functions(60), 1, "for more than 10,000 nodes"),
    "a function of itself": (lambda: with_functions(0), 1, "function 'Twice' .* calls itself"),
    "a huge constant": (lambda: huge("ConstantOfShape", 2), 0, "cannot be computed of inputs"),
    "a huge tiling": (lambda: huge("Tile", 4), 0, "cannot be computed of inputs"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_file_cannot_ask_for_endless_work(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (graph_interpreter, onnx_file):
        monkeypatch.setattr(module, "MOST_NODES", 10_000)
    make, base, what = ENDLESS[case]
    with pytest.raises(ModelError, match=what):
        interpreted(make(), base)


def test_functions_of_functions_are_written_out() -> None:
    plain, doubled = interpreted(rearranger(), 1), interpreted(with_functions(2), 1)
    assert len(doubled.steps) > len(plain.steps)


def stored_at(location: str, place: str) -> bytes:
    """The base with the weight in another file, of an initializer or of a node's attribute."""
    model = onnx.ModelProto.FromString(classifier())
    (tensor,) = (t for t in model.graph.initializer if t.name == "weight")
    if place == "attribute":
        node = helper.make_node("Constant", [], ["kept"])
        node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor)
        model.graph.node.insert(0, node)
        tensor = model.graph.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    made: bytes = model.SerializeToString()
    return made


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (1 << 29, "asks for more memory than edgeq gives a model of this size"),
        (1 << 20, "the process took more than 0.0013 GB of memory, so it was stopped"),
    ],
)
def test_a_file_cannot_take_the_memory_of_the_machine(
    given: int, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks for less than there is would be written to, for as long as that takes."""
    path = tmp_path / "model.onnx"
    path.write_bytes(huge("ConstantOfShape", 2, 1 << 28))
    monkeypatch.setattr(onnx_frontend, "MEMORY_BYTES", given)
    with pytest.raises(EdgeqError, match=what):
        edgeq.export(path, list(onnx_bases()[0].data), recipe="int8", progress=False)


@pytest.mark.parametrize("place", ["initializer", "attribute"])
@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../secret", "/dev/zero", "pipe", "link", "folder", "", "a\0b", "none"],
)
def test_data_lie_beside_the_file_or_nowhere(
    location: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(5 * 96 * 4))
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    (folder / "model.onnx").write_bytes(stored_at(location, place))
    monkeypatch.chdir(folder)
    with pytest.raises(ModelError):
        read_model(str(folder / "model.onnx"))


@pytest.mark.parametrize("place", ["initializer", "attribute"])
def test_bytes_have_no_data_beside_them(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weight").write_bytes(bytes(5 * 96 * 4))
    (tmp_path / "model.onnx").write_bytes(stored_at("weight", place))
    monkeypatch.chdir(tmp_path)
    assert read_model(str(tmp_path / "model.onnx")).body.nodes
    with pytest.raises(ModelError, match="lie in a file beside it: give its path"):
        read_model(stored_at("weight", place))


def test_names_end_at_a_zero_byte_as_the_runtime_has_them(demo_model: LiteModel) -> None:
    (signature,) = parse(demo_model.tflite).signatures
    (old,) = (name for name, _ in signature.outputs)
    inputs = {name: name for name, _ in signature.inputs}
    with pytest.raises(ModelError, match="the runtime ends names at a zero byte"):
        with_port_names(demo_model.tflite, inputs, {old: "a\0b"})
    renamed = bytes(with_port_names(demo_model.tflite, inputs, {old: "a" * 3}))
    assert parse(renamed.replace(b"aaa", b"a\0a")).signatures[0].outputs[0][0] == "a"


def test_every_damage_is_refused_or_interpreted() -> None:
    """Each way once on each base, as far as the interpreter; scripts/fuzz exports them."""
    refused = 0
    for base in range(len(onnx_bases())):
        for seed in range(len(ONNX_WAYS)):
            way, content = onnx_mutant(base, seed)
            if way in ("loop_for_long", "make_something_huge"):
                continue
            try:
                interpreted(content, base)
            except EdgeqError:
                refused += 1
    assert len(ONNX_WAYS) < refused < 3 * len(ONNX_WAYS)


def test_mutants_of_onnx_files_end_in_an_error_or_a_result(tmp_path: Path) -> None:
    keys = [Key("onnx", i % len(onnx_bases()), i * 7) for i in range(2)]
    found = list(run_share(keys, tmp_path))
    assert [r for r in found if r["outcome"] not in GOOD] == []
    assert len(found) == len(keys)
