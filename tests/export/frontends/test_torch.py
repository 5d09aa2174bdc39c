"""PyTorch modules and programs of every supported kind, traced and exported for real."""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DataError, ModelError, UnsupportedOpError
from edgeq.export import frontends
from edgeq.export.edge_model import EdgeModel
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import parse
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.recipe import Mode, Recipe, Rule
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
pytest.importorskip("litert_torch")

nn = torch.nn
Array = npt.NDArray[Any]

SQNR_FLOOR_DB = 20.0
FLOAT_TOLERANCE = 1e-4


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def converter() -> Iterator[Worker]:
    """One child for the tests that only trace."""
    with start_converter() as worker:
        yield worker


@pytest.fixture
def trace(converter: Worker) -> Callable[..., LiteModel]:
    """Traces a model with `sample`, or with the first of `data`."""

    def run(model: object, sample: object = None, data: object = None) -> LiteModel:
        rows = RepDataset([sample] if data is None else data)
        return frontends.trace(model, sample, rows, converter)

    return run


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


IMAGES = normal(20, 3, 8, 8)
IMAGE = IMAGES[:1]


class Stem(nn.Module):
    """A convolution and a head, for subclasses that put them together."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            collections.OrderedDict(conv=nn.Conv2d(3, 4, 3), act=nn.ReLU())
        )
        self.head = nn.Linear(4, 5)

    def both(self, image: Any) -> tuple[Any, Any]:
        features = self.features(image)
        return features, self.head(features.mean((2, 3)))


class Classifier(Stem):
    def forward(self, image: Any) -> Any:
        return self.both(image)[1]


class TupleOutput(Stem):
    def forward(self, image: Any) -> Any:
        return self.both(image)


class DictOutput(Stem):
    def forward(self, image: Any) -> Any:
        features, logits = self.both(image)
        return {"logits": logits, "features": features}


class Pair(NamedTuple):
    logits: Any
    nested: tuple[Any]


class NamedOutput(Stem):
    def forward(self, image: Any) -> Any:
        features, logits = self.both(image)
        return Pair(logits, (features,))


@dataclasses.dataclass
class Result:
    logits: Any
    features: Any


torch.export.register_dataclass(Result)


class DataclassOutput(Stem):
    def forward(self, image: Any) -> Any:
        features, logits = self.both(image)
        return Result(logits=logits, features=features)


class Lookup(nn.Module):
    """Token ids and a float vector; the second is taken by keyword only."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: Any, *, context: Any) -> Any:
        return self.head(self.table(tokens).mean(1) + context)


class Waveform(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, wave: Any) -> Any:
        return self.head(torch.relu(self.norm(self.conv(wave))).mean(-1))


class Shared(nn.Module):
    """One layer called twice, with functional ops between."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        once = torch.nn.functional.relu(self.block(x))
        return torch.softmax(self.head(self.block(once) + x), -1)


class Inner(nn.Module):
    """One function between two layers, deep enough that its path is not its name."""

    def __init__(self, function: Callable[[Any], Any], last: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.body = nn.ModuleDict({"odd": Function(function)})
        self.head = nn.Identity() if last else nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.body["odd"](self.stem(x)))


class Function(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


VECTORS = normal(20, 8)


def named_outputs(model: Any, sample: Any) -> list[Array]:
    """The module's own outputs, flat and in order."""
    import torch.utils._pytree as pytree

    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in _values(sample)]
    with torch.no_grad():
        if isinstance(sample, Mapping):
            made = model(**dict(zip(sample, tensors, strict=True)))
        else:
            made = model(*tensors)
    return [leaf.float().numpy() for leaf in pytree.tree_leaves(made)]


def _values(sample: Any) -> list[Array]:
    if isinstance(sample, Mapping):
        return list(sample.values())
    return list(sample) if isinstance(sample, tuple) else [sample]


