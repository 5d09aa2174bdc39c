"""Passes over traced PyTorch programs: what they refuse, and what is done where they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import EdgeqError, ModelError, UnsupportedOpError
from edgeq.export import frontends
from edgeq.fidelity.sqnr import Fidelity
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from edgeq.export.frontends.decompositions import lookups  # noqa: E402  # with torch
from edgeq.export.frontends.torch_program import passes, source_places  # noqa: E402  # with torch

nn, aten = torch.nn, torch.ops.aten

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.normal(size=(1, 3, 6, 7)).astype(np.float32)
ROWS = GENERATOR.normal(size=(1, 4, 6)).astype(np.float32)


class Calling(nn.Module):
    """A function as a part of a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


@pytest.fixture(scope="module")
def trace() -> Iterator[Callable[..., LiteModel]]:
    with start_converter() as worker:
        yield lambda model, sample: traced(model, sample, worker)


def traced(model: Any, sample: Any, worker: Worker) -> LiteModel:
    return frontends.trace(model, sample, RepDataset([sample]), worker)


def run_until_small(x: Any) -> Any:
    return torch.while_loop(lambda y: y.sum() > 1, lambda y: (y * 0.5,), (x,))[0]


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (
            lambda x: x + torch.rand(6),
            UnsupportedOpError,
            "aten.rand.default at part (test_torch_program.py:",
        ),
        (lambda x: x[x > 0], UnsupportedOpError, "has as many results as the values of the input"),
        (run_until_small, UnsupportedOpError, "give it a fixed number of steps"),
        (lambda x: torch.fft.rfft(x), ModelError, "return torch.view_as_real of it"),
        (
            lambda x: torch.special.bessel_j0(x),
            UnsupportedOpError,
            "cannot lower an op of the model at part (test_torch_program.py:",
        ),
        (
            lambda x: x if x.sum() > 0 else -x,
            ModelError,
            "could not trace Sequential (test_torch_program.py:",
        ),
    ],
    ids=["random", "sized by values", "endless loop", "complex output", "unknown op", "branch"],
)
def test_an_error_names_the_layer_the_line_and_the_way_out(
    function: Callable[..., Any], error: type[EdgeqError], said: str, trace: Callable[..., Any]
) -> None:
    model = nn.Sequential()
    model.add_module("part", Calling(function))
    with pytest.raises(error) as refused:
        trace(model.eval(), ROWS)
    assert said in str(refused.value)


class GraphLayer(nn.Module):
    """A mean over a graph's edges, with one from each node to itself in place of those it has."""

    def __init__(self, edges: Any = None) -> None:
        super().__init__()
        self.edges = edges
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Any, edges: Any = None) -> Any:
        edges = self.edges if edges is None else edges
        edges = edges[:, edges[0] != edges[1]]
        weights = x.new_ones(edges.shape[1] + x.shape[0])
        edges = torch.cat([edges, torch.arange(x.shape[0]).repeat(2, 1)], 1)
        degrees = x.new_zeros(x.shape[0]).scatter_add_(0, edges[1], weights)
        messages = self.linear(x)[edges[0]] / degrees[edges[1], None]
        return x.new_zeros(x.shape[0], 3).index_add(0, edges[1], messages)


class SparseGraph(nn.Module):
    """Products with sparse matrices, one of them a buffer."""

    def __init__(self) -> None:
        super().__init__()
        links = torch.eye(4) + torch.eye(4).roll(1, 0)
        self.register_buffer("links", links.to_sparse())
        self.rows = (links / 2).to_sparse_csr()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return torch.sparse.mm(self.links, self.linear(self.rows @ x))


def test_sparse_matrices_are_exported_as_dense_ones(trace: Callable[..., LiteModel]) -> None:
    model = SparseGraph().eval()
    traced = trace(model, ROWS[0])
    with Session(traced.tflite) as session, torch.no_grad():
        (found,) = session.run(ROWS[0]).values()
        np.testing.assert_allclose(found, model(torch.from_numpy(ROWS[0])), atol=1e-5)
    assert model.links.is_sparse  # the user's module is as it was
    assert "dense" in traced.notes[0]


