"""Small float models, each holding what one rewrite takes the place of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from file_parts import edited, set_custom
from one_op import (
    INFINITY,
    RELU,
    SAME,
    TANH,
    VALID,
    Array,
    OneOp,
    Step,
    Value,
)

from edgeq.export.importing.layer_calls import of_layer
from edgeq.export.importing.loop_steps import RNN_TANH
from edgeq.export.importing.sequence_loop import SEQUENCE_LOOP, with_sequence_loops

IMAGE = Value((1, 8, 8, 4))
POSITIVE = Value((1, 8, 8, 4), low=0.1, high=4.0)
SPOT = Value((1, 1, 1, 4))
ROWS = Value((2, 16))
CONV = {"padding": VALID, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
TWICE = {"strideW": 2, "strideH": 2}
POOL = {**TWICE, "filterWidth": 2, "filterHeight": 2, "padding": VALID}
POOL3 = {**TWICE, "filterWidth": 3, "filterHeight": 3, "padding": VALID}
BORDER = np.asarray([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)


@dataclass(frozen=True)
class Rewritten:
    """A model and what becomes of it.

    Attributes:
        name: Name of the rewrite in the table.
        model: The model.
        ops: Names of the rewritten model's ops, in order.
        has_int8: Whether the model as it stands can be made int8 at all.
        is_delegated: Whether the delegate takes the whole int8 model afterwards.
        loss_db: SQNR that the int8 model may lose: more ops round more often.
        situation: What is special about the case.
        target: What it is rewritten for.
    """

    name: str
    model: OneOp
    ops: tuple[str, ...]
    has_int8: bool = True
    is_delegated: bool = True
    loss_db: float = 0.2
    situation: str = ""
    target: str = "xnnpack"

    @property
    def label(self) -> str:
        """Name for the test."""
        return f"{self.name}, {self.situation}" if self.situation else self.name


@dataclass(frozen=True)
class _Chain:
    """Ops one behind the other; `"x"` is the input and `"-"` what the op before has made."""

    steps: list[Step] = field(default_factory=list)

    def then(
        self, name: str, operands: tuple[str | Array | None, ...], output: Value, **options: object
    ) -> _Chain:
        last = f"t{len(self.steps) - 1}" if self.steps else "x"
        named = tuple(last if isinstance(o, str) and o == "-" else o for o in operands)
        step = Step(name, named, {f"t{len(self.steps)}": output}, options)
        return _Chain([*self.steps, step])

    def model(self, label: str, **inputs: Value) -> OneOp:
        return OneOp(label, inputs, tuple(self.steps))


SOFTPLUS = ("LEAKY_RELU", "MUL", "EXP", "ADD", "LOG", "MUL", "ADD")


def _softplus() -> OneOp:
    one, x = np.ones((), np.float32), Value((2, 16), low=-12, high=12)
    steps = _Chain().then("EXP", ("x",), ROWS).then("ADD", ("-", one), ROWS)
    return steps.then("LOG", ("-",), ROWS).model("softplus", x=x)


def _long_row(shape: tuple[int, ...], axes: list[int]) -> OneOp:
    """The mean of what is nearly as large as int8 can be."""
    x = Value(shape, low=3.0, high=4.0)
    result = Value(tuple(d for axis, d in enumerate(shape) if axis not in axes))
    return (
        _Chain()
        .then("MEAN", ("x", np.asarray(axes, np.int32)), result, keepDims=False)
        .model("long row", x=x)
    )


def _written_out(axis: int) -> OneOp:
    """Softmax as converters write it, over a maximum that begins with -infinity."""
    x, less = Value((1, 4, 6)), Value((1, 1, 6) if axis == 1 else (1, 4, 1))
    flat, axes = Value((1, 6) if axis == 1 else (1, 4)), np.asarray([axis], np.int32)
    steps = (
        Step("TANH", ("x",), {"a": x}),
        Step("REDUCE_MAX", ("a", axes), {"m": flat}),
        Step("MAXIMUM", ("m", np.asarray(-np.inf, np.float32)), {"high": flat}),
        Step("RESHAPE", ("high", np.asarray(less.shape, np.int32)), {"shift": less}),
        Step("SUB", ("a", "shift"), {"d": x}),
        Step("EXP", ("d",), {"e": x}),
        Step("SUM", ("e", axes), {"total": less}, {"keepDims": True}),
        Step("DIV", ("e", "total"), {"y": x}),
    )
    return OneOp("softmax", {"x": x}, steps)


def _one(
    name: str, operands: tuple[str | Array | None, ...], output: Value, x: Value = IMAGE,
    **options: object,
) -> OneOp:  # fmt: skip
    return _Chain().then(name, operands, output, **options).model(name, x=x)


def _several(name: str, operands: tuple[str | Array, ...], *outputs: Value, x: Value = IMAGE,
             **options: object) -> OneOp:  # fmt: skip
    named: Mapping[str, Value] = {f"y{i}": value for i, value in enumerate(outputs)}
    return OneOp(name, {"x": x}, (Step(name, operands, named, options),))


def _weights(*shape: int) -> Array:
    return np.random.default_rng(shape).normal(0, 0.5, shape).astype(np.float32)


def _floats(*values: float) -> Array:
    return np.asarray(values, np.float32)


def _scalar(value: float) -> Array:
    return np.asarray(value, np.int32 if isinstance(value, int) else np.float32)


BOTH_SIDES, TRUTH = Value((2, 16), low=-6, high=30), Value((2, 16), "bool")


def _chosen(label: str, *steps: tuple[object, ...]) -> OneOp:
    """Ops on the same rows, each `(output, name, operands...)`; numbers are constants."""

    def step(output: str, name: str, *operands: str | float) -> Step:
        named = tuple(o if isinstance(o, str) else _scalar(float(o)) for o in operands)
        is_truth = name.startswith(("GREATER", "LESS", "NOT_EQUAL"))
        return Step(name, named, {output: TRUTH if is_truth else ROWS})

    return OneOp(label, {"x": BOTH_SIDES}, tuple(step(*given) for given in steps))


def _elu(above: float = 1, below: float = 1, rate: float = 1) -> OneOp:
    """As PyTorch has it: all branches of everything."""
    return _chosen(
        "ELU", ("up", "MUL", "x", above), ("in", "MUL", "x", rate), ("e", "EXP", "in"),
        ("less", "SUB", "e", 1), ("down", "MUL", "less", below), ("is", "GREATER_EQUAL", "x", 0),
        ("y", "SELECT", "is", "up", "down"),
    )  # fmt: skip


ELUS = {
    "": (_elu(), ("ELU",)),
    "with a slope below": (_elu(below=0.5), ("ELU", "MUL", "MUL", "ADD")),
    "SELU": (_elu(above=1.05, below=1.76), ("ELU", "MUL", "MUL", "SUB")),
    "CELU": (_elu(below=0.5, rate=2.0), ("MUL", "ELU", "MUL")),
    "of what is chosen before": (
        _chosen("ELU", ("is", "LESS", 0, "x"), ("low", "SELECT_V2", "is", 0, "x"),
                ("e", "EXP", "low"), ("less", "SUB", "e", 1), ("y", "SELECT", "is", "x", "less")),
        ("ELU",),
    ),
    "of a minimum, the other way round": (
        _chosen("ELU", ("is", "LESS_EQUAL", "x", 0), ("low", "MINIMUM", "x", 0),
                ("e", "EXP", "low"), ("less", "SUB", "e", 1), ("y", "SELECT", "is", "less", "x")),
        ("ELU",),
    ),
}  # fmt: skip

CLAMPS = {
    "a RELU": (_chosen("clamp", ("is", "GREATER", "x", 0), ("y", "SELECT_V2", "is", "x", 0)),
               ("MUL",)),
    "of two sides": (
        _chosen("clamp", ("low", "LESS", "x", -1), ("a", "SELECT_V2", "low", -1, "x"),
                ("high", "GREATER", "x", 1), ("y", "SELECT_V2", "high", 1, "a")),
        ("MUL",),
    ),
}  # fmt: skip

LINES = {
    "a leaky RELU": (
        _chosen("leaky", ("is", "GREATER", "x", 0), ("low", "MUL", "x", 0.125),
                ("y", "SELECT", "is", "x", "low")),
        ("LEAKY_RELU",),
    ),
    "soft shrinkage": (
        _chosen("shrink", ("is", "GREATER", "x", 0.5), ("less", "SUB", "x", 0.5),
                ("not", "LESS", "x", -0.5), ("more", "ADD", "x", 0.5),
                ("low", "SELECT_V2", "not", "more", 0), ("y", "SELECT", "is", "less", "low")),
        ("ADD", "MUL", "ADD", "SUB"),
    ),
}  # fmt: skip

SIGNED = _chosen(
    "shrink", ("sign", "SIGN", "x"), ("size", "ABS", "x"), ("less", "SUB", "size", 0.5),
    ("up", "RELU", "less"), ("y", "MUL", "sign", "up"),
)  # fmt: skip

THRESHOLDED = _chosen(
    "softplus", ("in", "MUL", "x", 2), ("e", "EXP", "in"), ("more", "ADD", "e", 1),
    ("log", "LOG", "more"), ("soft", "MUL", "log", 0.5), ("is", "GREATER", "in", 20),
    ("y", "SELECT", "is", "x", "soft"),
)  # fmt: skip

NUMBERS = _chosen(
    "softplus", ("up", "RELU", "x"), ("size", "ABS", "x"), ("low", "NEG", "size"),
    ("e", "EXP", "low"), ("more", "ADD", "e", 1), ("log", "LOG", "more"),
    ("soft", "ADD", "up", "log"), ("no", "NOT_EQUAL", "x", "x"), ("y", "SELECT", "no", "x", "soft"),
)  # fmt: skip


def _ints(*values: object) -> Array:
    return np.asarray(values, np.int32)


def _matrices(one: tuple[int, ...], other: tuple[int, ...], made: tuple[int, ...],
              **options: object) -> OneOp:  # fmt: skip
    operands = {"x": Value(one), "z": Value(other)}
    return OneOp("matrices", operands,
                 (Step("BATCH_MATMUL", ("x", "z"), {"y": Value(made)}, options),))  # fmt: skip


def summed_product(
    one: tuple[int, ...], other: tuple[int, ...], axis: int, keeps: bool = False
) -> OneOp:
    """The sum along an axis of a product that broadcasts."""
    whole = np.broadcast_shapes(one, other)
    made = tuple(1 if i == axis else d for i, d in enumerate(whole) if keeps or i != axis)
    product = Step("MUL", ("x", "z"), {"m": Value(whole)})
    total = Step("SUM", ("m", _ints(axis)), {"y": Value(made)}, {"keepDims": keeps})
    return OneOp("summed product", {"x": Value(one), "z": Value(other)}, (product, total))


COLUMNS = {
    "": (_matrices((3, 5, 16), (3, 16, 1), (3, 5, 1)), ("RESHAPE", "MUL", "SUM")),
    "and one row": (_matrices((3, 1, 16), (3, 1, 16), (3, 1, 1), adjY=True), ("MUL", "SUM")),
    "for all": (_matrices((3, 2, 5, 16), (2, 16, 1), (3, 2, 5, 1)), ("RESHAPE", "MUL", "SUM")),
    "that sums nothing": (_matrices((3, 5, 1), (3, 1, 6), (3, 5, 6)), ("MUL",)),
    "that sums nothing, turned": (
        _matrices((3, 1, 5), (3, 6, 1), (3, 5, 6), adjX=True, adjY=True),
        ("RESHAPE", "RESHAPE", "MUL"),
    ),
}  # fmt: skip

BROADCAST = {
    "": (summed_product((2, 9, 1, 8), (2, 1, 10, 8), 3), ("RESHAPE", "RESHAPE", "BATCH_MATMUL")),
    "over the first": (summed_product((6, 9, 1), (6, 1, 10), 0),
                       ("RESHAPE", "TRANSPOSE", "BATCH_MATMUL", "RESHAPE")),
    "in between": (summed_product((2, 9, 8, 1), (8, 10), 2, keeps=True),
                   ("RESHAPE", "RESHAPE", "BATCH_MATMUL", "RESHAPE")),
    "the other way round": (summed_product((2, 1, 10, 8), (2, 9, 1, 8), 3),
                            ("RESHAPE", "RESHAPE", "BATCH_MATMUL")),
}  # fmt: skip

_PRODUCT = ("RESHAPE", "RESHAPE", "BATCH_MATMUL")

COMPUTED = {
    "": (_matrices((5, 16), (16, 8), (5, 8)), (*_PRODUCT, "RESHAPE")),
    "of many rows": (_matrices((2, 5, 16), (8, 16), (2, 5, 8), adjY=True),
                     (*_PRODUCT, "RESHAPE")),
    "as a layer": (
        OneOp("layer", {"x": Value((5, 16)), "z": Value((8, 16))},
              (Step("FULLY_CONNECTED", ("x", "z", np.linspace(-1, 1, 8, dtype=np.float32)),
                    {"y": Value((5, 8))}, {"fusedActivationFunction": RELU}),)),
        (*_PRODUCT, "ADD", "RESHAPE"),
    ),
}  # fmt: skip


def _conv(chain: _Chain, inputs: int = 4, outputs: int = 6, size: int = 6) -> _Chain:
    operands = ("-", _weights(outputs, 3, 3, inputs), _weights(outputs))
    return chain.then("CONV_2D", operands, Value((1, size, size, outputs)), **CONV)


_AFTER_CONV = Value((1, 6, 6, 6))


def _relu(name: str) -> OneOp:
    return _conv(_Chain()).then(name, ("-",), _AFTER_CONV).model(name, x=IMAGE)


def _two(name: str, one: Value, other: Value, output: Value) -> OneOp:
    return _Chain().then(name, ("x", "z"), output).model(name, x=one, z=other)


def _padded_pool(x: Value, behind_relu: bool, size: int) -> OneOp:
    chain = _Chain()
    channels = x.shape[3]
    if behind_relu:
        chain = chain.then("ADD", ("-", _floats(0.5)), x, fusedActivationFunction=RELU)
    padded = Value((1, size + 2, size + 2, channels))
    out = (size - 1) // 2 + 1
    chain = chain.then("PADV2", ("-", BORDER, _scalar(-INFINITY)), padded)
    return chain.then("MAX_POOL_2D", ("-",), Value((1, out, out, channels)), **POOL3).model(
        "MAX_POOL_2D", x=x
    )


def _batch_norm(chain: _Chain, shape: tuple[int, ...], value: Value) -> _Chain:
    for name, seed in (("SUB", 1), ("MUL", 2), ("MUL", 3)):
        chain = chain.then(name, ("-", _spread(seed, shape)), value)
    return chain.then("ADD", ("-", _spread(4, shape)), value, fusedActivationFunction=RELU)


def _spread(seed: int, shape: tuple[int, ...]) -> Array:
    values = np.random.default_rng(seed).uniform(0.2, 2.0, shape)
    return values.astype(np.float32)


def _shuffled() -> OneOp:
    """The channel shuffle as it arrives from PyTorch."""
    chain = _Chain().then("TRANSPOSE", ("x", _ints(0, 3, 1, 2)), Value((1, 4, 8, 8)))
    chain = chain.then("RESHAPE", ("-", _ints(1, 2, 2, 8, 8)), Value((1, 2, 2, 8, 8)))
    chain = chain.then("TRANSPOSE", ("-", _ints(0, 2, 1, 3, 4)), Value((1, 2, 2, 8, 8)))
    chain = chain.then("RESHAPE", ("-", _ints(1, 4, 8, 8)), Value((1, 4, 8, 8)))
    return chain.then("TRANSPOSE", ("-", _ints(0, 2, 3, 1)), IMAGE).model("shuffle", x=IMAGE)


def _pool(name: str, activation: str = "") -> OneOp:
    """A pool with an activation behind it, or with RELU fused."""
    half = Value((1, 4, 4, 4))
    if not activation:
        return _one(name, ("x",), half, fusedActivationFunction=RELU, **POOL)
    chain = _Chain().then(name, ("x",), half, **POOL)
    return chain.then(activation, ("-",), half).model(name, x=IMAGE)


def _there_and_back() -> OneOp:
    """A scale for each channel in the layout of PyTorch, between one-dimensional convolutions."""
    wave, fused = Value((1, 1, 32, 4)), {**CONV, "fusedActivationFunction": RELU}
    chain = _Chain().then(
        "CONV_2D", ("x", _weights(4, 1, 3, 4), _weights(4)), Value((1, 1, 30, 4)), **fused
    )
    chain = chain.then("TRANSPOSE", ("-", _ints(0, 3, 1, 2)), Value((1, 4, 1, 30)))
    chain = chain.then("RESHAPE", ("-", _ints(1, 4, 30)), Value((1, 4, 30)))
    chain = chain.then("MUL", ("-", _spread(5, (1, 4, 1))), Value((1, 4, 30)))
    chain = chain.then("RELU", ("-",), Value((1, 4, 30)))
    chain = chain.then("RESHAPE", ("-", _ints(1, 4, 1, 30)), Value((1, 4, 1, 30)))
    chain = chain.then("TRANSPOSE", ("-", _ints(0, 2, 3, 1)), Value((1, 1, 30, 4)))
    return chain.then(
        "CONV_2D", ("-", _weights(5, 1, 3, 4), _weights(5)), Value((1, 1, 28, 5)), **CONV
    ).model("there and back", x=wave)


def _causal(ends_flat: bool = False) -> OneOp:
    """A gated block of a network of one-dimensional convolutions, padded in front, whose input is
    added and joined to its result: PyTorch's layout between all of them."""
    wide, narrow = Value((1, 8, 30)), Value((1, 4, 30))
    chain = _Chain().then(
        "CONV_2D", ("x", _weights(4, 1, 3, 4), _weights(4)), Value((1, 1, 30, 4)), **CONV
    )
    chain = _out(chain, 4, 30)
    source = f"t{len(chain.steps) - 1}"
    margins = np.asarray([[0, 0], [0, 0], [2, 0]], np.int32)
    chain = _into(chain.then("PAD", ("-", margins), Value((1, 4, 32))), 4, 32)
    chain = chain.then(
        "CONV_2D", ("-", _weights(8, 1, 3, 4), _weights(8)), Value((1, 1, 30, 8)), **CONV
    )
    chain = _out(chain, 8, 30)
    both = f"t{len(chain.steps) - 1}"
    chain = chain.then("SLICE", (both, _ints(0, 0, 0), _ints(1, 4, 30)), narrow).then(
        "TANH", ("-",), narrow
    )
    one = f"t{len(chain.steps) - 1}"
    chain = chain.then("SLICE", (both, _ints(0, 4, 0), _ints(1, 4, 30)), narrow).then(
        "LOGISTIC", ("-",), narrow
    )
    chain = chain.then("MUL", (one, "-"), narrow).then("ADD", (source, "-"), narrow)
    chain = chain.then("CONCATENATION", ("-", source), wide, axis=1)
    if ends_flat:
        return chain.then("RESHAPE", ("-", _ints(1, 240)), Value((1, 240))).model(
            "flat", x=Value((1, 1, 32, 4))
        )
    chain = _into(chain, 8, 30)
    return chain.then(
        "CONV_2D", ("-", _weights(5, 1, 3, 8), _weights(5)), Value((1, 1, 28, 5)), **CONV
    ).model("causal", x=Value((1, 1, 32, 4)))