def by_name(sample: Any, names: list[str]) -> dict[str, Array]:
    """A sample as the session takes it."""
    named = (
        sample if isinstance(sample, Mapping) else dict(zip(names, _values(sample), strict=True))
    )
    return {
        name: value.astype(np.int32) if value.dtype == np.int64 else value
        for name, value in named.items()
    }


def check_float(
    model: Any, found: LiteModel, sample: Any, inputs: list[str], outputs: list[str]
) -> None:
    """The float file has these names and computes what the module does."""
    with Session(found.tflite, threads=1) as session:
        assert sorted(session.input_names) == sorted(inputs)
        assert sorted(session.output_names) == sorted(outputs)
        actual = session.run(by_name(sample, inputs))
    for name, expected in zip(outputs, named_outputs(model, sample), strict=True):
        np.testing.assert_allclose(actual[name], expected, atol=FLOAT_TOLERANCE, rtol=1e-3)


def check_export(
    model: Any, edge: EdgeModel, samples: list[Any], inputs: list[str], outputs: list[str]
) -> None:
    """Both files follow the module itself, and names are the same wherever they are told."""
    check_float(model, edge.float_model, samples[0], inputs, outputs)
    assert sorted(port.name for port in edge.io.inputs) == sorted(inputs)
    assert sorted(port.name for port in edge.io.outputs) == sorted(outputs)
    assert sorted(output.name for output in edge.report.outputs) == sorted(outputs)
    totals = {name: Fidelity() for name in outputs}
    with Session(edge.tflite, threads=1) as session:
        for sample in samples:
            actual = session.run(by_name(sample, inputs))
            for name, expected in zip(outputs, named_outputs(model, sample), strict=True):
                totals[name] = totals[name].observe(expected, actual[name])
    for name, total in totals.items():
        assert total.sqnr_db >= SQNR_FLOOR_DB, f"{name}: {total.sqnr_db:.1f} dB"
    assert "float32" not in edge.report.op_counts


def export(model: Any, data: Any, **options: Any) -> EdgeModel:
    recipe = options.pop("recipe", "int8")
    return edgeq.export(model, data, recipe=recipe, threads=1, progress=False, **options)


def layers(model: LiteModel) -> list[str]:
    return [model.layer(op) for op in model.graph.operators]


# Whole exports.


def test_module_is_exported_and_follows_the_module() -> None:
    model = Classifier().eval()
    edge = export(model, IMAGES)
    check_export(model, edge, list(IMAGES[:, None]), ["image"], ["output_0"])


def test_dict_output_gives_the_outputs_their_names() -> None:
    model = DictOutput().eval()
    edge = export(model, IMAGES)
    check_export(model, edge, list(IMAGES[:, None]), ["image"], ["logits", "features"])


class Mixed(torch.nn.Module):
    """A step of a state whose parameters are not spelled in lower case."""

    def forward(self, inputX: torch.Tensor, S: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: N803
        state = 0.9 * S + inputX
        return {"y": torch.tanh(state), "newS": state}


def test_inputs_are_spelled_as_the_parameters() -> None:
    start = {"S": np.zeros((1, 8), np.float32)}
    steps = np.random.default_rng(0).normal(size=(10, 6, 8)).astype(np.float32)
    edge = edgeq.export(
        Mixed(), edgeq.Sequences(list(steps), {"S": "newS"}, start), recipe="int8", progress=False
    )
    assert edge.io.states == (("S", "newS"),)
    assert [port.name for port in edge.io.inputs] == ["inputX", "S"]
    by_name = [{"S": start["S"], "inputX": x[None]} for x in steps[0]]
    named = export(Mixed(), by_name, recipe="weight_int8")
    assert sorted(port.name for port in named.io.inputs) == ["S", "inputX"]


def test_token_and_keyword_only_inputs() -> None:
    model = Lookup().eval()
    tokens = np.random.default_rng(1).integers(0, 10, (20, 6))
    samples = [
        {"context": vector[None], "tokens": row[None]}
        for row, vector in zip(tokens, VECTORS, strict=True)
    ]
    edge = export(model, samples, recipe="int8")
    assert "EMBEDDING_LOOKUP" in {op.name for op in parse(edge.tflite).graphs[0].operators}
    check_float(model, edge.float_model, samples[0], ["tokens", "context"], ["output_0"])
    assert {port.name: port.dtype for port in edge.io.inputs} == {
        "context": "float32",
        "tokens": "int32",
    }


def test_waveform_with_normalization_from_a_labelled_loader() -> None:
    model = Waveform().eval()
    waves = normal(20, 2, 16)
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(waves), torch.arange(20))
    edge = export(model, torch.utils.data.DataLoader(pairs, batch_size=4))
    check_export(model, edge, list(waves[:, None]), ["wave"], ["output_0"])
    assert edge.io.inputs[0].shape == (1, 2, 16)