EDGES = np.array([[0, 1, 2, 3, 3, 1], [1, 2, 2, 0, 3, 0]])


def test_sizes_that_constants_tell_are_fixed(trace: Callable[..., Any]) -> None:
    model = GraphLayer(nn.Buffer(torch.from_numpy(EDGES))).eval()
    with Session(trace(model, ROWS[0]).tflite) as session:
        (found,) = session.run(ROWS[0]).values()
    expected = model(torch.from_numpy(ROWS[0])).detach().numpy()
    assert np.allclose(found, expected, atol=1e-5)


def test_a_size_that_an_input_tells_is_named_where_more_is_computed_of_it(
    trace: Callable[..., Any],
) -> None:
    said = r"index.Tensor at .*edges\[0\] != edges\[1\].* be a buffer, if it is the same"
    with pytest.raises(UnsupportedOpError, match=said):
        trace(GraphLayer().eval(), (ROWS[0], EDGES))


def test_an_op_that_is_refused_names_its_layer_and_line() -> None:
    message = (
        'Verification failed:\nerror: "net.encoder;"("cat_2"("/home/me/net.py":68:0)): '
        "'stablehlo.concatenate' op requires the same element type for all operands"
    )
    place, reason = source_places.refused_place(message, {})
    assert place == " at net.encoder (net.py:68)"
    assert reason.startswith("'stablehlo.concatenate' op requires")


def fails(*_: Any) -> Any:
    raise AssertionError("a decomposition that fails")


def is_wrong(x: Any, *_: Any) -> Any:
    return x[..., :3, :3] * 3


def exported(model: Any) -> Any:
    return torch.export.export(model, (torch.from_numpy(IMAGE),))


