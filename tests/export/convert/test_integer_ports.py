"""Integer inputs and outputs, and ranges known beforehand: as asked, by name and by index."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import recipes
from command_line import run
from one_op import OneOp, Step, Value

import edgeq
from edgeq.calibrate.observers import Fixed
from edgeq.errors import RecipeError
from edgeq.export.edge_model import EdgeModel
from edgeq.export.portspec import PortSpec, as_port_specs
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import parse
from edgeq.model import LiteModel
from edgeq.ports import IO, Port, read_io
from edgeq.qtypes import DType, QParams, affine, float32
from edgeq.recipe import Mode, Recipe, Rule
from edgeq.runtime.backend import load_backend
from edgeq.runtime.session import Session

Images = npt.NDArray[np.float32]

ROWS = Value((1, 8), low=-1.0, high=1.0)


def boundary_ops(tflite: bytes) -> list[str]:
    ops = [op.name for op in parse(tflite).graphs[0].operators]
    return [name for name in ops if name in ("QUANTIZE", "DEQUANTIZE")]


def export(model: object, data: object, **options: Any) -> EdgeModel:
    asked = {"recipe": recipes.NEAREST, **options}
    return edgeq.export(model, data, progress=False, threads=1, **asked)


@pytest.fixture(scope="module")
def exported(demo_model: LiteModel, demo_images: Images) -> EdgeModel:
    """The demo model with float ports."""
    return export(demo_model.tflite, demo_images)


def dense(name: str, source: str, units: int, seed: int) -> Step:
    weight = np.random.default_rng(seed).uniform(-1, 1, (units, 8)).astype(np.float32)
    return Step("FULLY_CONNECTED", (source, weight, None), {name: Value((1, units))}, {})


def two_heads() -> OneOp:
    """Two inputs, and the outputs `sum` and `scores`; their names are those of the tensors."""
    steps = (
        Step("ADD", ("left", "right"), {"mixed": ROWS}, {}),
        dense("scores", "mixed", 4, 1),
        Step("SUB", ("left", "mixed"), {"difference": ROWS}, {}),
    )
    return OneOp("two_heads", {"left": ROWS, "right": ROWS}, steps)


def with_outputs(case: OneOp, *names: str) -> bytes:
    """The case's model with other tensors as its outputs."""
    from edgeq.flatbuffer import pack, schema, unpack

    tree = unpack(case.build())
    graph = tree.subgraphs[0]
    index = {tensor.name.decode(): i for i, tensor in enumerate(graph.tensors)}
    graph.outputs = np.asarray([index[name] for name in names], np.int32)
    maps = []
    for name in names:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), index[name]
        maps.append(entry)
    tree.signatureDefs[0].outputs = maps
    return pack(tree)


@pytest.mark.parametrize(
    ("dtype", "left"),
    [("int8", []), ("uint8", ["QUANTIZE"] * 2), ("int16", ["QUANTIZE"] * 2)],
)
def test_ports_are_integers_by_name_and_by_index(
    exported: EdgeModel,
    demo_model: LiteModel,
    demo_images: Images,
    dtype: str,
    left: list[str],
) -> None:
    edge = export(demo_model.tflite, demo_images, inputs=dtype, outputs=dtype)
    assert boundary_ops(edge.tflite) == left
    assert edge.report.total_ops - edge.report.delegated_ops == len(left)
    (port,), (result,) = edge.io.inputs, edge.io.outputs
    (before,), (after,) = exported.io.inputs, exported.io.outputs
    assert (port.name, port.shape, port.dtype) == (before.name, before.shape, dtype)
    assert (result.name, result.shape, result.dtype) == (after.name, after.shape, dtype)
    module = load_backend().module
    interpreter = module.Interpreter(model_content=edge.tflite)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    names = [demo_model.graph.tensors[i] for i in (*demo_model.graph.inputs, 73)]
    assert [source["name"], target["name"]] == [tensor.name for tensor in names]
    runner = module.Interpreter(model_content=edge.tflite).get_signature_runner()
    total = Fidelity()
    with exported.session() as reference:
        for image in demo_images:
            held = port.quantize(image[None])
            named = runner(**{port.name: held})[result.name]
            interpreter.set_tensor(source["index"], held)
            interpreter.invoke()
            assert np.array_equal(interpreter.get_tensor(target["index"]), named)
            assert named.dtype == dtype
            expected = reference.run(image[None])[result.name]
            total = total.observe(expected, result.dequantize(named))
    # The demo's pixels lie halfway between two integers, which the delegate rounds otherwise.
    assert total.sqnr_db > 20


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_integer_outputs_are_those_of_the_float_port(
    exported: EdgeModel, demo_model: LiteModel, demo_images: Images, dtype: str
) -> None:
    edge = export(demo_model.tflite, demo_images, outputs=dtype)
    with edge.session() as session, exported.session() as reference:
        for image in demo_images[:5]:
            (held,), (real,) = (
                session.run(image[None]).values(),
                reference.run(image[None]).values(),
            )
            assert held.dtype == dtype
            step = edge.io.outputs[0].qparams.scale[0]
            assert np.abs(edge.io.outputs[0].dequantize(held) - real).max() <= 0.51 * step