class Recurrent(nn.Module):  # type: ignore[misc]
    """A recurrent layer over a few steps, and a classifier of the last one."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.cells, self.head = kind(6, 8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, steps: Any) -> Any:
        states, _ = self.cells(steps)
        return self.head(states[:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_stay_accurate(kind: type) -> None:
    model, steps = Recurrent(kind).eval(), normal(12, 3, 6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*were assigned during export")
        edge = export(model, steps, recipe="auto")
    check_float(model, edge.float_model, steps[:1], ["steps"], ["output_0"])
    assert edge.report.sqnr_db >= SQNR_FLOOR_DB
    assert {"cells", "head"} <= set(layers(edge.float_model))


def test_shared_module_and_functional_ops() -> None:
    model = Shared().eval()
    edge = export(model, VECTORS)
    check_export(model, edge, list(VECTORS[:, None]), ["x"], ["output_0"])
    assert set(layers(edge.float_model)) == {"block.0", "add", "head", "softmax"}


def test_op_without_int8_form_names_its_layer_and_a_rule_exports_it() -> None:
    model = Inner(torch.floor).eval()
    with pytest.raises(UnsupportedOpError, match=r"FLOOR at body\.odd .*Rule\(op='FLOOR'"):
        export(model, VECTORS, strict=True)
    rule = Rule(layer=r"body\.odd", mode=Mode.FLOAT, reason="rounds")
    edge = export(model, VECTORS, recipe=Recipe("mixed", (rule,)))
    check_float(model, edge.float_model, VECTORS[:1], ["x"], ["output_0"])
    [(place, reason)] = edge.report.float_ops.items()
    assert place.startswith("FLOOR at body.odd")
    assert reason == "rounds"


# Kinds of models.


def test_exported_program_is_traced_and_not_changed(trace: Callable[..., LiteModel]) -> None:
    class Viewing(nn.Module):
        """A view, which litert-torch rewrites in place, and a builtin's name."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 5)

        def forward(self, input: Any) -> Any:
            return {"logits": self.head(input.view(1, -1))}

    model = Viewing().eval()
    program = torch.export.export(model, (torch.from_numpy(IMAGE),))
    before = _program_state(program)
    found = trace(program, data=IMAGES)
    check_float(model, found, IMAGE, ["input"], ["logits"])
    assert _program_state(program) == before
    check_float(program.module(), found, IMAGE, ["input"], ["logits"])


def _program_state(program: Any) -> tuple[Any, ...]:
    nodes = [(node.name, node.target, sorted(node.meta)) for node in program.graph.nodes]
    return (
        program.graph_module.code,
        nodes,
        str(program.graph_signature),
        {name: id(value) for name, value in program.state_dict.items()},
    )


def _compiled_inside(model: Any) -> Any:
    model.features = torch.compile(model.features, backend="eager")  # the module itself is run
    return model


def _compiled_in_place(model: Any) -> Any:
    model.compile()
    return model