def _out(chain: _Chain, channels: int, steps: int) -> _Chain:
    """From the convolution's layout to PyTorch's."""
    chain = chain.then("TRANSPOSE", ("-", _ints(0, 3, 1, 2)), Value((1, channels, 1, steps)))
    return chain.then("RESHAPE", ("-", _ints(1, channels, steps)), Value((1, channels, steps)))


def _into(chain: _Chain, channels: int, steps: int) -> _Chain:
    """From PyTorch's layout to the convolution's."""
    chain = chain.then(
        "RESHAPE", ("-", _ints(1, channels, 1, steps)), Value((1, channels, 1, steps))
    )
    return chain.then("TRANSPOSE", ("-", _ints(0, 2, 3, 1)), Value((1, 1, steps, channels)))


def _residual() -> OneOp:
    """A sum of two tensors that both were transposed."""
    moved = Value((1, 4, 8, 8))
    return OneOp("residual", {"x": IMAGE, "z": IMAGE}, (
        Step("TRANSPOSE", ("x", _ints(0, 3, 1, 2)), {"a": moved}),
        Step("TRANSPOSE", ("z", _ints(0, 3, 1, 2)), {"b": moved}),
        Step("ADD", ("a", "b"), {"c": moved}),
        Step("TRANSPOSE", ("c", _ints(0, 2, 3, 1)), {"y": IMAGE}),
    ))  # fmt: skip