def test_uint8_has_the_scale_of_int8_and_int16_covers_the_same(
    exported: EdgeModel, demo_model: LiteModel, demo_images: Images
) -> None:
    def qparams(dtype: str) -> QParams:
        found = export(demo_model.tflite, demo_images[:10], inputs=dtype).io.inputs[0].qparams
        assert found is not None
        return found

    signed, unsigned, wide = qparams("int8"), qparams("uint8"), qparams("int16")
    assert unsigned == QParams(DType.UINT8, signed.scale, (signed.zero_point[0] + 128,))
    assert wide.zero_point == (0,)
    assert wide.range()[1] == pytest.approx(max(map(abs, signed.range())), rel=1e-3)


def test_pixels_are_the_integers_where_the_range_is_known(
    demo_model: LiteModel, demo_images: Images
) -> None:
    """With (0, 1) and uint8, a camera's bytes go into the model as they are."""
    edge = export(demo_model.tflite, demo_images * 0.5 + 0.5, inputs=("uint8", (0, 1)))
    assert edge.io.inputs[0].qparams == QParams(DType.UINT8, (float32(1 / 255),), (0,))
    pixels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(edge.io.inputs[0].quantize(pixels / np.float32(255)), pixels)


def test_ports_differ_by_name() -> None:
    case = two_heads()
    model = with_outputs(case, "difference", "scores")
    edge = export(
        model, case.draw(20), inputs={"right": "uint8"}, outputs={"scores": ("int8", (-6, 6))}
    )
    assert [(p.name, p.dtype) for p in (*edge.io.inputs, *edge.io.outputs)] == [
        ("left", "float32"), ("right", "uint8"), ("difference", "float32"), ("scores", "int8"),
    ]  # fmt: skip
    assert edge.io.outputs[1].qparams == affine(-6, 6)
    sample = case.draw(1)[0]
    held = dict(zip(("left", "right"), edge.io.quantize(sample), strict=True))
    with edge.session() as session, Session(model) as reference:
        found, expected = session.run(held), reference.run(sample)
    real = edge.io.dequantize([found[name] for name in ("difference", "scores")])
    for name, value in expected.items():
        assert np.abs(real[name] - value).max() < 0.1


def test_an_output_that_a_float_op_reads_as_well_can_be_an_integer() -> None:
    steps = (
        dense("scores", "x", 8, 2),
        Step("FLOOR", ("scores",), {"floor": ROWS}, {}),
        Step("ADD", ("scores", "floor"), {"y": ROWS}, {}),
    )
    case = OneOp("floor", {"x": ROWS}, steps)
    model = with_outputs(case, "scores", "y")
    recipe = Recipe(rules=(Rule(op="FLOOR", mode=Mode.FLOAT, reason="no int8 kernel"),))
    edge = export(model, case.draw(20), recipe=recipe, inputs="int8", outputs="int8")
    assert [p.dtype for p in edge.io.outputs] == ["int8", "int8"]
    assert [p.name for p in edge.io.outputs] == ["scores", "y"]
    assert [o.sqnr_db > 15 for o in edge.report.outputs] == [True, True]


def test_a_float_op_at_a_port_is_told_with_its_reason() -> None:
    steps = (dense("scores", "x", 8, 2), Step("FLOOR", ("scores",), {"y": ROWS}, {}))
    case = OneOp("floor", {"x": ROWS}, steps)
    recipe = Recipe(rules=(Rule(op="FLOOR", mode=Mode.FLOAT, reason="no int8 kernel"),))
    with pytest.raises(RecipeError, match=(
        r"outputs: 'y' cannot be int8: it comes from FLOOR at y \(op \d\), which is float "
        r"\(no int8 kernel\)\. Leave it float32 with outputs=\{\.\.\.\}"
    )):  # fmt: skip
        export(case.build(), case.draw(10), recipe=recipe, outputs="int8", min_sqnr_db=None)
    first = Recipe(rules=(Rule(layer="scores", mode=Mode.FLOAT, reason="mine"),
                          Rule(op="FLOOR", mode=Mode.FLOAT, reason="no int8 kernel")))  # fmt: skip
    with pytest.raises(RecipeError, match=r"inputs: 'x' cannot be uint8: it is read by FULLY_CONN"):
        export(case.build(), case.draw(10), recipe=first, inputs="uint8", min_sqnr_db=None)


