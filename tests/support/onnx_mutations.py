"""Small ONNX models, and ways to damage them that a number repeats exactly.

As `mutations`, for another format: some ways work on bytes, most on the fields behind them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from mutations import (
    EXTREME_FLOATS,
    SAMPLES,
    Base,
    Random,
    flip_bits_anywhere,
    truncate,
    truncate_a_little,
)
from onnx import AttributeProto, TensorProto, helper, numpy_helper

EXTREME_SIZES = (0, 1, 2, -1, 7, 1 << 16, 1 << 31, 1 << 40, -(1 << 62), (1 << 63) - 1)
NAMES = (
    "", "x", "x" * 20_000, "a\n::error::b", "\x1b[2J\u202e", "../a", "a.b.c", ".", "forward",
    "training", "input_0", "a\0b", "<script>",
)  # fmt: skip
LOCATIONS = (
    "/etc/passwd", "../../../../etc/passwd", "", ".", "..", "/dev/zero", "/proc/self/mem", "none",
    "model.onnx", "a\0b", "/dev/stdin", "x" * 5000,
)  # fmt: skip


def _numbers(*shape: int) -> Any:
    scale = 1.0 / np.sqrt(np.prod(shape[1:]) or 1)
    return np.random.default_rng(sum(shape)).normal(0.0, scale, shape).astype(np.float32)


def _model(
    nodes: Sequence[Any], shape: Sequence[int], constants: dict[str, Any], functions: Any = ()
) -> bytes:
    graph = helper.make_graph(
        list(nodes), "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("scores")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=10, functions=list(functions)
    ).SerializeToString(deterministic=True)
    return made


def classifier() -> bytes:
    """Convolution, pooling, a flattening by computed shapes, and a dense layer."""
    node = helper.make_node
    return _model(
        [
            node("Conv", ["image", "kernel", "bias"], ["a"], "conv1", pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"], "relu"),
            node("MaxPool", ["b"], ["c"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Shape", ["c"], ["d"]),
            node("Gather", ["d", "zero"], ["e"]),
            node("Concat", ["e", "rest"], ["f"], axis=0),
            node("Reshape", ["c", "f"], ["g"]),
            node("Gemm", ["g", "weight", "offset"], ["h"], "head", transB=1),
            node("Softmax", ["h"], ["scores"], axis=-1),
        ],
        (1, 3, 8, 8),
        {
            "kernel": _numbers(6, 3, 3, 3), "bias": _numbers(6), "weight": _numbers(5, 96),
            "offset": _numbers(5), "zero": np.array([0]), "rest": np.array([-1]),
        },
    )  # fmt: skip


def rearranger() -> bytes:
    """Slices, a resize, a branch, a loop and a function of its own."""
    node = helper.make_node
    empty = helper.make_empty_tensor_value_info
    branches = [
        helper.make_graph([node(op, ["small"], ["chosen"])], op, [], [empty("chosen")])
        for op in ("Relu", "Neg")
    ]
    body = helper.make_graph(
        [node("Identity", ["goes_on"], ["still"]), node("Add", ["sum", "step"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [empty("still"), empty("more")],
    )
    function = helper.make_function(
        "own", "Twice", ["v"], ["w"], [node("Add", ["v", "v"], ["w"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    return _model(
        [
            node("Slice", ["image", "start", "stop", "axis"], ["cut"]),
            node("Resize", ["cut", "", "factors"], ["large"], mode="nearest"),
            node("ReduceMean", ["large"], ["small"], axes=[2], keepdims=0),
            node("If", ["yes"], ["c"], then_branch=branches[0], else_branch=branches[1]),
            node("Loop", ["three", "", "c"], ["looped"], body=body),
            node("Twice", ["looped"], ["doubled"], domain="own"),
            node("Transpose", ["doubled"], ["turned"], perm=[0, 2, 1]),
            node("MatMul", ["turned", "weight"], ["scores"], "product"),
        ],
        (1, 4, 4, 4),
        {
            "start": np.array([1]), "stop": np.array([3]), "axis": np.array([3]),
            "factors": np.array([1, 1, 2, 2], np.float32), "yes": np.array(True),
            "three": np.array(3), "step": _numbers(4), "weight": _numbers(4, 6),
        },
        [function],
    )  # fmt: skip


def quantized() -> bytes:
    """A dense layer between quantizations."""
    node = helper.make_node
    scale, zero = np.float32(0.05), np.int8(3)
    return _model(
        [
            node("QuantizeLinear", ["image", "scale", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
            node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], axis=0),
            node("Gemm", ["x", "w", "offset"], ["scores"], "head", transB=1),
        ],
        (1, 16),
        {
            "scale": scale, "zero": zero, "offset": _numbers(4),
            "weight": (np.arange(64).reshape(4, 16) % 51 - 25).astype(np.int8),
            "scales": np.full(4, 0.01, np.float32), "zeros": np.zeros(4, np.int8),
        },
    )  # fmt: skip


@functools.cache
def onnx_bases() -> tuple[Base, ...]:
    """The models that mutants are made from."""
    draw = np.random.default_rng(11)
    shapes = {classifier: (1, 3, 8, 8), rearranger: (1, 4, 4, 4), quantized: (1, 16)}
    return tuple(
        Base(
            f"{make.__name__} onnx", make(),
            tuple((draw.normal(size=shape).astype(np.float32),) for _ in range(SAMPLES)),
        )
        for make, shape in shapes.items()
    )  # fmt: skip


def onnx_mutant(base: int, seed: int) -> tuple[str, bytes]:
    """A damaged copy of a base model: the name of the way, and the bytes."""
    content = onnx_bases()[base].tflite
    for number in range(seed, seed + len(ONNX_WAYS)):
        way = ONNX_WAYS[number % len(ONNX_WAYS)]
        try:
            return way.__name__, way(content, np.random.default_rng([base, seed]))
        except (IndexError, ValueError):  # the file has nothing for this way
            continue
    raise ValueError("no way to damage the file")


def _fields(change: Callable[[Any, Random], None]) -> Callable[[bytes, Random], bytes]:
    @functools.wraps(change)
    def way(data: bytes, random: Random) -> bytes:
        model = onnx.ModelProto.FromString(data)
        change(model, random)
        made: bytes = model.SerializeToString(deterministic=True)
        return made

    return way


def _pick(random: Random, items: Sequence[Any]) -> Any:
    return items[int(random.integers(len(items)))]


def _some_node(model: Any, random: Random) -> Any:
    """A node of the graph, or of a body in it."""
    nodes = list(model.graph.node)
    for node in model.graph.node:
        for attribute in node.attribute:
            nodes += attribute.g.node
    return _pick(random, nodes)


def _some_attribute(model: Any, random: Random) -> Any:
    return _pick(random, [a for node in model.graph.node for a in node.attribute])


def _some_constant(model: Any, random: Random) -> Any:
    return _pick(random, model.graph.initializer)


def _names(model: Any) -> list[str]:
    return [name for node in model.graph.node for name in (*node.input, *node.output)]


@_fields
def change_sizes_of_constant(model: Any, random: Random) -> None:
    tensor = _some_constant(model, random)
    count = int(random.integers(1, 6))
    tensor.dims[:] = [int(random.choice(EXTREME_SIZES)) for _ in range(count)]


@_fields
def change_one_size_of_constant(model: Any, random: Random) -> None:
    tensor = _pick(random, [t for t in model.graph.initializer if t.dims])
    tensor.dims[int(random.integers(len(tensor.dims)))] = int(random.choice(EXTREME_SIZES))


@_fields
def resize_constant(model: Any, random: Random) -> None:
    """A constant that is whole in itself, and of another shape than its node wants."""
    tensor = _some_constant(model, random)
    values = numpy_helper.to_array(tensor)
    shape = [int(random.choice([0, 1, 2, 5])) for _ in range(int(random.integers(0, 5)))]
    tensor.CopyFrom(numpy_helper.from_array(np.resize(values, shape), tensor.name))


@_fields
def change_values_of_constant(model: Any, random: Random) -> None:
    tensor = _some_constant(model, random)
    values = np.array(numpy_helper.to_array(tensor))
    extremes = EXTREME_FLOATS if values.dtype.kind == "f" else EXTREME_SIZES
    with np.errstate(all="ignore"):
        wanted = np.array(_pick(random, extremes)).astype(values.dtype)
    values.reshape(-1)[int(random.integers(values.size))] = wanted
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@_fields
def change_type_of_constant(model: Any, random: Random) -> None:
    _some_constant(model, random).data_type = int(random.integers(-1, 30))


@_fields
def cut_data_of_constant(model: Any, random: Random) -> None:
    tensor = _some_constant(model, random)
    data = tensor.raw_data
    tensor.raw_data = _pick(random, [b"", data[:-1], data * 2, data[:4]])


@_fields
def put_data_elsewhere(model: Any, random: Random) -> None:
    tensor = _some_constant(model, random)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {
        "location": _pick(random, LOCATIONS),
        "offset": str(_pick(random, (0, -1, 1 << 62, "x"))),
        "length": str(_pick(random, (8, 0, -1, 1 << 40, "9" * 5000))),
    }
    for key, value in list(entries.items())[: int(random.integers(1, 4))]:
        tensor.external_data.add(key=key, value=value)


@_fields
def change_opset(model: Any, random: Random) -> None:
    versions = (0, -1, 1, 6, 7, 11, 12, 18, 23, 99, (1 << 63) - 1)
    entry = _pick(random, model.opset_import)
    entry.version = _pick(random, versions)


@_fields
def change_domains(model: Any, random: Random) -> None:
    _pick(random, model.opset_import).domain = _pick(random, ("", "ai.onnx", "no", "own"))
    if random.integers(2):
        _some_node(model, random).domain = _pick(random, ("", "com.microsoft", "own", "no"))


@_fields
def change_integers(model: Any, random: Random) -> None:
    attribute = _pick(random, [a for n in model.graph.node for a in n.attribute if a.ints or a.i])
    value = int(random.choice(EXTREME_SIZES))
    if attribute.ints:
        attribute.ints[int(random.integers(len(attribute.ints)))] = value
    else:
        attribute.i = value


@_fields
def change_number_of_integers(model: Any, random: Random) -> None:
    attribute = _pick(random, [a for n in model.graph.node for a in n.attribute if a.ints])
    attribute.ints[:] = [*attribute.ints, 1] if random.integers(2) else list(attribute.ints)[:-1]


@_fields
def change_type_of_attribute(model: Any, random: Random) -> None:
    attribute = _some_attribute(model, random)
    attribute.type = _pick(random, list(AttributeProto.AttributeType.values()))


@_fields
def change_text(model: Any, random: Random) -> None:
    _some_attribute(model, random).s = _pick(random, (b"", b"no", b"\xff\xfe", b"x" * 9999))


@_fields
def remove_attribute(model: Any, random: Random) -> None:
    node = _pick(random, [n for n in model.graph.node if n.attribute])
    del node.attribute[int(random.integers(len(node.attribute)))]


@_fields
def refer_to_an_attribute(model: Any, random: Random) -> None:
    _some_attribute(model, random).ref_attr_name = _pick(random, ("axis", "no"))


@_fields
def change_input_of_node(model: Any, random: Random) -> None:
    node = _pick(random, [n for n in model.graph.node if n.input])
    wanted = _pick(random, [*_names(model), "", "nothing"])
    node.input[int(random.integers(len(node.input)))] = wanted


@_fields
def change_number_of_inputs(model: Any, random: Random) -> None:
    node = _pick(random, [n for n in model.graph.node if n.input])
    if random.integers(2):
        del node.input[int(random.integers(len(node.input))) :]
    else:
        node.input.extend([_pick(random, _names(model))] * int(random.choice([1, 3, 200])))


@_fields
def change_output_of_node(model: Any, random: Random) -> None:
    node = _some_node(model, random)
    choice = int(random.integers(3))
    if choice == 0:
        node.output[0] = _pick(random, _names(model))
    elif choice == 1:
        del node.output[:]
    else:
        node.output.extend([_pick(random, _names(model)), "extra", ""])


@_fields
def change_op(model: Any, random: Random) -> None:
    every = sorted({s.name for s in onnx.defs.get_all_schemas() if not s.domain})
    _some_node(model, random).op_type = _pick(random, [*every, "", "No"])


@_fields
def swap_nodes(model: Any, random: Random) -> None:
    one, other = (_some_node(model, random) for _ in range(2))
    kept = onnx.NodeProto()
    kept.CopyFrom(one)
    one.CopyFrom(other)
    other.CopyFrom(kept)


@_fields
def remove_node(model: Any, random: Random) -> None:
    del model.graph.node[int(random.integers(len(model.graph.node)))]


@_fields
def close_a_circle(model: Any, random: Random) -> None:
    _pick(random, model.graph.node).input[0] = model.graph.node[-1].output[0]


@_fields
def change_names(model: Any, random: Random) -> None:
    """Of nodes, of values throughout, or of one port alone."""
    name, choice = _pick(random, NAMES), int(random.integers(3))
    if choice == 0:
        for node in model.graph.node:
            node.name = name
    elif choice == 1:
        _pick(random, (model.graph.input, model.graph.output))[0].name = name
    else:
        old = _pick(random, ("image", "scores"))
        for node in model.graph.node:
            node.input[:] = [name if v == old else v for v in node.input]
            node.output[:] = [name if v == old else v for v in node.output]
        for port in (*model.graph.input, *model.graph.output):
            port.name = name if port.name == old else port.name


@_fields
def change_input(model: Any, random: Random) -> None:
    kind = model.graph.input[0].type.tensor_type
    choice = int(random.integers(4))
    if choice == 0:
        kind.elem_type = int(random.integers(-1, 30))
    elif choice == 1:
        _pick(random, kind.shape.dim).dim_value = int(random.choice(EXTREME_SIZES))
    elif choice == 2:
        _pick(random, kind.shape.dim).dim_param = _pick(random, NAMES)
    else:
        model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1


@_fields
def change_ports(model: Any, random: Random) -> None:
    choice = int(random.integers(5))
    if choice == 0:
        del model.graph.input[:]
    elif choice == 1:
        model.graph.output.add(name=_pick(random, _names(model)))
    elif choice == 2:
        model.graph.output.add().CopyFrom(model.graph.output[0])
    elif choice == 3:
        model.graph.input.add().CopyFrom(model.graph.input[0])
    else:
        model.graph.output[0].name = _pick(random, ["image", "weight", "nothing"])


@_fields
def give_constants_one_name(model: Any, random: Random) -> None:
    name = _pick(random, ["image", "weight", "a", "scores"])
    _some_constant(model, random).name = name


@_fields
def make_something_huge(model: Any, random: Random) -> None:
    """A few bytes that stand for more memory than there is."""
    shape = _pick(random, ([1 << 40], [1 << 20, 1 << 20], [1 << 16, 1 << 15], [-1], [1 << 62, 9]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape), "shape"))
    source = model.graph.node[0].output[0]
    node = _pick(random, (
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("Expand", [source, "shape"], ["huge"]),
        helper.make_node("Tile", [source, "shape"], ["huge"]),
    ))  # fmt: skip
    model.graph.node.insert(1, node)
    model.graph.output.add(name="huge")


@_fields
def loop_for_long(model: Any, random: Random) -> None:
    """A loop in a loop in a loop, each of a thousand turns."""
    loops = [node for node in model.graph.node if node.op_type == "Loop"]
    body = _pick(random, loops).attribute[0].g
    depth = int(random.integers(1, 5))
    for number in range(depth):
        inner = onnx.NodeProto()
        inner.CopyFrom(loops[0])
        inner.input[2] = "sum"
        inner.output[0] = f"inner{number}"
        body.node.append(inner)
    for tensor in model.graph.initializer:
        if tensor.name == "three":
            tensor.CopyFrom(
                numpy_helper.from_array(np.array(_pick(random, (1000, 1 << 62))), "three")
            )


@_fields
def call_itself(model: Any, random: Random) -> None:
    """A function that calls itself, or so many others that writing them out never ends."""
    function = _pick(random, model.functions)
    if random.integers(2):
        function.node[0].op_type, function.node[0].domain = "Twice", "own"
        del function.node[0].input[1:]
        return
    function.opset_import.add(domain="own", version=1)
    for number in range(40):
        deeper = model.functions.add()
        deeper.CopyFrom(function)
        deeper.name = f"Twice{number}"
        called = f"Twice{number - 1}" if number else "Twice"
        del deeper.node[:]
        for source, made in (("v", "u"), ("u", "w")):
            deeper.node.append(helper.make_node(called, [source], [made], domain="own"))
    for node in model.graph.node:
        if node.op_type == "Twice":
            node.op_type = "Twice39"


@_fields
def change_version_of_format(model: Any, random: Random) -> None:
    model.ir_version = _pick(random, (0, -1, 3, 99, (1 << 63) - 1))


@_fields
def add_sparse_constant(model: Any, random: Random) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(_some_constant(model, random))
    sparse.dims[:] = [int(random.choice(EXTREME_SIZES))]


ONNX_WAYS: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_bits_anywhere, change_sizes_of_constant, change_one_size_of_constant, resize_constant,
    change_values_of_constant, truncate, change_type_of_constant, cut_data_of_constant,
    put_data_elsewhere, change_opset, change_domains, change_integers, change_number_of_integers,
    change_type_of_attribute, change_text, remove_attribute, refer_to_an_attribute,
    change_input_of_node, change_number_of_inputs, truncate_a_little, change_output_of_node,
    change_op, swap_nodes, remove_node, close_a_circle, change_names, change_input, change_ports,
    give_constants_one_name, make_something_huge, loop_for_long, call_itself,
    change_version_of_format, add_sparse_constant,
)  # fmt: skip
"""Every way to damage an ONNX file."""