@pytest.mark.parametrize(
    "wrap", [torch.compile, _compiled_inside, _compiled_in_place], ids=["whole", "part", "place"]
)
def test_compiled_module_keeps_its_own_names(
    trace: Callable[..., LiteModel], wrap: Callable[[Any], Any]
) -> None:
    model = Classifier().eval()
    plain = Classifier().eval()
    plain.load_state_dict(model.state_dict())
    found = trace(wrap(model), IMAGE)
    check_float(plain, found, IMAGE, ["image"], ["output_0"])
    assert not [layer for layer in layers(found) if "_orig_mod" in layer]
    assert "features.conv" in layers(found)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 1e-4), ("float16", 1e-4), ("float64", 1e-4)]
)
def test_parameters_of_other_precision_are_exported_from_a_float32_copy(
    trace: Callable[..., LiteModel], dtype: str, tolerance: float
) -> None:
    model = Classifier().eval().to(getattr(torch, dtype))
    before = _module_state(model)
    found = trace(model, IMAGE)
    assert _module_state(model) == before
    assert any(dtype in note for note in found.notes)
    wide = Classifier().eval()
    wide.load_state_dict(model.state_dict())
    check_float(wide, found, IMAGE, ["image"], ["output_0"])


def test_training_mode_is_exported_in_evaluation_mode(trace: Callable[..., LiteModel]) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Dropout(0.9)
    )
    model[1].running_mean += 0.5
    model.train()
    model[2].eval()
    before = _module_state(model)
    found = trace(model, IMAGE)
    assert _module_state(model) == before
    assert any("training mode" in note for note in found.notes)
    check_float(model.eval(), found, IMAGE, ["input"], ["output_0"])


def test_parameters_that_are_not_contiguous_are_told_apart(
    trace: Callable[..., LiteModel],
) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.all = nn.ParameterList(nn.Parameter(torch.randn(8, 8).t()) for _ in range(6))

        def forward(self, x: Any) -> Any:
            for weight in self.all:
                x = torch.tanh(x @ weight)
            return x

    torch.manual_seed(0)
    model = Turned().eval()
    found = trace(model, VECTORS[:1])
    assert not found.notes
    check_float(model, found, VECTORS[:1], ["x"], ["output_0"])


def test_infinite_buffers_of_the_caller_stay_infinite(trace: Callable[..., LiteModel]) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)
            self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0]))
            self.limit = torch.tensor([float("inf"), 0.3, 0.3])

        def forward(self, x: Any) -> Any:
            return torch.minimum(torch.softmax(self.head(x) + self.mask, -1), self.limit)

    model = Masked().eval()
    before = _module_state(model)
    found = trace(model, VECTORS[:1])
    assert _module_state(model) == before
    assert model.limit.isinf().any()
    check_float(model, found, VECTORS[:1], ["x"], ["output_0"])
    program = torch.export.export(model, (torch.from_numpy(VECTORS[:1]),))
    trace(program, data=VECTORS)
    assert model.mask.isinf().any()
    assert model.limit.isinf().any()