def test_the_report_has_the_ports(demo_model: LiteModel, demo_images: Images) -> None:
    edge = export(demo_model.tflite, demo_images, inputs=("uint8", (-1, 1)))
    fields = json.loads(edge.report.to_json())["io"]
    assert fields["inputs"] == [{
        "name": "images", "shape": [1, 1, 28, 28], "dtype": "uint8",
        "scale": float32(2 / 255), "zero_point": 128,
    }]  # fmt: skip
    assert fields["outputs"][0]["dtype"] == "float32"
    assert fields["outputs"][0]["scale"] is None
    assert "input images" in edge.report.text()
    assert edge.report.undelegated == ("QUANTIZE at tfl.quantize (op 0)",)


def test_the_ports_of_a_file_are_read_from_it(exported: EdgeModel) -> None:
    assert read_io(exported.tflite) == exported.io
    assert exported.io.inputs[0] == Port("images", (1, 1, 28, 28), "float32", None)
    real = np.ones((1, 2), np.float32)
    assert IO(exported.io.inputs, ()).quantize({"images": real})[0] is real


@pytest.mark.parametrize(
    "last",
    [
        Step("TRANSPOSE", ("scores", np.asarray([1, 0], np.int32)), {"y": Value((8, 1))}, {}),
        Step("RESHAPE", ("scores", np.asarray([8], np.int32)), {"y": Value((8,))}, {}),
        Step("CONCATENATION", ("scores", "x"), {"y": Value((1, 16))}, {"axis": 1}),
    ],
    ids=lambda step: step.name,
)
def test_the_range_of_an_output_goes_to_what_it_takes_its_scale_from(last: Step) -> None:
    case = OneOp("known", {"x": ROWS}, (dense("scores", "x", 8, 2), last))
    edge = export(case.build(), case.draw(20), outputs=("int8", (-5, 5)))
    assert edge.io.outputs[0].qparams == affine(-5, 5)


def test_a_range_that_a_kernel_dictates_may_be_said() -> None:
    steps = (dense("scores", "x", 8, 2), Step("SOFTMAX", ("scores",), {"y": ROWS}, {"beta": 1.0}))
    case = OneOp("softmax", {"x": ROWS}, steps)
    edge = export(case.build(), case.draw(20), outputs=("int8", (0, 1)))
    assert edge.io.outputs[0].qparams == QParams(DType.INT8, (1 / 256,), (-128,))
    with pytest.raises(
        RecipeError, match=r"SOFTMAX at y .*whose kernel dictates the range 0 to 0.9"
    ):
        export(case.build(), case.draw(20), outputs=(-2, 2))


def test_the_range_of_a_part_is_refused() -> None:
    begin, size = np.asarray([0, 2], np.int32), np.asarray([1, 4], np.int32)
    last = Step("SLICE", ("scores", begin, size), {"y": Value((1, 4))}, {})
    case = OneOp("slice", {"x": ROWS}, (dense("scores", "x", 8, 2), last))
    with pytest.raises(RecipeError, match="'y' cannot be chosen, as it comes from SLICE at y"):
        export(case.build(), case.draw(10), outputs=(-1, 1))