@pytest.mark.parametrize(
    ("form", "given"), [(fails, nn.Module.eval), (is_wrong, nn.Module.eval), (is_wrong, exported)]
)
def test_a_decomposition_that_fails_is_left_out(
    form: Callable[..., Any],
    given: Callable[..., Any],
    trace: Callable[..., LiteModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(passes.TABLE, aten.avg_pool2d.default, form)
    made = trace(given(nn.AvgPool2d(2)), IMAGE)
    assert [note[:46] for note in made.notes] == ["litert-torch's own forms of all ops were taken"]


def test_both_failing_gives_the_error_of_the_first(
    trace: Callable[..., LiteModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """litert-torch's own nearest neighbours are wrong for this size."""
    monkeypatch.setitem(passes.TABLE, aten.upsample_nearest2d.vec, fails)
    with pytest.raises(UnsupportedOpError, match="a decomposition that fails"):
        trace(nn.Upsample(size=(8, 16)).eval(), IMAGE)


def test_padded_places_are_traced_like_all_others(trace: Callable[..., LiteModel]) -> None:
    """PyTorch skips them on its fast path, with zeros as their result."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1
            )

        def forward(self, x: Any, padded: Any) -> Any:
            return self.layers(x, src_key_padding_mask=padded)

    padded = np.array([[False, False, True, True]])
    assert trace(Encoder().eval(), (ROWS, padded)).notes == ()
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_number_that_only_a_check_reads_is_none_of_the_program(
    trace: Callable[..., LiteModel],
) -> None:
    """Multimodal models count the places of their pictures."""

    def counted(x: Any) -> Any:
        torch._check((x > 99).sum().item() == 0)
        return x * 2

    assert trace(Calling(counted).eval(), ROWS).notes == ()


class Framed(nn.Module):
    """An audio codec's layer: a stride that is a buffer decides how much is padded."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("stride", torch.tensor(4), persistent=False)
        self.conv = nn.Conv1d(4, 3, 4, 4)

    def forward(self, x: Any) -> Any:
        count = torch.ceil(x.shape[-1] / self.stride)
        missing = (count * self.stride).to(torch.int64) - x.shape[-1]
        return self.conv(nn.functional.pad(x, (0, missing) if missing > 0 else (0, 0)))


def test_a_size_that_a_buffer_decides_is_known(trace: Callable[..., LiteModel]) -> None:
    model = Framed().eval()
    assert trace(model, ROWS).notes == ()
    assert type(model) is Framed
    assert "stride" in dict(model.named_buffers())


def attended(x: Any) -> Any:
    """A long encoder: a mask that nobody gave decides over a branch."""
    mask = torch.ones(x.shape[:2])
    mask[:, 0] = 2
    count = (mask > 1).sum(1)
    return x[:, : int(count.max())] if (mask > 1).any().item() else x * 2


def test_a_branch_on_what_no_input_decides_is_traced(trace: Callable[..., LiteModel]) -> None:
    made = trace(Calling(attended).eval(), ROWS)
    assert made.notes == ()
    assert made.graph.tensors[made.graph.outputs[0]].shape == (1, 1, 6)


def written_by_the_input(x: Any) -> Any:
    mask = torch.zeros(x.shape[:2])
    view = mask[:, 1:]
    view[:] = x[:, 1:, 0] * 0
    return x * 2 if (mask > 0).any() else x


def test_what_an_input_has_written_is_no_constant(trace: Callable[..., LiteModel]) -> None:
    with pytest.raises(ModelError, match="must not branch on tensor values"):
        trace(Calling(written_by_the_input).eval(), ROWS)


def kept_by_the_input(x: Any) -> Any:
    return x[x[..., 0] > 0]


def test_as_many_results_as_values_say_are_refused_without_the_graph_on_the_terminal(
    trace: Callable[..., LiteModel], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=r"keep a fixed number with torch\.topk"):
        trace(Calling(lambda x: [row * 2 for row in kept_by_the_input(x)]).eval(), ROWS)
    assert "torch.ops" not in capfd.readouterr().err


class Casting(torch.nn.Module):
    """Casts a layer in its forward pass, as routers of experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        self.layer = self.layer.to(x.dtype)
        return self.layer(x)


def test_a_layer_that_is_cast_to_the_type_that_it_has_is_traced(
    trace: Callable[..., LiteModel],
) -> None:
    module = Casting().eval()
    rows = np.random.default_rng(0).standard_normal((1, 3, 5)).astype(np.float32)
    made = trace(module, rows)
    with Session(made.tflite) as session:
        (output,) = session.run(rows).values()
    np.testing.assert_allclose(output, module(torch.from_numpy(rows)).detach(), atol=1e-5)


@torch.library.custom_op("edgeq_tests::by_group", mutates_args=())  # type: ignore[untyped-decorator]
def by_group(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    parts = zip(x.tensor_split(ends[:-1]), weight, strict=True)
    return torch.cat([rows @ matrix for rows, matrix in parts])


@by_group.register_fake  # type: ignore[untyped-decorator]
def _(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


def test_an_op_of_a_package_is_known_by_its_name(
    trace: Callable[..., LiteModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trace is held against what the op itself computes."""
    known = lookups.OF_PACKAGES
    assert known["transformers.grouped_mm_fallback.default"] is lookups.grouped_product
    monkeypatch.setitem(known, "edgeq_tests.by_group.default", lookups.grouped_product)
    weight = torch.randn(3, 6, 5)
    ends = np.array([1, 1, 4])
    model = Calling(lambda x, ends: by_group(x[0], weight, ends)).eval()
    made = trace(model, (ROWS, ends))
    assert (made.notes, made.doubts) == ((), ())


def test_a_model_of_such_ops_is_exported_in_int8() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(size=(13, 10)),
        nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    ).eval()
    data = [GENERATOR.normal(size=(1, 3, 6, 7)).astype(np.float32) for _ in range(20)]
    made = edgeq.export(model, data[1:], recipe="int8", progress=False)
    with torch.no_grad():
        wanted = model(torch.from_numpy(data[0])).numpy()
    with made.session() as session:
        (found,) = session.run(data[0], real=True).values()
    assert Fidelity.of(wanted, found).sqnr_db > 25