def _spread_and_added() -> OneOp:
    full = Value((2, 8, 8, 4))
    return OneOp("broadcast", {"x": SPOT, "z": full}, (
        Step("BROADCAST_TO", ("x", _ints(2, 8, 8, 4)), {"a": full}),
        Step("ADD", ("a", "z"), {"y": full}),
    ))  # fmt: skip


def _many(name: str, count: int, output: Value, **options: object) -> OneOp:
    inputs = {f"x{i}": ROWS for i in range(count)}
    return OneOp(name, inputs, (Step(name, tuple(inputs), {"y": output}, options),))


_BAND = ("SLICE", "DEPTHWISE_CONV_2D")


def _large(height: int, width: int, **options: object) -> OneOp:
    """A depthwise convolution with a kernel of many taps."""
    weights = np.random.default_rng(0).normal(size=(1, height, width, 8)).astype(np.float32)
    bias = np.linspace(-1, 1, 8, dtype=np.float32)
    chosen = {**CONV, "padding": SAME, "depthMultiplier": 1, **options}
    x = Value((1, 40, 40, 8 // int(str(chosen["depthMultiplier"]))))
    sides = []
    for side, size in (("H", height), ("W", width)):
        extent = (size - 1) * int(str(chosen[f"dilation{side}Factor"])) + 1
        reach = 40 - extent + 1 if chosen["padding"] == VALID else 40
        sides.append(-(-reach // int(str(chosen[f"stride{side}"]))))
    output = Value((1, sides[0], sides[1], 8))
    return _one("DEPTHWISE_CONV_2D", ("x", weights, bias), output, x, **chosen)


def _many_dimensions() -> OneOp:
    weights = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    bias = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)
    return _one("FULLY_CONNECTED", ("x", weights, bias), Value((2, 8)), ROWS)


def _leak(*, turned: bool, slope: float = 0.25) -> OneOp:
    """`relu(x) - relu(-x) * slope`, as PyTorch's PReLU becomes, or `relu(x) - relu(x * -slope)`."""
    steps, options = [Step("RELU", ("x",), {"positive": IMAGE})], {"fusedActivationFunction": RELU}
    if turned:
        steps.append(Step("MUL", ("x", _scalar(-1.0)), {"below": IMAGE}, options))
        steps.append(Step("MUL", ("below", _scalar(slope)), {"negative": IMAGE}))
    else:
        steps.append(Step("MUL", ("x", _scalar(-slope)), {"negative": IMAGE}, options))
    steps.append(Step("SUB", ("positive", "negative"), {"y": IMAGE}))
    return OneOp("SUB/leak", {"x": IMAGE}, tuple(steps))


def _scaled_rows(output: Value, *then: str, rows: int = 1) -> OneOp:
    """A row that is scaled and shifted, and a dense layer of it."""
    row = Value((1, rows, 16))
    chain = _Chain().then("MUL", ("x", np.linspace(0.5, 1.5, 16, dtype="f4")[None, None]), row)
    chain = chain.then("ADD", ("-", np.linspace(-1, 1, 16, dtype="f4")[None, None]), row)
    for name in then:
        chain = chain.then(name, ("-",), row)
    chain = chain.then("FULLY_CONNECTED", ("-", _weights(8, 16), _weights(8)), output,
                       keepNumDims=True)  # fmt: skip
    return chain.model("dense", x=row)


def _product(weights: tuple[int, ...], **options: object) -> OneOp:
    left = Value((2, 16, 5) if "adjX" in options else (2, 5, 16))
    output = Value((*weights[:-3], 2, 5, 8))
    return _one("BATCH_MATMUL", ("x", _weights(*weights)), output, left, **options)


def _product_and_bias() -> OneOp:
    output = Value((2, 5, 8))
    chain = _Chain().then("BATCH_MATMUL", ("x", _weights(16, 8)), output)
    chain = chain.then("ADD", ("-", _weights(8)), output, fusedActivationFunction=RELU)
    return chain.model("dense", x=Value((2, 5, 16)))


def _transposed(
    size: tuple[int, int], kernel: tuple[int, ...], output: tuple[int, int], **options: int
) -> OneOp:
    shape = (1, *output, kernel[0])
    operands = (np.array(shape, np.int32), _weights(*kernel), "x", _weights(kernel[0]))
    return _one("TRANSPOSE_CONV", operands, Value(shape), Value((1, *size, 4)),
                **{"padding": VALID, **TWICE, **options})  # fmt: skip


def _rounded() -> OneOp:
    integers = np.random.default_rng(1).integers(-7, 8, (6, 2, 2, 4))
    integers[:, 0, 0, 0] = 7
    scales = np.linspace(0.01, 0.03, 6).reshape(-1, 1, 1, 1)
    shape = (1, 16, 16, 6)
    operands = (np.array(shape, np.int32), (integers * scales).astype(np.float32), "x")
    return _one("TRANSPOSE_CONV", operands, Value(shape), padding=VALID, **TWICE)


def _patches(channels: int, stride: int) -> OneOp:
    options = {**CONV, "strideW": stride, "strideH": stride, "fusedActivationFunction": RELU}
    side = (16 - 4) // stride + 1
    operands = ("x", _weights(6, 4, 4, channels), _weights(6))
    return _one("CONV_2D", operands, Value((1, side, side, 6)), Value((1, 16, 16, channels)),
                **options)  # fmt: skip


def _wave() -> OneOp:
    return _Chain().then("PAD", ("x", _ints([0, 0], [0, 0], [8, 8], [0, 0])),
                         Value((1, 1, 80, 1))).then(
        "DEPTHWISE_CONV_2D", ("-", _weights(1, 1, 18, 8), _weights(8)), Value((1, 1, 16, 8)),
        **{**CONV, "strideW": 4}, depthMultiplier=8,
    ).model("wave", x=Value((1, 1, 64, 1)))  # fmt: skip


def _gates(first: str, second: str) -> OneOp:
    """The product of two convolutions of one input, in layers of these names."""
    image, same = Value((1, 8, 8, 6)), {**CONV, "padding": SAME}
    steps = [
        Step("CONV_2D", ("x", _spread(seed, (6, 3, 3, 4)), _weights(6)), {name: image}, same)
        for seed, name in enumerate((first, second))
    ]
    return OneOp("CONV_2D", {"x": IMAGE}, (*steps, Step("MUL", (first, second), {"y": image})))


def _hard_sigmoid() -> OneOp:
    chain = (
        _Chain().then("ADD", ("x", _floats(3)), IMAGE).then("MAXIMUM", ("-", _scalar(0.0)), IMAGE)
    )
    chain = chain.then("MINIMUM", ("-", _scalar(6.0)), IMAGE)
    return chain.then("DIV", ("-", _scalar(6.0)), IMAGE).model("hard sigmoid", x=IMAGE)


def _clamp(low: float, high: float) -> OneOp:
    chain = _Chain().then("MINIMUM", ("x", _scalar(high)), IMAGE)
    return chain.then("MAXIMUM", ("-", _scalar(low)), IMAGE).model("clamp", x=IMAGE)


def _normalised() -> OneOp:
    """A layer normalisation as it arrives from PyTorch."""
    each, column = Value((10,)), Value((1, 10, 1))
    x = Value((1, 10, 16), low=1.0, high=5.0)
    return OneOp("normalised", {"x": x}, (
        Step("MEAN", ("x", _ints(0, 2)), {"m": each}),
        Step("RESHAPE", ("m", _ints(1, 10, 1)), {"m1": column}),
        Step("SQUARED_DIFFERENCE", ("x", "m1"), {"d": x}),
        Step("MEAN", ("d", _ints(0, 2)), {"v": each}),
        Step("ADD", ("v", _scalar(0.01)), {"e": each}),
        Step("RSQRT", ("e",), {"r": each}),
        Step("MUL", ("r", "m"), {"p": each}),
        Step("SUB", (_scalar(0.0), "p"), {"n": each}),
        Step("RESHAPE", ("r", _ints(1, 10, 1)), {"r1": column}),
        Step("MUL", ("x", "r1"), {"s": x}),
        Step("RESHAPE", ("n", _ints(1, 10, 1)), {"n1": column}),
        Step("ADD", ("s", "n1"), {"y": x}),
    ))  # fmt: skip


def _pad_conv(size: int, kernel: int, stride: int) -> OneOp:
    x = Value((1, size, size, 4))
    out = (size + 2 - kernel) // stride + 1
    chain = _Chain().then("PAD", ("x", BORDER), Value((1, size + 2, size + 2, 4)))
    return chain.then(
        "CONV_2D", ("-", _weights(6, kernel, kernel, 4), _weights(6)), Value((1, out, out, 6)),
        **{**CONV, "strideW": stride, "strideH": stride},
    ).model("pad", x=x)  # fmt: skip


_TRANSPOSED = Value((1, 4, 8, 8))


def lstm(steps: int = 2, *, time_major: bool = False, spread: float = 0.0) -> OneOp:
    """An LSTM that begins with zeros; a spread makes the rows of a gate's weights differ."""
    state = Value((1, 8), is_state=True)
    shape = (steps, 1) if time_major else (1, steps)
    rows = np.exp(-spread * np.arange(8, dtype="f4"))[:, None]
    weights = [_weights(8, size) * rows for size in (4, 8) for _ in range(4)]
    operands = ("x", *weights, *[None] * 3, *[_weights(8)] * 4, None, None, "h", "c", *[None] * 4)
    return OneOp("UNIDIRECTIONAL_SEQUENCE_LSTM", {"x": Value((*shape, 4))}, (
        Step("FILL", (_ints(1, 8), _scalar(0.0)), {"h": state}),
        Step("FILL", (_ints(1, 8), _scalar(0.0)), {"c": state}),
        Step("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, {"y": Value((*shape, 8))},
             {"fusedActivationFunction": TANH, "timeMajor": time_major}),
    ))  # fmt: skip


class _Looped(OneOp):
    """A call of a recurrent layer, as the loop that is made of it."""

    def build(self) -> bytes:
        name = of_layer(SEQUENCE_LOOP, RNN_TANH, "layer")
        called = edited(super().build(), lambda tree: set_custom(tree, name, b""))
        return bytes(with_sequence_loops(called))


def loop(width: int = 8) -> OneOp:
    """Six steps of a simple layer, two rounds of three."""
    weights = [
        _weights(width, 4), _weights(width, width), _weights(width), _weights(width),
        np.zeros((1, width), "f4"),
    ]  # fmt: skip
    called = Step("ADD_N", ("x", *weights), {"y": Value((1, 6, width))})
    return _Looped("WHILE", {"x": Value((1, 6, 4))}, (called,))


_ROUND = (
    "RESHAPE", *("SLICE", "FULLY_CONNECTED", "ADD", "TANH") * 3, "CONCATENATION", "RESHAPE",
)  # fmt: skip
_FIRST_STEP = (
    "SLICE", "SLICE", "SLICE", "SLICE", "LOGISTIC", "TANH", "LOGISTIC", "MUL", "TANH", "MUL",
)  # fmt: skip
_CONVOLVED = ("RESHAPE", "CONV_2D", "RESHAPE")
_SECOND_STEP = (
    "SLICE", "FULLY_CONNECTED", "ADD", "SLICE", "SLICE", "SLICE", "SLICE", "LOGISTIC", "LOGISTIC",
    "TANH", "LOGISTIC", "MUL", "MUL", "ADD", "TANH", "MUL", "CONCATENATION", "RESHAPE",
)  # fmt: skip


CASES: tuple[Rewritten, ...] = (
    Rewritten("looped LSTM", lstm(10, spread=1.0),
              ("RESHAPE", "FULLY_CONNECTED", "FULLY_CONNECTED", "RESHAPE", "RESHAPE", "WHILE",
               "RESHAPE"), has_int8=False, is_delegated=False),
    Rewritten("looped LSTM", lstm(10), ("FILL", "FILL", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
              has_int8=False, is_delegated=False, situation="a small one of even rows stays"),
    Rewritten("LSTM of few steps", lstm(),
              ("RESHAPE", "FULLY_CONNECTED", *_FIRST_STEP, *_SECOND_STEP), has_int8=False),
    Rewritten("unrolled LSTM", lstm(), (*_CONVOLVED, *_FIRST_STEP, *_SECOND_STEP), has_int8=False,
              target="edgetpu"),
    Rewritten("unrolled LSTM", lstm(time_major=True), (*_CONVOLVED, *_FIRST_STEP, *_SECOND_STEP),
              has_int8=False, situation="time first", target="portable"),
    Rewritten("dense layer on several rows",
              _one("FULLY_CONNECTED", ("x", _weights(5, 16), _weights(5)), Value((2, 5)), ROWS,
                   keepNumDims=True),
              ("RESHAPE", "CONV_2D", "RESHAPE"), target="edgetpu"),
    Rewritten("unrolled loop", loop(),
              ("RESHAPE", "CONV_2D", "RESHAPE", "SLICE", "SLICE", *_ROUND, *_ROUND,
               "CONCATENATION", "RESHAPE"), has_int8=False, target="portable"),
    Rewritten("renamed dimensions",
              _one("SQUEEZE", ("x",), Value((8, 4)), Value((1, 8, 1, 4)), squeezeDims=_ints(0, 2)),
              ("RESHAPE",)),
    Rewritten("renamed dimensions", _one("EXPAND_DIMS", ("x", _scalar(1)), Value((2, 1, 16)), ROWS),
              ("RESHAPE",), situation="one more"),
    Rewritten("chain of RESHAPE and TRANSPOSE", _shuffled(), ("RESHAPE", "TRANSPOSE", "RESHAPE"),
              situation="channel shuffle"),
    Rewritten("chain of RESHAPE and TRANSPOSE",
              _one("TRANSPOSE", ("x", _ints(0, 3, 1, 2)), Value((1, 4, 1, 8)), Value((1, 1, 8, 4))),
              ("TRANSPOSE",), situation="one TRANSPOSE stays"),
    Rewritten("chain of RESHAPE and TRANSPOSE",
              _one("TRANSPOSE", ("x", _ints(0, 3, 1, 2)), Value((1, 4, 1, 1)), SPOT),
              ("RESHAPE",), situation="only dimensions of 1 move"),
    Rewritten("chain of RESHAPE and TRANSPOSE",
              _Chain().then("RESHAPE", ("x", _ints(64, 4)), Value((64, 4)))
              .then("RESHAPE", ("-", _ints(8, 32)), Value((8, 32))).model("twice", x=IMAGE),
              ("RESHAPE",), situation="twice"),
    Rewritten("chain of RESHAPE and TRANSPOSE",
              _Chain().then("TRANSPOSE", ("x", _ints(1, 0)), Value((16, 2)))
              .then("RESHAPE", ("-", _ints(2, 16)), ROWS).model("alike", x=ROWS),
              ("TRANSPOSE", "RESHAPE"), situation="equal shapes alone are not enough"),
    Rewritten("ops between changes of layout", _causal(),
              ("CONV_2D", "PAD", "CONV_2D", "SLICE", "TANH", "SLICE", "LOGISTIC", "MUL", "ADD",
               "CONCATENATION", "CONV_2D")),
    Rewritten("ops between changes of layout", _causal(ends_flat=True),
              ("CONV_2D", "PAD", "CONV_2D", "SLICE", "TANH", "SLICE", "LOGISTIC", "MUL", "ADD",
               "CONCATENATION", "TRANSPOSE", "RESHAPE"), situation="flat in the end"),
    Rewritten("elementwise op behind RESHAPE or TRANSPOSE", _there_and_back(),
              ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"), situation="between convolutions"),
    Rewritten("elementwise op behind RESHAPE or TRANSPOSE", _residual(), ("ADD",),
              situation="two operands"),
    Rewritten("elementwise op behind RESHAPE or TRANSPOSE",
              _Chain().then("RESHAPE", ("x", _ints(2, 16, 1)), Value((2, 16, 1)))
              .then("MUL", ("-", _floats(1, 2, 3, 4)), Value((2, 16, 4))).model("outer", x=ROWS),
              ("RESHAPE", "MUL"), situation="a constant that makes it wider"),
    Rewritten("elementwise op behind RESHAPE or TRANSPOSE",
              _Chain().then("SUM", ("x", _ints(1)), Value((2,)))
              .then("RESHAPE", ("-", _ints(2, 1)), Value((2, 1)))
              .then("MAXIMUM", ("-", np.full((1, 1), 1e-12, np.float32)), Value((2, 1)))
              .model("norm", x=Value((2, 16), low=0.1)),
              ("SUM", "MAXIMUM", "RESHAPE"), is_delegated=False,
              situation="one number of a higher rank"),
    Rewritten("elementwise op behind RESHAPE or TRANSPOSE", OneOp("square", {"x": ROWS}, (
                  Step("TANH", ("x",), {"a": ROWS}),
                  Step("RESHAPE", ("a", _ints(1, 2, 16)), {"r": Value((1, 2, 16))}),
                  Step("MUL", ("r", "r"), {"s": Value((1, 2, 16))}),
                  Step("ADD", ("s", "r"), {"y": Value((1, 2, 16))}),
              )), ("TANH", "MUL", "ADD", "RESHAPE"), situation="a square, and its root besides",
              has_int8=False),
    Rewritten("reduction behind RESHAPE or TRANSPOSE",
              _Chain().then("TRANSPOSE", ("x", _ints(0, 3, 1, 2)), _TRANSPOSED)
              .then("MEAN", ("-", _ints(2, 3)), Value((1, 4))).model("mean", x=IMAGE), ("MEAN",)),
    Rewritten("reduction behind RESHAPE or TRANSPOSE",
              _Chain().then("RESHAPE", ("x", _ints(1, 16, 4)), Value((1, 16, 4)))
              .then("MEAN", ("-", _ints(1)), Value((1, 4))).model("mean", x=Value((1, 16, 1, 4))),
              ("MEAN",), situation="a dimension of 1 less"),
    Rewritten("empty padding",
              _conv(_Chain().then("PAD", ("x", BORDER * 0), IMAGE)).model("pad", x=IMAGE),
              ("CONV_2D",), has_int8=False),
    Rewritten("padding of padding",
              _Chain().then("PAD", ("x", BORDER), Value((1, 10, 10, 4)))
              .then("PAD", ("-", BORDER), Value((1, 12, 12, 4))).model("pad", x=IMAGE), ("PAD",)),
    Rewritten("concatenation of one",
              _conv(_Chain().then("CONCATENATION", ("x",), IMAGE, axis=3)).model("one", x=IMAGE),
              ("CONV_2D",)),
    Rewritten("long concatenation", _many("CONCATENATION", 7, Value((2, 112)), axis=-1),
              ("CONCATENATION",) * 2),
    Rewritten("stack", _many("PACK", 3, Value((2, 3, 16)), axis=1, valuesCount=3),
              ("RESHAPE",) * 3 + ("CONCATENATION",)),
    Rewritten("stack along the first dimension",
              _many("PACK", 3, Value((3, 2, 16)), axis=0, valuesCount=3),
              ("RESHAPE",) * 3 + ("CONCATENATION",), target="edgetpu"),
    Rewritten("split along the first dimension",
              _several("SPLIT", (_scalar(0), "x"), *(Value((1, 16)),) * 2, x=ROWS, numSplits=2),
              ("SLICE",) * 2, target="edgetpu"),
    Rewritten("long split",
              _several("SPLIT", (_scalar(1), "x"), *(Value((2, 2)),) * 8, x=ROWS, numSplits=8),
              ("SLICE",) * 8),
    Rewritten("uneven split",
              _several("SPLIT_V", ("x", _ints(1, 3), _scalar(3)), Value((1, 8, 8, 1)),
                       Value((1, 8, 8, 3)), numSplits=2), ("SLICE",) * 2),
    Rewritten("unstack", _several("UNPACK", ("x",), ROWS, ROWS, x=Value((2, 2, 16)), axis=1, num=2),
              ("SLICE", "SLICE", "RESHAPE", "RESHAPE")),
    Rewritten("strided slice without gaps",
              _one("STRIDED_SLICE",
                   ("x", _ints(0, -1, 0, 0), _ints(1, 0, -1, 4), _ints(1, 1, 1, 1)),
                   Value((1, 7, 4)), shrinkAxisMask=2, beginMask=8), ("SLICE", "RESHAPE")),
    Rewritten("gather of neighbours", _one("GATHER", ("x", _scalar(3)), Value((1, 8, 4)), axis=2),
              ("SLICE", "RESHAPE"), situation="one"),
    Rewritten("gather of neighbours", _one("GATHER", ("x", _ints(1, 2, 3)), Value((1, 8, 8, 3)),
                                           axis=3), ("SLICE",)),
    Rewritten("whole slice",
              _conv(_Chain().then("SLICE", ("x", _ints(0, 0, 0, 0), _ints(1, 8, -1, 4)), IMAGE))
              .model("slice", x=IMAGE), ("CONV_2D",), has_int8=False),
    Rewritten("copies", _one("TILE", ("x", _ints(1, 1, 7, 2)), Value((1, 8, 56, 8))),
              ("CONCATENATION",) * 3),
    Rewritten("copies", _one("BROADCAST_TO", ("x", _ints(3, 4, 2, 16)), Value((3, 4, 2, 16)), ROWS),
              ("RESHAPE", "CONCATENATION", "CONCATENATION"), has_int8=False,
              situation="of more dimensions"),
    Rewritten("copies", _one("BROADCAST_TO", ("x", _ints(1, 2, 1, 3, 1, 2, 2, 16)),
                             Value((1, 2, 1, 3, 1, 2, 2, 16)), ROWS),
              (*("RESHAPE", "CONCATENATION") * 3, "RESHAPE"), has_int8=False,
              is_delegated=False, situation="of more dimensions than the delegate takes"),
    Rewritten("broadcast operand", _spread_and_added(), ("ADD",), has_int8=False),
    Rewritten("division by a constant", _one("DIV", ("x", _floats(7, 0.3, -2, 5)), IMAGE),
              ("DEPTHWISE_CONV_2D",), situation="for each channel"),
    Rewritten("division by a constant", _one("DIV", ("x", _floats(7)), IMAGE), ("MUL",)),
    Rewritten("chain of constants",
              _batch_norm(_Chain(), (), IMAGE).model("batch norm", x=IMAGE), ("MUL", "ADD")),
    Rewritten("scale of channels",
              _batch_norm(_Chain(), (1, 1, 1, 4), IMAGE).model("batch norm", x=IMAGE),
              ("DEPTHWISE_CONV_2D",)),
    Rewritten("scale of channels",
              _batch_norm(_Chain(), (16,), Value((2, 16))).model("batch norm", x=ROWS),
              ("RESHAPE", "DEPTHWISE_CONV_2D", "RESHAPE"), situation="of rows"),
    Rewritten("scale of channels", _one("MUL", ("x", _floats(0.5, 1, -2, 3)), SPOT, SPOT), ("MUL",),
              situation="of one row stays"),
    Rewritten("scale and shift behind a convolution",
              _batch_norm(_conv(_Chain()), (1, 1, 1, 6), _AFTER_CONV).model("batch norm", x=IMAGE),
              ("CONV_2D",)),
    Rewritten("negation", _one("NEG", ("x",), IMAGE), ("MUL",), has_int8=False),
    Rewritten("square", _one("SQUARE", ("x",), IMAGE), ("MUL",), has_int8=False),
    Rewritten("power", _one("POW", ("x", _scalar(2.0)), IMAGE), ("MUL",), has_int8=False,
              situation="2"),
    Rewritten("power", _one("POW", ("x", _scalar(3.0)), IMAGE), ("MUL", "MUL"), has_int8=False,
              situation="3"),
    Rewritten("power", _one("POW", ("x", _scalar(0.5)), POSITIVE, POSITIVE), ("SQRT",),
              has_int8=False, is_delegated=False, situation="a half"),
    Rewritten("power", _one("POW", ("x", _scalar(-0.5)), POSITIVE, POSITIVE), ("RSQRT",),
              has_int8=False, is_delegated=False, situation="minus a half"),
    Rewritten("centred product", _normalised(),
              ("MEAN", "RESHAPE", "SUB", "MUL", "MEAN", "ADD", "RSQRT", "RESHAPE", "MUL"),
              is_delegated=False, situation="of a normalisation"),
    *(Rewritten("ELU written out", model, ops, has_int8=False, situation=situation)
      for situation, (model, ops) in ELUS.items()),
    Rewritten("ELU as a sum",
              _chosen("ELU", ("up", "RELU", "x"), ("low", "MINIMUM", "x", 0), ("e", "EXP", "low"),
                      ("less", "SUB", "e", 1), ("y", "ADD", "up", "less")), ("ELU",),
              has_int8=False),
    *(Rewritten("clamp by SELECT", model, ops, has_int8=False, situation=situation)
      for situation, (model, ops) in CLAMPS.items()),
    *(Rewritten("choice between lines that meet", model, ops, has_int8=False, loss_db=3.0,
                situation=situation)
      for situation, (model, ops) in LINES.items()),
    Rewritten("product with a sign or a comparison", SIGNED, ("ADD", "MUL", "ADD", "SUB"),
              has_int8=False, loss_db=3.0),
    Rewritten("softplus with a threshold", THRESHOLDED, ("MUL", *SOFTPLUS, "MUL"),
              has_int8=False, is_delegated=False),
    Rewritten("choice where there is no number", NUMBERS,
              ("MUL", "LEAKY_RELU", "MUL", "EXP", "ADD", "LOG", "ADD"),
              has_int8=False, is_delegated=False),
    *(Rewritten("product of one column", model, ops, loss_db=3.0, situation=situation)
      for situation, (model, ops) in COLUMNS.items()),
    *(Rewritten("product by broadcasting", model, ops, situation=situation)
      for situation, (model, ops) in BROADCAST.items()),
    *(Rewritten("product of two computed matrices", model, ops, loss_db=5.0, situation=situation)
      for situation, (model, ops) in COMPUTED.items()),
    Rewritten("softplus written out", _softplus(), SOFTPLUS, is_delegated=False),
    Rewritten("softmax written out", _written_out(2), ("TANH", "SOFTMAX"), has_int8=False,
              is_delegated=False,              loss_db=3.0, situation="along the last axis"),
    Rewritten("softmax written out", _written_out(1),
              ("TANH", "TRANSPOSE", "SOFTMAX", "TRANSPOSE"), has_int8=False,
              is_delegated=False, loss_db=3.0,
              situation="along another axis"),
    *(Rewritten("constant first",
                OneOp("swapped", {"x": IMAGE}, (
                    Step("TANH", ("x",), {"a": IMAGE}),
                    Step(name, (_scalar(0.3), "a"), {"y": IMAGE}),
                )), ("TANH", name), has_int8=False, is_delegated=name in ("ADD", "MUL"),
                situation=name)
      for name in ("ADD", "MUL", "MAXIMUM", "MINIMUM")),
    Rewritten("repeated op",
              OneOp("twice", {"x": IMAGE}, (
                  Step("MUL", ("x", _scalar(0.5)), {"a": IMAGE}),
                  Step("MUL", ("x", _scalar(0.5)), {"b": IMAGE}),
                  Step("LOGISTIC", ("a",), {"c": IMAGE}),
                  Step("MUL", ("b", "c"), {"y": IMAGE}),
              )), ("MUL", "LOGISTIC", "MUL")),
    Rewritten("sum of many", _many("ADD_N", 3, ROWS), ("ADD", "ADD"), has_int8=False),
    Rewritten("squared difference", _two("SQUARED_DIFFERENCE", IMAGE, Value((1, 8, 8, 1)), IMAGE),
              ("SUB", "MUL"), loss_db=3.5),
    Rewritten("average over the whole map",
              _one("AVERAGE_POOL_2D", ("x",), SPOT, filterWidth=8, filterHeight=8, strideW=8,
                   strideH=8, padding=VALID), ("MEAN",)),
    Rewritten("reduction of a long row", _long_row((1, 2, 12, 1024), [2, 3]), ("MEAN", "MEAN"),
              loss_db=6, situation="by its axes"),
    Rewritten("reduction of a long row", _long_row((1, 2, 12000), [2]),
              ("RESHAPE", "MEAN", "MEAN"), loss_db=6, situation="of one axis"),
    Rewritten("reduction of a long row", _long_row((1, 12000, 2), [1]), ("MEAN",),
              situation="channels lie behind it"),
    Rewritten("average without padding",
              _one("AVERAGE_POOL_2D", ("x",), Value((1, 4, 4, 4)), **POOL), ("DEPTHWISE_CONV_2D",),
              loss_db=2),
    Rewritten("average without padding",
              _one("AVERAGE_POOL_2D", ("x",), Value((1, 4, 4, 4)), **{**POOL3, "padding": SAME}),
              ("AVERAGE_POOL_2D",), is_delegated=False, situation="with padding it stays"),
    Rewritten("max pool padded with minus infinity", _padded_pool(IMAGE, False, 8),
              ("SLICE", "CONCATENATION", "SLICE", "CONCATENATION", "MAX_POOL_2D"),
              situation="any numbers"),
    Rewritten("max pool padded with minus infinity", _padded_pool(IMAGE, True, 8),
              ("ADD", "PAD", "MAX_POOL_2D"), situation="nothing negative"),
    Rewritten("max pool padded with minus infinity",
              _padded_pool(Value((1, 7, 7, 4)), False, 7), ("MAX_POOL_2D",), situation="as SAME"),
    Rewritten("nearest neighbour, whole factors",
              _one("RESIZE_NEAREST_NEIGHBOR", ("x", _ints(16, 16)), Value((1, 16, 16, 4)),
                   halfPixelCenters=True), ("CONCATENATION", "DEPTH_TO_SPACE")),
    Rewritten("nearest neighbour, whole factors",
              _one("RESIZE_NEAREST_NEIGHBOR", ("x", _ints(24, 24)), Value((1, 24, 24, 4))),
              ("CONCATENATION", "CONCATENATION", "DEPTH_TO_SPACE"), situation="of three"),
    Rewritten("nearest neighbour, whole factors",
              _one("RESIZE_NEAREST_NEIGHBOR", ("x", _ints(8, 16)), Value((1, 8, 16, 4))),
              ("CONCATENATION", "RESHAPE"), situation="rows alone"),
    Rewritten("padding of a convolution", _pad_conv(7, 3, 2), ("CONV_2D",)),
    Rewritten("padding of a convolution", _pad_conv(8, 3, 2), ("PAD", "CONV_2D"),
              situation="other than SAME it stays"),
    Rewritten("strided convolution of a wave", _wave(), ("PAD", "RESHAPE", "CONV_2D")),
    Rewritten("strided transposed convolution",
              _transposed((8, 8), (6, 2, 2, 4), (16, 16), fusedActivationFunction=RELU),
              ("CONV_2D", "DEPTH_TO_SPACE")),
    Rewritten("strided transposed convolution",
              _transposed((5, 7), (6, 4, 4, 4), (10, 14), padding=SAME),
              ("CONV_2D", "DEPTH_TO_SPACE"), situation="of windows that overlap"),
    Rewritten("strided transposed convolution",
              _transposed((8, 8), (6, 3, 3, 4), (16, 16), padding=SAME),
              ("PAD", "CONV_2D", "DEPTH_TO_SPACE"), situation="SAME, odd"),
    Rewritten("strided transposed convolution", _transposed((8, 8), (6, 3, 3, 4), (17, 17)),
              ("PAD", "CONV_2D", "DEPTH_TO_SPACE", "SLICE"), situation="with an edge"),
    Rewritten("strided transposed convolution",
              _transposed((8, 8), (6, 2, 2, 4), (24, 24), strideW=3, strideH=3),
              ("CONV_2D", "DEPTH_TO_SPACE"), situation="with gaps"),
    Rewritten("strided transposed convolution",
              _transposed((1, 20), (6, 1, 16, 4), (1, 160), strideW=8, strideH=1, padding=SAME),
              ("CONV_2D", "RESHAPE"), situation="of a wave"),
    Rewritten("strided transposed convolution",
              _transposed((8, 8), (6, 7, 7, 4), (8, 8), strideW=1, strideH=1, padding=SAME),
              ("TRANSPOSE_CONV",), situation="without a stride it stays"),
    Rewritten("strided transposed convolution", _rounded(), ("TRANSPOSE_CONV",),
              situation="of weights that are rounded already it stays"),
    Rewritten("narrow convolutions side by side", _gates("gate", "gate#1"),
              ("CONV_2D", "SLICE", "SLICE", "MUL"), loss_db=2),
    Rewritten("narrow convolutions side by side", _gates("one", "other"),
              ("CONV_2D", "CONV_2D", "MUL"), situation="in layers of their own they stay"),
    Rewritten("convolution of patches apart", _patches(3, 4),
              ("SPACE_TO_DEPTH", "CONV_2D")),
    Rewritten("convolution of patches apart", _patches(3, 3), ("CONV_2D",),
              situation="that overlap stay"),
    Rewritten("convolution of patches apart", _patches(8, 4), ("CONV_2D",),
              situation="of many channels stay"),
    Rewritten("large depthwise kernel", _large(7, 7), ("PAD", *_BAND * 3, "ADD", "ADD"),
              loss_db=4),
    Rewritten("large depthwise kernel", _large(1, 31, padding=VALID, fusedActivationFunction=RELU),
              (*_BAND * 2, "ADD"), loss_db=4, situation="of a wave"),
    Rewritten("large depthwise kernel", _large(9, 5, dilationHFactor=2),
              ("PAD", *_BAND * 2, "ADD"), loss_db=4, situation="with gaps"),
    Rewritten("large depthwise kernel", _large(6, 6, **TWICE), ("PAD", *_BAND * 2, "ADD"),
              loss_db=4, situation="with strides"),
    Rewritten("large depthwise kernel", _large(7, 7, depthMultiplier=8), ("DEPTHWISE_CONV_2D",),
              situation="several results of a channel stay"),
    Rewritten("product with a constant matrix", _product((16, 8)), ("FULLY_CONNECTED",)),
    Rewritten("product with a constant matrix", _product((1, 1, 8, 16), adjY=True),
              ("FULLY_CONNECTED", "RESHAPE"), situation="of more dimensions, transposed"),
    Rewritten("product with a constant matrix", _product((16, 8), adjX=True),
              ("TRANSPOSE", "FULLY_CONNECTED"), situation="with the left one"),
    Rewritten("scale and shift behind a convolution", _product_and_bias(), ("FULLY_CONNECTED",),
              situation="a product with a constant matrix"),
    Rewritten("product with a constant matrix", _product((2, 16, 8)), ("BATCH_MATMUL",),
              situation="several matrices stay"),
    Rewritten("scale and shift in front of a dense layer", _scaled_rows(Value((1, 1, 8))),
              ("FULLY_CONNECTED",)),
    Rewritten("scale and shift in front of a dense layer",
              _scaled_rows(Value((1, 1, 8)), "RELU"), ("RESHAPE", "DEPTHWISE_CONV_2D", "RESHAPE",
              "FULLY_CONNECTED"), situation="with an activation behind it they stay"),
    Rewritten("bias of many dimensions", _many_dimensions(), ("FULLY_CONNECTED",)),
    Rewritten("bias of many dimensions", _one(
        "CONV_2D", ("x", _weights(4, 3, 3, 4), _weights(1, 1, 1, 4)), IMAGE,
        **{**CONV, "padding": SAME}), ("CONV_2D",), has_int8=False, situation="convolution"),
    Rewritten("bias of many dimensions", _one(
        "TRANSPOSE_CONV", (np.asarray([1, 10, 10, 4], np.int32), _weights(4, 3, 3, 4), "x",
        _weights(1, 1, 1, 4)), Value((1, 10, 10, 4)), padding=VALID, strideW=1, strideH=1),
        ("TRANSPOSE_CONV",), situation="transposed"),
    Rewritten("fused activation", _relu("RELU"), ("CONV_2D",), situation="RELU"),
    Rewritten("fused activation", _relu("RELU6"), ("CONV_2D",), situation="RELU6"),
    Rewritten("fused activation", _relu("RELU_N1_TO_1"), ("CONV_2D",), situation="RELU_N1_TO_1"),
    Rewritten("fused activation of a pool", _pool("MAX_POOL_2D", "RELU"), ("MAX_POOL_2D",),
              has_int8=False),
    Rewritten("activation of a max pool", _pool("MAX_POOL_2D", "RELU6"), ("RELU6", "MAX_POOL_2D"),
              has_int8=False, is_delegated=False, target="edgetpu"),
    Rewritten("activation of a max pool", _pool("MAX_POOL_2D"), ("MUL", "MAX_POOL_2D"),
              situation="fused", target="portable"),
    Rewritten("activation of an average pool", _pool("AVERAGE_POOL_2D", "RELU_N1_TO_1"),
              ("AVERAGE_POOL_2D", "MUL"), has_int8=False, is_delegated=False, target="edgetpu"),
    Rewritten("activation of an average pool", _pool("AVERAGE_POOL_2D"), ("AVERAGE_POOL_2D", "MUL"),
              is_delegated=False, loss_db=1, situation="fused", target="edgetpu"),
    Rewritten("carried activation", _one("RELU", ("x",), IMAGE), ("MUL",), situation="RELU"),
    Rewritten("carried activation", _one("RELU6", ("x",), IMAGE), ("MUL",), situation="RELU6"),
    Rewritten("carried activation", _one("RELU_N1_TO_1", ("x",), IMAGE), ("MUL",),
              situation="RELU_N1_TO_1"),
    Rewritten("RELU_0_TO_1", _one("RELU_0_TO_1", ("x",), IMAGE), ("MUL", "MUL")),
    Rewritten("clamp", _one("MAXIMUM", ("x", _scalar(0.0)), IMAGE), ("MUL",), situation="below 0"),
    # As it stands, its operand's range ends where MINIMUM does; a fused activation has no such end.
    Rewritten("clamp", _clamp(0.0, 6.0), ("MUL",), loss_db=6.5, situation="0 to 6"),
    Rewritten("clamp", _clamp(-1.0, 1.0), ("MUL",), situation="-1 to 1"),
    Rewritten("clamp between other bounds", _clamp(0.0, 2.5), ("MUL", "MUL"), loss_db=6.5,
              situation="0 to 2.5"),
    Rewritten("clamp between other bounds", _clamp(-1.5, 2.0), ("MUL", "ADD", "MUL", "ADD"),
              loss_db=2, situation="-1.5 to 2"),
    Rewritten("division by a constant", _hard_sigmoid(), ("ADD", "MUL"), situation="hard sigmoid"),
    Rewritten("hard swish", _one("HARD_SWISH", ("x",), IMAGE), ("ADD", "MUL", "MUL"), loss_db=1),
    Rewritten("PRELU with equal slopes",
              _one("PRELU", ("x", np.full((1, 1, 4), 0.25, np.float32)), IMAGE),
              ("LEAKY_RELU",), loss_db=1),
    Rewritten("PRELU with equal slopes, written out", _leak(turned=True), ("LEAKY_RELU",),
              loss_db=1, situation="turned"),
    Rewritten("PRELU with equal slopes, written out", _leak(turned=False), ("LEAKY_RELU",),
              loss_db=1, situation="falling"),
    Rewritten("PRELU with a slope for each place",
              _one("PRELU", ("x", _spread(7, (8, 8, 4)) / 4), IMAGE), ("RELU", "MUL", "SUB"),
              is_delegated=False, loss_db=1, target="edgetpu"),
    Rewritten("LEAKY_RELU", _one("LEAKY_RELU", ("x",), IMAGE, alpha=0.2), ("PRELU",),
              is_delegated=False, target="edgetpu"),
    Rewritten("LEAKY_RELU for both", _one("LEAKY_RELU", ("x",), IMAGE, alpha=0.2),
              ("MUL", "MUL", "SUB"), loss_db=1, target="portable"),
    Rewritten("PRELU", _one("PRELU", ("x", _spread(7, (1, 1, 4)) / 4), IMAGE),
              ("MUL", "DEPTHWISE_CONV_2D", "SUB")),
    Rewritten("PRELU", _one("PRELU", ("x", _weights(1, 1, 4)), IMAGE),
              ("MUL", "MUL", "DEPTHWISE_CONV_2D", "SUB"), loss_db=1, situation="negative slopes"),
    Rewritten("absolute value", _one("ABS", ("x",), IMAGE), ("LEAKY_RELU",)),
    Rewritten("absolute value of two sides", _one("ABS", ("x",), IMAGE), ("RELU", "MUL", "ADD"),
              is_delegated=False, loss_db=1, target="edgetpu"),
)  # fmt: skip
"""At least one case for each rewrite."""