def test_known_ranges_are_in_the_calibration(demo_model: LiteModel, demo_images: Images) -> None:
    measured = edgeq.calibrate(demo_model.tflite, demo_images, progress=False)
    known = edgeq.calibrate(
        demo_model.tflite, demo_images, progress=False,
        inputs=(-1.5, 1), outputs={"output_0": (-9, 9)},
    )  # fmt: skip
    changed = {t: o for t, o in known.observers.items() if o != measured.observers[t]}
    (source,), (target,) = demo_model.graph.inputs, demo_model.graph.outputs
    assert changed == {source: Fixed(-1.5, 1.0), target: Fixed(-9.0, 9.0)}
    given = export(demo_model.tflite, demo_images, calibration=known, inputs="int8")
    again = export(demo_model.tflite, demo_images, calibration=measured,
                   inputs=("int8", (-1.5, 1)), outputs=(-9, 9))  # fmt: skip
    assert given.tflite == again.tflite
    assert given.io.inputs[0].qparams == QParams(DType.INT8, (float32(2.5 / 255),), (25,))


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        ("uint8", PortSpec("uint8")),
        ((0, 1), PortSpec(range=(0, 1))),
        ([-1, 1.5], PortSpec(range=(-1, 1.5))),
        (("int8", (0, 1)), PortSpec("int8", (0, 1))),
        (PortSpec("int16"), PortSpec("int16")),
    ],
)
def test_what_ports_shall_be_is_said_in_these_ways(value: object, spec: PortSpec) -> None:
    assert as_port_specs(value, "inputs").every == spec
    by_name = as_port_specs({"x": value}, "inputs")
    assert (by_name.every, by_name.named) == (PortSpec(), {"x": spec})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("int4", "can be float32, int8, uint8, int16. Received: 'int4'"),
        (7, "inputs takes a type such as 'uint8', a range such as .* Received: 7"),
        ((1, 0), r"two finite numbers, low < high. Received: \(1, 0\)"),
        ((0, float("inf")), "two finite numbers"),
        (("uint8", (0, 1, 2)), "two finite numbers"),
        (("uint8", "int8"), "inputs takes a type"),
        (("a", "b", "c"), "inputs takes a type"),
        ({"y": "int8"}, "inputs: the model has no input 'y'; it has images"),
    ],
)
def test_what_makes_no_sense_is_told(
    demo_model: LiteModel, demo_images: Images, value: object, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        export(demo_model.tflite, demo_images, inputs=value)


def test_integer_inputs_of_the_model_stay_as_they_are() -> None:
    ids = Value((1, 4), "int32", 0, 6)
    table = np.random.default_rng(0).uniform(-1, 1, (6, 8)).astype(np.float32)
    step = Step("GATHER", (table, "ids"), {"y": Value((1, 4, 8))}, {"axis": 0})
    case = OneOp("GATHER", {"ids": ids}, (step,))
    edge = export(case.build(), case.draw(10), outputs="int8")
    assert [p.dtype for p in (*edge.io.inputs, *edge.io.outputs)] == ["int32", "int8"]
    with pytest.raises(RecipeError, match="inputs: the model has no float32 input"):
        export(case.build(), case.draw(10), inputs="int8")
    with pytest.raises(RecipeError, match="inputs: 'ids' is int32 in the model itself"):
        export(case.build(), case.draw(10), inputs={"ids": "int8"})


def test_the_command_line_asks_for_ports(demo_files: Any, demo_model: LiteModel) -> None:
    output = demo_files / "camera.tflite"
    found = run(
        "export", demo_files / "model.tflite", "--data", demo_files / "images.npy", "-o", output,
        "--inputs", "uint8", "--outputs", "int8", "--input-range", "-1", "1", "--layout", "nhwc",
        "--recipe", "int8",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    ports = read_io(output.read_bytes())
    assert ports.inputs == (
        Port("images", (1, 28, 28, 1), "uint8", QParams(DType.UINT8, (float32(2 / 255),), (128,))),
    )
    assert ports.outputs[0].dtype == "int8"
    refused = run(
        "export", demo_files / "model.tflite", "--data", demo_files / "images.npy", "-o", output,
        "--overwrite", "--inputs", "int9",
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "an input or output can be float32, int8, uint8, int16" in refused.stderr


def test_what_is_float_comes_in_and_goes_out_as_it_is_whatever_else_reads_it() -> None:
    steps = (
        Step("TANH", ("x",), {"made": ROWS}),
        dense("y", "made", 4, 1),
        dense("z", "x", 4, 2),
    )
    case = OneOp("put out", {"x": ROWS}, steps)
    rule = Rule(op="TANH", mode=Mode.FLOAT, reason="it is to be exact")
    model, recipe = with_outputs(case, "made", "y", "z"), Recipe("", (rule,), Mode.STATIC_INT8)
    edge, (sample,) = export(model, case.draw(40), recipe=recipe), case.draw(1)
    with edge.session() as session, Session(model) as exact:
        assert np.array_equal(session.run(sample)["made"], exact.run(sample)["made"])
    again = export(model, case.draw(40), recipe=recipe, inputs="int8", outputs={"made": "int8"})
    ports = (*again.io.inputs, *again.io.outputs)
    assert [port.dtype for port in ports] == ["int8", "int8", "float32", "float32"]