def _module_state(model: Any) -> tuple[Any, ...]:
    """Everything of a module that an export could disturb."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        [(name, part.training, sorted(vars(part))) for name, part in model.named_modules()],
        {
            name: (id(t), t.dtype, t.requires_grad, t.grad, t.detach().double().numpy().tobytes())
            for name, t in tensors.items()
        },
    )


# Inputs.


def test_several_inputs_and_tuple_output(trace: Callable[..., LiteModel]) -> None:
    class Mixed(Stem):
        def forward(self, image: Any, scale: Any, offset: Any) -> Any:
            features, logits = self.both(image * scale)
            return logits - offset, features

    model, sample = Mixed().eval(), (IMAGE, normal(1, 1, 1, 1), normal(1, 5))
    found = trace(model, data=[sample] * 3)
    check_float(model, found, sample, ["image", "scale", "offset"], ["output_0", "output_1"])


def test_sample_by_keyword_may_come_in_any_order(trace: Callable[..., LiteModel]) -> None:
    model = Lookup().eval()
    sample = collections.UserDict(context=VECTORS[:1], tokens=np.array([[1, 2, 3]]))
    found = trace(model, sample)
    check_float(model, found, sample.data, ["tokens", "context"], ["output_0"])


DEFAULT_SAMPLES = {
    "array": lambda: IMAGES,
    "float64 array": lambda: IMAGES.astype(np.float64),
    "tensor": lambda: torch.from_numpy(IMAGES),
    "labelled tuples": lambda: [(row[None], np.array([3])) for row in IMAGES],
    "dict of arrays": lambda: {"image": IMAGES},
    "dicts": lambda: iter([{"image": torch.from_numpy(IMAGES[:1])}]),
    "generator function": lambda: lambda: (row[None] for row in IMAGES),
    "loader": lambda: torch.utils.data.DataLoader(torch.from_numpy(IMAGES), batch_size=4),
}


@pytest.mark.parametrize("kind", DEFAULT_SAMPLES)
def test_first_representative_sample_is_what_is_traced(kind: str) -> None:
    from edgeq.export.frontends import torch as pytorch

    first = RepDataset(DEFAULT_SAMPLES[kind]()).first_sample()
    arguments, keywords = pytorch._arguments(Classifier(), first)
    [tensor] = [*arguments, *keywords.values()]
    assert tuple(keywords) in ((), ("image",))
    assert tensor.dtype is torch.float32
    np.testing.assert_array_equal(tensor.numpy(), IMAGE)


# Outputs.


OUTPUTS = {
    "tuple": (TupleOutput, ["output_0", "output_1"]),
    "named tuple": (NamedOutput, ["logits", "nested_0"]),
    "dataclass": (DataclassOutput, ["logits", "features"]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_output_names_follow_the_structure(trace: Callable[..., LiteModel], kind: str) -> None:
    build, names = OUTPUTS[kind]
    model = build().eval()
    check_float(model, trace(model, IMAGE), IMAGE, ["image"], names)


def test_transformers_output_names_follow_its_fields(trace: Callable[..., LiteModel]) -> None:
    utils = pytest.importorskip("transformers.utils")

    @dataclasses.dataclass
    class Output(utils.ModelOutput):
        logits: Any = None
        left_out: Any = None
        hidden: Any = None

    class Model(Stem):
        def forward(self, image: Any) -> Any:
            features, logits = self.both(image)
            return Output(logits=logits, hidden=features)

    model = Model().eval()
    check_float(model, trace(model, IMAGE), IMAGE, ["image"], ["logits", "hidden"])


# Layer paths.


def test_layer_paths_are_the_modules_own(trace: Callable[..., LiteModel]) -> None:
    model = nn.Sequential(
        collections.OrderedDict(
            features=nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(3, 4, 3), act=nn.ReLU())),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1)),
        )
    ).eval()
    found = trace(model, IMAGE)
    places = [(op.name, found.layer(op)) for op in found.graph.operators]
    assert ("CONV_2D", "features.conv") in places
    assert ("FULLY_CONNECTED", "head.0") in places
    assert places[-1] == ("SOFTMAX", "head.1")
    assert {layer for _, layer in places} <= {name for name, _ in model.named_modules()}


def test_last_layer_without_weights_is_named(trace: Callable[..., LiteModel]) -> None:
    found = trace(Inner(torch.tanh, last=True).eval(), VECTORS[:1])
    assert layers(found) == ["stem", "body.odd"]


def test_fused_activation_is_named_by_the_layer_with_the_weight(
    trace: Callable[..., LiteModel],
) -> None:
    found = trace(Inner(torch.relu, last=True).eval(), VECTORS[:1])
    assert layers(found) == ["stem"]


def test_undelegated_and_float_ops_are_reported_by_layer(trace: Callable[..., LiteModel]) -> None:
    found = trace(Inner(torch.sin, last=True).eval(), VECTORS[:1])
    assert found.where(found.graph.operators[-1]) == "SIN at body.odd (op 1)"


# Errors.


def test_data_dependent_branch_is_explained(trace: Callable[..., LiteModel]) -> None:
    class Branching(Stem):
        def forward(self, image: Any) -> Any:
            return image if image.sum() > 0 else self.features(image)

    with pytest.raises(ModelError, match=r"torch\.export could not trace Branching") as caught:
        trace(Branching().eval(), IMAGE)
    assert "must not branch on tensor values" in str(caught.value)
    assert "float32 (1, 3, 8, 8)" in str(caught.value)


def test_aten_op_without_lowering_names_op_and_layer(trace: Callable[..., LiteModel]) -> None:
    model = Inner(torch.special.bessel_j0).eval()
    with pytest.raises(UnsupportedOpError, match=r"at body\.odd \(test_torch.*special_bessel_j0"):
        trace(model, VECTORS[:1])


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (IMAGES[:1, :2], r"calling the module on it raises RuntimeError: .*2 channels"),
        ((IMAGE, IMAGE), r"forward\(image.*too many positional arguments"),
        ({"picture": IMAGE}, r"missing a required argument: 'image'"),
        ({"image": IMAGE, "mask": IMAGE}, r"argument 'mask'.*Leave 'mask' out"),
        ("image.png", r"arrays or tensors of numbers\. Received: str 'image.png'"),
        ([None], r"arrays or tensors of numbers\. Received: NoneType"),
    ],
    ids=["channels", "too many", "wrong name", "extra name", "text", "none"],
)
def test_sample_that_does_not_fit_is_a_data_error(
    trace: Callable[..., LiteModel], sample: Any, expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        trace(Classifier().eval(), sample)


def test_what_is_raised_is_not_logged_as_well(
    trace: Callable[..., LiteModel], caplog: pytest.LogCaptureFixture
) -> None:
    class Adding(Inner):
        def forward(self, x: Any) -> Any:
            return x + torch.ones(3, 5)

    with pytest.raises(DataError, match=r"raises RuntimeError"):
        trace(Adding(torch.relu).eval(), VECTORS[:1])
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


def test_failed_trace_leaves_the_module_alone(trace: Callable[..., LiteModel]) -> None:
    class Counting(Stem):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, image: Any) -> Any:
            self.calls += 1
            return image if image.sum() > 0 else self.features(image)

    model = Counting().eval()
    with pytest.raises(ModelError):
        trace(model, IMAGE)
    assert model.calls == 0


def _traced(model: Any, **options: Any) -> Any:
    return torch.export.export(model, (torch.from_numpy(np.repeat(IMAGE, 2, 0)),), **options)


BAD_PROGRAMS = {
    "training": (
        lambda: _traced(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)).train()),
        r"dropout\.default at 1 was traced in training mode; call model\.eval\(\)",
    ),
    "batch norm in training": (
        lambda: _traced(nn.Sequential(nn.BatchNorm2d(3)).train()),
        r"batch_norm\S* at 0 was traced in training mode",
    ),
    "dynamic batch": (
        lambda: _traced(nn.Conv2d(3, 4, 3).eval(), dynamic_shapes=({0: torch.export.Dim("n")},)),
        r"input 'input' has the dynamic shape \(\w+, 3, 8, 8\)",
    ),
    "half precision": (
        lambda: torch.export.export(
            nn.Conv2d(3, 4, 3).eval().bfloat16(), (torch.from_numpy(IMAGE).bfloat16(),)
        ),
        r"tensor 'weight' of the traced program is bfloat16; .*model\.float\(\)",
    ),
}


@pytest.mark.parametrize("kind", BAD_PROGRAMS)
def test_program_that_cannot_be_exported_is_explained(
    trace: Callable[..., LiteModel], kind: str
) -> None:
    build, expected = BAD_PROGRAMS[kind]
    with pytest.raises(ModelError, match=expected):
        trace(build(), data=IMAGES)


def test_module_that_cannot_be_copied_is_explained(trace: Callable[..., LiteModel]) -> None:
    class Uncopyable(Stem):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("holds a lock")

    with pytest.raises(ModelError, match=r"cannot be copied \(holds a lock\); call model\.eval"):
        trace(Uncopyable().train(), IMAGE)


# The surroundings.


def _process_state() -> dict[str, Any]:
    """Global settings that litert-torch and its dependencies are known to touch, and their kin."""
    loggers = [logging.getLogger(), *map(logging.getLogger, ("torch", "torchao", "jax", "absl"))]
    return {
        "jax 64 bits": jax.config.jax_enable_x64,
        "environment": dict(os.environ),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "warnings": list(warnings.filters),
        "loggers": [(log.level, list(log.handlers), list(log.filters)) for log in loggers],
        "random": torch.get_rng_state().tolist(),
    }


def test_process_is_left_as_it_was(
    trace: Callable[..., LiteModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITERT_TORCH_SHOW_PROGRESS", "y")
    model, impossible = Classifier().train(), Inner(torch.special.bessel_j0).eval()
    before = _process_state()
    trace(model, IMAGE)
    assert _process_state() == before
    jax.config.update("jax_enable_x64", True)
    try:
        before = _process_state()
        with pytest.raises(ModelError):
            trace(impossible, VECTORS[:1])
        assert _process_state() == before
    finally:
        jax.config.update("jax_enable_x64", False)


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_first_export_of_a_process_is_silent_and_changes_no_global_setting() -> None:
    run = _run("""
        import os
        import sys
        import warnings
        import numpy as np
        import torch
        import edgeq
        import jax

        class Talkative:  # on any processor, as native libraries are on some
            def find_spec(self, name, path=None, target=None):
                if name == "litert_torch.backend":
                    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called "
                        b"are written to STDERR\\n"
                        b"I0000 00:00:1795883934.438464   19650 port.cc:153] oneDNN is on.\\n"
                        b"2025-11-28 16:00:00.123456: I tensorflow/core/util/port.cc:153] again\\n"
                        b"E0000 00:00:1795883934.438464   19650 port.cc:153] An error stays.\\n")
                return None

        sys.meta_path.insert(0, Talkative())
        model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
        state = lambda: (
            jax.config.jax_enable_x64, dict(os.environ), torch.is_grad_enabled(),
            torch.get_default_dtype(), torch.get_num_threads(), list(warnings.filters),
        )
        before = state()
        edgeq.export(model, np.random.default_rng(0).normal(size=(20, 8)).astype("float32"))
        assert state() == before, (before, state())
        """)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    (error,) = run.stderr.splitlines()
    assert error.endswith("An error stays.")


def test_without_litert_torch_the_extra_to_install_is_named() -> None:
    run = _run("""
        import sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "litert_torch":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
                return None

        sys.meta_path.insert(0, Blocked())
        import numpy as np
        import torch
        import edgeq

        try:
            edgeq.export(torch.nn.Linear(8, 4), np.zeros((4, 8), "float32"))
        except edgeq.DependencyError as error:
            print(error)
        """)
    assert run.returncode == 0, run.stderr
    assert "pip install 'edgeq[torch]'" in run.stdout


def test_broken_litert_torch_is_not_blamed_on_the_model() -> None:
    run = _run("""
        import sys
        import numpy as np
        import torch
        import edgeq

        sys.modules["jax"] = None
        try:
            edgeq.export(torch.nn.Linear(8, 4), np.zeros((4, 8), "float32"))
        except edgeq.DependencyError as error:
            print(error)
        """)
    assert run.returncode == 0, run.stderr
    assert "pip install" in run.stdout
