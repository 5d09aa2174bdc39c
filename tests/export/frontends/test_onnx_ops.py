"""Every ONNX op of the table computes what onnxruntime computes, in each form that it comes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_cases import ALL, Array, Case, model_of, single

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from edgeq.errors import ConversionError, UnsupportedOpError  # noqa: E402
from edgeq.export.frontends.onnx import child  # noqa: E402
from edgeq.export.frontends.onnx.fusions import fused, pruned  # noqa: E402
from edgeq.export.frontends.onnx.graph_interpreter import specialised  # noqa: E402
from edgeq.export.frontends.onnx.reference import check  # noqa: E402
from edgeq.export.frontends.onnx.replay import Replay  # noqa: E402


def by_onnxruntime(model: Any, sample: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, sample))


def replayed(model: Any, sample: dict[str, Array], other: dict[str, Array]) -> list[Array]:
    """What the module that was specialised on one sample computes of another."""
    read = child.read_model(model.SerializeToString())
    tensors = [
        {n: torch.from_numpy(a) for n, a in child.bound(read, given).items()}
        for given in (sample, other)
    ]
    program = pruned(fused(specialised(read, tensors[0])))
    module = Replay(program, [f"output_{i}" for i in range(len(program.outputs))])
    named = {f"input_{i}": tensor for i, tensor in enumerate(tensors[1].values())}
    with torch.no_grad():
        return [value.numpy() for value in module(**named).values()]


def shuffled(sample: dict[str, Array]) -> dict[str, Array]:
    generator = np.random.default_rng(9)
    return {
        name: generator.permutation(array.reshape(-1)).reshape(array.shape)
        for name, array in sample.items()
    }


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.label)
def test_an_op_computes_what_onnxruntime_computes(case: Case) -> None:
    model, other = single(case), shuffled(case.sample)
    expected = by_onnxruntime(model, other)
    made = replayed(model, case.sample, other)
    for wanted, found in zip(expected, made, strict=True):
        assert wanted.shape == found.shape
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


def repeated_rows() -> tuple[Any, dict[str, Array]]:
    """Rows, each as often as a length says: what speech models make frames of phonemes with."""
    from onnx import helper

    node = helper.make_node
    constants = {
        "zero": np.array(0, np.int64), "one": np.array(1, np.int64), "last": np.array([1]),
        "first": np.array([0]),
    }  # fmt: skip
    nodes = [
        node("Round", ["lengths"], ["rounded"]),
        node("Cast", ["rounded"], ["counts"], to=7),
        node("CumSum", ["counts", "zero"], ["ends"]),
        node("ReduceSum", ["counts"], ["total"], keepdims=0),
        node("Range", ["zero", "total", "one"], ["frames"]),
        node("Unsqueeze", ["frames", "last"], ["each"]),
        node("Unsqueeze", ["ends", "first"], ["against"]),
        node("GreaterOrEqual", ["each", "against"], ["passed"]),
        node("Cast", ["passed"], ["ones"], to=7),
        node("ReduceSum", ["ones", "last"], ["places"], keepdims=0),
        node("Gather", ["rows", "places"], ["y"], axis=0),
    ]
    sample = {
        "lengths": np.array([2, 3, 1], np.float32), "rows": np.arange(6, dtype=np.float32)
        .reshape(3, 2),
    }  # fmt: skip
    return model_of(nodes, sample, ["y"], constants), sample


def test_rows_beyond_a_size_of_the_sample_are_filled_up() -> None:
    model, sample = repeated_rows()
    for lengths in ([1, 2, 1], [1, 0, 5]):
        other = {**sample, "lengths": np.array(lengths, np.float32)}
        (found,) = replayed(model, sample, other)
        (wanted,) = by_onnxruntime(model, other)
        assert found.shape == (6, 2)
        np.testing.assert_array_equal(found[: len(wanted)], wanted)
        np.testing.assert_array_equal(found[len(wanted) :], sample["rows"][[2] * (6 - len(wanted))])


def test_a_size_that_integers_round_otherwise_is_no_other_output() -> None:
    model, sample = repeated_rows()
    read = child.read_model(model.SerializeToString())
    arguments = {"lengths": np.array([1, 2, 1], np.float32), "rows": sample["rows"]}
    tensors = {n: torch.from_numpy(a) for n, a in sample.items()}
    program = specialised(read, tensors)
    with pytest.raises(ConversionError, match="output 'y' of the ONNX model with -inf dB"):
        check(read, arguments, program)
    model.graph.node.extend([rounding_nobody_reads()])
    read = child.read_model(model.SerializeToString())
    (resized, rounds) = check(read, arguments, specialised(read, tensors))
    assert "integers of the ONNX model round them to (4, 2), where the file has (6, 2)" in resized
    assert "quantized" in rounds


def rounding_nobody_reads() -> Any:
    from onnx import helper

    return helper.make_node("DynamicQuantizeLinear", ["rows"], ["q", "scale", "zero_point"])


def branched(wide: bool) -> Any:
    """Twice the input where its sum is positive, else half of it, of which `wide` keeps more."""
    from onnx import helper

    node = helper.make_node
    empty = helper.make_empty_tensor_value_info
    twice = node("Add", ["x", "x"], ["t"], name="half.to")  # words of PyTorch
    double = helper.make_graph([twice], "double", [], [empty("t")])
    parts = ["x", "x"] if wide else ["x"]
    half = [node("Concat", parts, ["c"], axis=0), node("Mul", ["c", "half"], ["e"], name="float")]
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "none"], ["yes"]),
        node(
            "If", ["yes"], ["y"], then_branch=double,
            else_branch=helper.make_graph(half, "half", [], [empty("e")]),
        ),
    ]  # fmt: skip
    constants = {"none": np.array(0, np.float32), "half": np.array(0.5, np.float32)}
    return model_of(nodes, {"x": np.ones((2, 3), np.float32)}, ["y"], constants)


def test_a_branch_that_the_input_chooses_is_both_and_a_selection() -> None:
    sample = {"x": np.ones((2, 3), np.float32)}
    for sign in (1, -1):
        other = {"x": sign * np.arange(6, dtype=np.float32).reshape(2, 3)}
        (found,) = replayed(branched(False), sample, other)
        np.testing.assert_array_equal(found, other["x"] * (2 if sign > 0 else 0.5))
    with pytest.raises(UnsupportedOpError, match=r"ONNX op If at y .*differ in shape or type"):
        replayed(branched(True), sample, sample)
