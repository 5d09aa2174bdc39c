"""Every ONNX op of the table computes what onnxruntime computes, in each form that it comes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx_cases import ALL, Array, Case, Input, draw, floats, model_of, single, whole, x
from onnx_domain_cases import ALL as OF_DOMAINS
from onnx_form_cases import ALL as OF_FORMS
from onnx_signal_cases import ALL as OF_SIGNALS

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from edgeq.errors import ConversionError, DataError, ModelError, UnsupportedOpError  # noqa: E402
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


@pytest.mark.parametrize(
    "case", [*ALL, *OF_DOMAINS, *OF_FORMS, *OF_SIGNALS], ids=lambda case: case.label
)
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


@pytest.mark.parametrize("shape", [[], [1]], ids=["scalar", "one"])
def test_the_number_of_a_turn_has_the_shape_that_the_body_declares(shape: list[int]) -> None:
    from onnx import TensorProto, helper

    node, info = helper.make_node, helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Gather", ["x", "i"], ["row"], axis=0), node("Identity", ["go"], ["again"])], "body",
        [info("i", TensorProto.INT64, shape), info("go", TensorProto.BOOL, [])],
        [info("again", TensorProto.BOOL, []), info("row", TensorProto.FLOAT, None)],
    )  # fmt: skip
    sample = {"x": draw(4, 3)}
    numbers = {"turns": np.array(3), "yes": np.array(True)}
    model = model_of([node("Loop", ["turns", "yes"], ["y"], body=body)], sample, ["y"], numbers)
    (found,), (wanted,) = replayed(model, sample, sample), by_onnxruntime(model, sample)
    np.testing.assert_array_equal(found, wanted)
    assert found.ndim == 2 + len(shape)


def grown(most: int | None, results: Sequence[str] = ("y", "count")) -> Any:
    """The input doubled until it is large enough, at most so often, and how often."""
    from onnx import TensorProto, helper

    node, info = helper.make_node, helper.make_tensor_value_info
    made = ["again", "w", "m", "row"][: 1 + len(results)]
    body = helper.make_graph(
        [
            node("Add", ["v", "v"], ["w"]),
            node("Add", ["n", "one"], ["m"]),
            node("ReduceMax", ["w"], ["top"], keepdims=0),
            node("Less", ["top", "enough"], ["small"]),
            node("Less", ["m", "bound"], ["early"]),
            node("And", ["small", "early"], ["again"]),
            node("Identity", ["w"], ["row"]),
        ],
        "body",
        [info("i", TensorProto.INT64, []), info("goes", TensorProto.BOOL, []),
         info("v", TensorProto.FLOAT, [3]), info("n", TensorProto.INT64, [])],
        [helper.make_empty_tensor_value_info(name) for name in made],
    )  # fmt: skip
    constants = {
        "one": np.array(1), "zero": np.array(0), "enough": np.array(9, np.float32),
        "yes": np.array(True), "bound": np.array(4 if most is None else 1000),
        "most": np.array(most or 0),
    }  # fmt: skip
    turns = node("Loop", ["" if most is None else "most", "yes", "x", "zero"], list(results),
                 body=body)  # fmt: skip
    return model_of([turns], {"x": np.ones(3, np.float32)}, results, constants)


@pytest.mark.parametrize("most", [5, None], ids=["turns", "counter"])
def test_a_loop_that_the_input_ends_runs_to_its_bound(most: int | None) -> None:
    model, sample = grown(most), {"x": np.ones(3, np.float32)}
    for size in (0.01, 1.0, 3.0, 20.0):
        other = {"x": np.array([0.5, 1, 0.2], np.float32) * size}
        for wanted, found in zip(by_onnxruntime(model, other), replayed(model, sample, other),
                                 strict=True):  # fmt: skip
            np.testing.assert_array_equal(found, wanted)


def test_a_loop_that_only_the_input_ends_is_refused() -> None:
    sample = {"x": np.ones(3, np.float32)}
    with pytest.raises(UnsupportedOpError, match="a first input of at most 256 turns, but the val"):
        replayed(grown(1000), sample, sample)
    with pytest.raises(UnsupportedOpError, match="Loop at y returns a row of 'rows' for each turn"):
        replayed(grown(5, ("y", "count", "rows")), sample, sample)


def test_sequences_of_tensors_are_told_apart() -> None:
    from onnx import helper

    node = helper.make_node
    nodes = [
        node("SplitToSequence", ["x", "two"], ["parts"], axis=1),
        node("SequenceInsert", ["parts", "z"], ["more"]),
        node("SequenceErase", ["more", "one"], ["fewer"]),
        node("SequenceAt", ["fewer", "one"], ["last"]),
        node("SequenceLength", ["fewer"], ["count"]),
        node("ConcatFromSequence", ["fewer"], ["joined"], axis=1),
        node("SequenceConstruct", ["x", "x"], ["same"]),
        node("ConcatFromSequence", ["same"], ["stacked"], axis=0, new_axis=1),
    ]
    sample = {"x": draw(2, 4), "z": draw(2, 1, seed=1)}
    numbers = {"one": np.array(1), "two": np.array(2)}
    model = model_of(nodes, sample, ["last", "count", "joined", "stacked"], numbers)
    other = shuffled(sample)
    for wanted, found in zip(by_onnxruntime(model, other), replayed(model, sample, other),
                             strict=True):  # fmt: skip
        np.testing.assert_array_equal(found, wanted)
    model.graph.output.extend([helper.make_empty_tensor_value_info("same")])
    with pytest.raises(ModelError, match="output 'same' of the ONNX model is a sequence"):
        replayed(model, sample, sample)


@pytest.mark.parametrize("op", ["SequenceAt", "SequenceErase"])
def test_a_place_that_a_sequence_has_not_is_refused(op: str) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["both"]),
        helper.make_node(op, ["both", "three"], ["y"]),
    ]
    sample = {"x": draw(2, 4)}
    model = model_of(nodes, sample, ["y"], {"three": np.array(3)})
    with pytest.raises(UnsupportedOpError, match="takes place 3 of a sequence that has 2"):
        replayed(model, sample, sample)


def test_what_keeps_boxes_says_where_to_end_the_model() -> None:
    from onnx import helper

    nodes = [helper.make_node("NonMaxSuppression", ["boxes", "scores"], ["kept"])]
    sample = {"boxes": draw(1, 5, 4), "scores": draw(1, 2, 5)}
    with pytest.raises(UnsupportedOpError, match="end the model at what it reads, 'boxes' and 'sc"):
        replayed(model_of(nodes, sample, ["kept"]), sample, sample)


@pytest.mark.parametrize("kind", ["uint16", "int16"])
@pytest.mark.parametrize("has_zero", [True, False])
def test_integers_of_16_bits_end_where_they_do(kind: str, has_zero: bool) -> None:
    from onnx import helper

    constants = {"s": np.float32(1e-5 if kind == "uint16" else 3e-5), "z": np.zeros((), kind)}
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    reads = ["x", "s", "z"] if has_zero else ["x", "s"]
    attributes = {} if has_zero else {"output_dtype": number}
    nodes = [
        helper.make_node("QuantizeLinear", reads, ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    sample = {"x": draw(4, 6)}
    model = model_of(nodes, sample, ["y"], constants, opset=21)
    (found,), (wanted,) = replayed(model, sample, sample), by_onnxruntime(model, sample)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_fused_products_with_integers_are_those_of_what_they_stand_for() -> None:
    from onnx import helper

    node, ours = helper.make_node, {"domain": "com.microsoft"}
    constants = {
        "w": whole(5, 4, low=-90, below=90, dtype="int8"), "ws": draw(4, low=0.01, high=0.02),
        "wz": np.zeros(4, np.int8), "b": draw(4),
    }  # fmt: skip
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulIntegerToFloat", ["q", "w", "s", "ws", "z", "wz", "b"], ["y"], **ours),
        node("DynamicQuantizeMatMul", ["x", "w", "ws", "wz", "b"], ["t"], **ours),
    ]
    sample = {"x": draw(2, 5)}
    model = model_of(nodes, sample, ["y", "t"], constants)
    wanted = sample["x"] @ (constants["w"] * constants["ws"]) + constants["b"]
    for found, rounded in zip(replayed(model, sample, sample), by_onnxruntime(model, sample),
                              strict=True):  # fmt: skip
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found, rounded, atol=0.05)


def test_nodes_need_not_stand_in_order() -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Relu", ["x"], ["b"]),
    ]  # fmt: skip
    sample = {"x": draw(2, 4)}
    (found,) = replayed(model_of(nodes, sample, ["y"]), sample, sample)
    np.testing.assert_array_equal(found, -(sample["x"] + np.maximum(sample["x"], 0)))
    nodes[2] = helper.make_node("Relu", ["y"], ["b"])
    with pytest.raises(ModelError, match="is 'a', which no node before computes"):
        replayed(model_of(nodes, sample, ["y"]), sample, sample)


def test_what_is_added_from_an_axis_on_is_as_old_files_mean_it() -> None:
    from onnx import helper

    added = helper.make_node("Add", ["x", "c"], ["y"], axis=1, broadcast=1)
    sample, stored = {"x": draw(2, 3, 4)}, draw(3)
    model = model_of([added], sample, ["y"], {"c": stored}, opset=6)
    (found,) = replayed(model, sample, sample)
    np.testing.assert_array_equal(found, sample["x"] + stored[:, None])


@pytest.mark.parametrize("places", [[0, 3, 7], [[0, 0], [1, 1], [3, 1]]], ids=["flat", "tuples"])
def test_sparse_constants_are_dense_ones(places: Any) -> None:
    from onnx import helper, numpy_helper

    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(floats(1, 2, 3), "w"),
        numpy_helper.from_array(np.asarray(places, np.int64), "places"), [4, 2],
    )  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], ["v"], sparse_value=sparse),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("MatMul", ["x", "v"], ["z"]),
    ]
    sample = {"x": draw(2, 4)}
    model = model_of(nodes, sample, ["y", "z"])
    model.graph.sparse_initializer.append(sparse)
    dense = np.asarray([[1, 0], [0, 2], [0, 0], [0, 3]], np.float32)
    for found in replayed(model, sample, sample):
        np.testing.assert_allclose(found, sample["x"] @ dense, rtol=1e-6)


def test_a_sequence_is_mapped() -> None:
    from onnx import helper

    node, info = helper.make_node, helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Mul", ["one", "by"], ["made"])], "body",
        [info("one", 1, None), info("by", 1, None)], [info("made", 1, None)],
    )  # fmt: skip
    nodes = [
        node("SplitToSequence", ["x", "two"], ["parts"], axis=1),
        node("SequenceMap", ["parts", "z"], ["mapped"], body=body),
        node("ConcatFromSequence", ["mapped"], ["y"], axis=1),
    ]
    sample = {"x": draw(2, 4), "z": draw(2, 1, seed=1)}
    (found,) = replayed(model_of(nodes, sample, ["y"], {"two": np.array(2)}), sample, sample)
    np.testing.assert_array_equal(found, sample["x"] * sample["z"])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_stacks_along_any_axis(axis: int) -> None:
    from onnx import helper

    node, info = helper.make_node, helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Add", ["s", "v"], ["t"]), node("Tanh", ["t"], ["row"])], "body",
        [info("s", 1, [2]), info("v", 1, [2])], [info("t", 1, [2]), info("row", 1, [2])],
    )  # fmt: skip
    scan = node(
        "Scan", ["s0", "x"], ["last", "rows"], num_scan_inputs=1, body=body, scan_input_axes=[1],
        scan_input_directions=[1], scan_output_directions=[1], scan_output_axes=[axis],
    )  # fmt: skip
    sample = {"s0": draw(2), "x": draw(2, 5, seed=1)}
    model, other = model_of([scan], sample, ["last", "rows"]), shuffled(sample)
    for wanted, found in zip(by_onnxruntime(model, other), replayed(model, sample, other),
                             strict=True):  # fmt: skip
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_sample_of_what_has_a_value_in_the_file_is_refused() -> None:
    from onnx import helper

    sample = {"x": draw(2, 4), "c": draw(4)}
    model = model_of([helper.make_node("Add", ["x", "c"], ["y"])], sample, ["y"], {"c": draw(4)})
    read = child.read_model(model.SerializeToString())
    for given in (sample, tuple(sample.values())):
        with pytest.raises(DataError, match=r"its inputs are 'x'; what .* is a constant \('c'\)"):
            child.bound(read, given)


REFUSED = [
    (Case("Dropout", [x(2, 3), np.float32(0.5), np.asarray(True)]), "as in training; export the"),
    (Case("RandomNormalLike", [x(2, 3)]), "let the model take them as an input"),
    (Case("Bernoulli", [x(2, 3)]), r"op Bernoulli at layer draws random numbers"),
    (
        Case(
            "Attention",
            [x(1, 5, 8), draw(8, 24), draw(24), None, x(2, 1, 2, 3, 4)],
            {"num_heads": 2},
            outputs=2,
            domain="com.microsoft",
        ),
        "export the model without a cache",
    ),
    (Case("ZipMap", [x(2, 3)], domain="ai.onnx.ml"), "options={'zipmap': False}, .* at 'in0'"),
    (Case("TreeEnsembleRegressor", [x(2, 3)], domain="ai.onnx.ml"), "trees and support vectors"),
    (Case("Conv", [x(2, 3)], domain="com.microsoft.nchwc"), "optimized with ORT_ENABLE_EXTENDED"),
    (Case("Magic", [x(2, 3)], domain="acme"), "acme.Magic at layer is no op of ONNX: export the"),
    (Case("Compress", [x(2, 3), Input(draw(6) > 0)]), r"take a fixed number \(TopK\)"),
    (Case("NonZero", [x(2, 3)]), r"mask them .* a fixed number .* end the model at 'in0'"),
]


@pytest.mark.parametrize(("case", "why"), REFUSED, ids=lambda value: getattr(value, "label", ""))
def test_what_has_no_form_says_what_to_do(case: Case, why: str) -> None:
    with pytest.raises(UnsupportedOpError, match=why):
        replayed(single(case), case.sample, case.sample)


def test_an_input_of_text_is_said_to_be_one() -> None:
    from onnx import TensorProto, helper

    model = model_of([helper.make_node("Identity", ["x"], ["y"])], {"x": draw(2)}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    read = child.read_model(model.SerializeToString())
    with pytest.raises(ModelError, match="'x' of the ONNX model takes text, and the runtime has n"):
        child.bound(read, {"x": np.array(["a", "b"])})
