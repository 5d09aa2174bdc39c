"""JAX functions and Flax modules, traced and exported for real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DataError, ModelError, UnsupportedOpError
from edgeq.export import frontends
from edgeq.export.frontends.jaxpr.canonical import CANONICAL
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

jax = pytest.importorskip("jax")
linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
jnp = jax.numpy

Array = npt.NDArray[Any]
Trace = Callable[..., LiteModel]
FLOAT_TOLERANCE = 1e-5


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def trace(converter: Worker) -> Trace:
    """Traces a model with a sample."""

    def run(model: object, sample: object, params: object = None) -> LiteModel:
        return frontends.trace(model, None, RepDataset([sample]), converter, params)

    return run


def ops(model: LiteModel) -> list[str]:
    return [op.name for op in model.graph.operators]


def run(model: LiteModel, *inputs: Array) -> list[Array]:
    names = [name for name, _ in model.input_tensors()]
    with Session(model.tflite) as session:
        found = session.run(dict(zip(names, inputs, strict=True)))
    return [found[name] for name in sorted(found)]


def check_same(model: LiteModel, expected: Any, *inputs: Array) -> None:
    """The file computes what JAX does."""
    leaves = jax.tree_util.tree_leaves(expected)
    for found, wanted in zip(run(model, *inputs), leaves, strict=True):
        np.testing.assert_allclose(found, wanted, atol=FLOAT_TOLERANCE, rtol=1e-4)


WEIGHT = normal(5, 8)
PARAMS = {
    "stem": {"kernel": normal(3, 3, 3, 8) * 0.2, "bias": normal(8)},
    "head": {"kernel": normal(8, 4), "bias": normal(4)},
}


def network(params: Any, image: Any) -> Any:
    stem, head = params["stem"], params["head"]
    numbers = ("NHWC", "HWIO", "NHWC")
    features = jax.lax.conv_general_dilated(
        image, stem["kernel"], (1, 1), "SAME", dimension_numbers=numbers
    )
    features = jax.nn.relu6(features + stem["bias"]).mean((1, 2))
    return {"logits": features @ head["kernel"] + head["bias"], "features": features}


def test_function_with_parameters_has_their_names_as_layers(trace: Trace) -> None:
    image = normal(1, 8, 8, 3)
    model = trace(network, image, PARAMS)
    assert model.origin == "jax"
    layers = {op.name: model.layer(op) for op in model.graph.operators}
    assert layers["CONV_2D"] == "stem"
    assert layers["FULLY_CONNECTED"] == "head"
    assert [name for name, _ in model.input_tensors()] == ["image"]
    assert {name for name, _ in model.output_tensors()} == {"logits", "features"}
    check_same(model, network(PARAMS, image), image)


def test_name_scopes_are_layers(trace: Trace) -> None:
    def scoped(x: Any) -> Any:
        with jax.named_scope("encoder"):
            x = x @ WEIGHT.T
            with jax.named_scope("norm"):
                return jnp.tanh(x) * x

    model = trace(scoped, normal(2, 8))
    assert [model.layer(op) for op in model.graph.operators] == [
        "encoder", "encoder/norm", "encoder/norm",
    ]  # fmt: skip


REWRITTEN: dict[str, tuple[Callable[..., Any], Array, list[str]]] = {
    "scan": (
        lambda x: jax.lax.scan(lambda c, r: (c + jnp.tanh(r),) * 2, x[0], x, reverse=True),
        normal(3, 8),
        ["WHILE"],
    ),
    "fori_loop": (
        lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c @ (WEIGHT.T @ WEIGHT) * 0.1 + i, x),
        normal(2, 8),
        ["WHILE"],
    ),
    "cond": (
        lambda x: jax.lax.cond(x.sum() > 0, lambda a: a * 2, lambda a: a - 1, x),
        normal(2, 8),
        ["IF"],
    ),
    "switch": (
        lambda x: jax.lax.switch(
            (x.sum() > 0).astype(int) + 1, [jnp.sin, jnp.tanh, lambda a: -a], x
        ),
        normal(2, 8),
        ["IF"],
    ),
    "GELU of erf": (
        lambda x: 0.5 * x * (1 + jax.scipy.special.erf(x / np.sqrt(2))),
        normal(2, 8),
        ["MUL"],
    ),
    "GELU of erfc": (lambda x: jax.nn.gelu(x, approximate=False), normal(2, 8), ["MUL"]),
    "odd transposed convolution": (
        lambda x: jax.lax.conv_transpose(x, PARAMS["stem"]["kernel"], (2, 2), "SAME"),
        normal(1, 4, 4, 3),
        [],
    ),
    "transposed convolution without padding": (
        lambda x: jax.lax.conv_general_dilated(
            x,
            PARAMS["stem"]["kernel"],
            (1, 1),
            ((0, 0), (0, 0)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        normal(1, 4, 4, 3),
        [],
    ),
    "transposed convolution of volumes": (
        lambda x: (
            jax.lax.conv_transpose(x, np.resize(WEIGHT, (3, 2, 3, 2, 4)), (2, 2, 2), "SAME"),
            jax.lax.conv_transpose(x, np.resize(WEIGHT, (2, 2, 1, 2, 4)), (3, 1, 2), "VALID"),
        ),
        normal(1, 3, 4, 3, 2),
        [],
    ),
    "convolution of volumes in groups": (
        lambda x: jax.lax.conv_general_dilated(
            x,
            np.resize(WEIGHT, (3, 2, 3, 1, 4)),
            (1, 2, 1),
            "SAME",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            feature_group_count=2,
        ),
        normal(1, 3, 4, 3, 2),
        [],
    ),
    "finite numbers": (lambda x: jnp.isfinite(1 / jnp.maximum(x, 0)), normal(2, 8), []),
    "highest values": (
        lambda x: jax.lax.top_k(x, 3)[0],
        normal(2, 8),
        ["STABLEHLO_SORT"],
    ),
    "sort": (jnp.sort, normal(2, 8), ["STABLEHLO_SORT"]),
    "argsort": (jnp.argsort, normal(2, 8), ["STABLEHLO_SORT"]),
    "1-D max pool": (
        lambda x: linen.max_pool(x, (2,), (2,)),
        normal(1, 8, 4),
        ["STABLEHLO_REDUCE_WINDOW"],
    ),
    "rows added at places": (
        lambda x: jax.ops.segment_sum(x, np.array([0, 1, 1, 3]), 4),
        normal(4, 8),
        [],
    ),
    "a column added to": (lambda x: x.at[:, 2].add(x[:, 0]), normal(2, 8), []),
    "lookup": (lambda x: jnp.take(WEIGHT, x, axis=0), np.array([[4, -1, 0]], np.int32), []),
}


def whole(x: Any, factor: int) -> Any:
    return (x * factor).astype(np.int32)


PLACES = np.asarray([0, 0, 3])


def bits(x: Any) -> Any:
    """Whole numbers of all lengths and both signs."""
    return (x * 1000).astype(np.int32) * np.int32(123_457)


def of_bits(x: Any) -> Any:
    one, other = bits(x), bits(x[::-1])
    joined = (one & other, one | other, one ^ other, ~one, one << 3, one >> 3)
    return (*joined, jax.lax.population_count(one), jax.lax.clz(one), (x > 0) ^ (x[::-1] > 0))


def halved(x: Any, limit: Any = 9) -> Any:
    """Until a computed value is small, in no more steps than a counter allows."""
    return jax.lax.while_loop(
        lambda c: (jnp.abs(c[1]).max() > 0.4) & (c[0] < limit),
        lambda c: (c[0] + 1, c[1] / 2),
        (0, x * 3),
    )


def counted(x: Any) -> Any:
    """By a counter alone, from constants that JAX does not see as such."""
    steps = jnp.asarray(3)
    return jax.lax.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))


def squares(x: Any) -> Any:
    return x[:, :4] + 2 * jnp.eye(4)


def factors(x: Any) -> Any:
    square = squares(x)
    return (
        jax.scipy.linalg.lu(square), jax.scipy.linalg.lu_factor(square), jnp.linalg.qr(x),
        jnp.linalg.solve(square, x),
        jnp.linalg.inv(square), jnp.linalg.det(square),
        jax.scipy.linalg.solve_triangular(square, x, trans=1),
    )  # fmt: skip


def of_constants(x: Any) -> Any:
    """Systems of a constant of more rows than are solved row by row."""
    rows = np.tile(normal(10, 5), (4, 1))
    kernel = rows @ rows.T + 3 * np.eye(40, dtype=np.float32)
    factor, seen = np.linalg.cholesky(kernel), rows @ x.T
    solve = jax.scipy.linalg.solve_triangular
    return (
        solve(factor, seen, lower=True), solve(factor, seen, trans=1, lower=True),
        solve(kernel, seen, unit_diagonal=True), jnp.linalg.solve(kernel, seen),
        jax.scipy.linalg.cho_solve((factor, True), seen),
        jax.vmap(lambda row: solve(factor, row, lower=True))(seen.T),
        jax.lax.linalg.triangular_solve(jnp.asarray(factor), seen.T, lower=True),
    )  # fmt: skip


def outside(x: Any) -> Any:
    index = (x * 4).astype(np.int32)[:, :3]
    return (
        jnp.take(x, index, axis=0, mode="clip"),
        jnp.take(x, index, axis=1, mode="fill", fill_value=7),
        x.at[index].get(mode="fill", fill_value=0),
    )


def into_several(x: Any) -> Any:
    index = jnp.clip((x * 2).astype(np.int32), 0, 3)[:, :3]
    rows = jax.vmap(lambda row, place: row.at[place].add(1.5).at[place[:1]].max(2))(x, index)
    return rows, x.at[index[0], index[1]].add(x[0, :3]), jax.ops.segment_max(x, index[:, 0], 4)


OWN_FORMS: dict[str, Callable[..., Any]] = {
    "systems of constants": of_constants,
    "axes ordered behind a broadcast": lambda x: (
        jnp.broadcast_to(x[:, None], (3, 4, 2, 5)).transpose(0, 3, 2, 1) * x[:, 0]
    ),
    "remainders": lambda x: (jnp.fmod(x, 0.3), x // 0.3, jnp.cbrt(x), whole(x, -9) % 4),
    "remainders like C": lambda x: jax.lax.rem(whole(x, -9), jnp.int32(4)),
    "one alone in order": lambda x: (
        jax.lax.top_k(x[:, :1], 1)[0], jnp.sort(x[:, :1]), jnp.argsort(x[:1], 0)
    ),
    "sorted down": lambda x: (jnp.sort(x, 0), jnp.argsort((x * 10).astype(int), 0)),
    "rows at places": lambda x: (
        x.at[PLACES].max(0.5), x.at[PLACES].multiply(x[:3]), x.at[PLACES].min(x[:3]),
    ),
    "counts": lambda x: jnp.bincount(jnp.clip(x.ravel() * 2, 0, 4).astype(int), length=5),
    "noise of a key": lambda x: x + jax.random.normal(jax.random.key(0), x.shape, np.float32),
    "Cholesky factor": lambda x: jnp.linalg.cholesky(x @ x.T + jnp.eye(4)),
    "other factors": factors,
    "bits": of_bits,
    "loop with a bound": halved,
    "loop of known length": counted,
    "places outside": outside,
    "rows of a batch": into_several,
    "diagonal": lambda x: jnp.einsum("ii->i", x[:, :4]),
    "sums of exponentials": lambda x: (
        jax.lax.cumlogsumexp(x * 9, 1), jax.lax.cumlogsumexp(x, 0, reverse=True),
    ),
    "sorted by two": lambda x: jnp.lexsort((x[0], (x[1] * 1.5).astype(int))),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_FORMS)
def test_what_the_converter_lacks_has_a_form(name: str, trace: Trace) -> None:
    x, other = normal(4, 5), jnp.asarray(normal(4, 5, seed=1))
    model = trace(lambda x: OWN_FORMS[name](jnp.asarray(x)), x)
    check_same(model, jax.jit(OWN_FORMS[name])(other), np.asarray(other))


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_the_converter_cannot_is_emitted_otherwise(name: str, trace: Trace) -> None:
    function, x, without = REWRITTEN[name]
    model = trace(function, x)
    check_same(model, jax.jit(function)(x), x)
    assert not set(ops(model)) & set(without)
    if name.startswith("GELU"):
        assert ops(model) == ["GELU"]


LEFT: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "W @ x": (lambda x: WEIGHT @ x, (8, 3)),
    "vmap(W @ row)": (lambda x: jax.vmap(lambda row: WEIGHT @ row)(x), (3, 8)),
    "einsum": (lambda x: jnp.einsum("oi,bti->bot", WEIGHT, x), (2, 3, 8)),
    "one by one": (lambda x: jnp.einsum("oi,abti->abto", WEIGHT, x), (1, 3, 1, 8)),
    "pooled": (lambda x: x @ WEIGHT.T, (1, 1, 1, 8)),
}


@pytest.mark.parametrize("name", LEFT)
def test_weight_on_the_left_of_a_dot_is_quantized_as_one(name: str) -> None:
    function, shape = LEFT[name]
    samples = [normal(*shape, seed=seed) for seed in range(8)]
    edge_model = edgeq.export(function, samples, recipe="int8")
    assert not edge_model.report.float_ops
    (fidelity,) = edge_model.report.outputs
    assert fidelity.sqnr_db > 30
    expected = np.asarray(function(samples[0]))
    with edge_model.session() as session:
        found = session.run(samples[0])["output_0"]
    noise = np.square(found - expected).sum() / np.square(expected).sum()
    assert 10 * np.log10(1 / noise) > 30


def test_64_bits_are_kept_out_and_set_back(trace: Trace) -> None:
    jax.config.update("jax_enable_x64", True)
    try:
        params = {"w": np.ones((8, 4), np.float64) / 3}
        model = trace(lambda p, x: x @ p["w"] + 1, normal(2, 8).astype(np.float64), params)
        assert jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", False)
    assert {t.dtype for t in model.graph.tensors} <= {"float32", "int32"}
    assert model.notes == ("parameters in float64 were converted to float32",)


def variables_of(module: Any, *inputs: Any) -> Any:
    """Variables of a linen module, none like another; drawing them in JAX takes seconds."""
    key, *rest = jax.random.key(0), *inputs
    shapes = jax.eval_shape(lambda k: module.init(k, *rest), key)
    seeds = iter(range(1000))
    return jax.tree_util.tree_map(
        lambda s: 0.3 * np.abs(normal(*s.shape, seed=next(seeds))), shapes
    )


class Block(linen.Module):  # type: ignore[misc]
    @linen.compact
    def __call__(self, x: Any, train: bool) -> Any:
        y = linen.Conv(8, (3, 3), name="conv")(x)
        y = linen.BatchNorm(use_running_average=not train, name="norm")(y)
        return linen.relu(linen.Dropout(0.5, deterministic=not train)(y)) + x


class Linen(linen.Module):  # type: ignore[misc]
    @linen.compact
    def __call__(self, image: Any, train: bool) -> Any:
        x = Block(name="second")(Block(name="first")(linen.Conv(8, (3, 3))(image), train), train)
        return linen.Dense(4, name="head")(x.mean((1, 2)))


def test_linen_module_is_exported_in_evaluation_mode(trace: Trace) -> None:
    image, module = normal(1, 8, 8, 3), Linen()
    variables = variables_of(module, image, False)
    model = trace(module, image, variables)
    expected = jax.jit(module.apply, static_argnums=2)(variables, image, False)
    check_same(model, expected, image)
    assert [model.layer(op) for op in model.graph.operators if op.name != "MEAN"] == [
        "Conv_0", "first/conv", "first", "second/conv", "second", "head",
    ]  # fmt: skip


class Part(nnx.Module):  # type: ignore[misc]
    def __init__(self, rngs: Any) -> None:
        self.conv = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + nnx.relu(self.drop(self.norm(self.conv(x))))


class Nnx(nnx.Module):  # type: ignore[misc]
    def __init__(self, rngs: Any) -> None:
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.parts = nnx.List([Part(rngs), Part(rngs)])

    def __call__(self, image: Any) -> Any:
        x = self.stem(image)
        for part in self.parts:
            x = part(x)
        return x


def test_nnx_module_is_exported_in_evaluation_mode_and_left_alone(trace: Trace) -> None:
    image, module = normal(1, 4, 4, 3), Nnx(nnx.Rngs(0))
    module.parts[1].norm.mean[...] += 0.1
    before = {path: type(part) for path, part in nnx.iter_modules(module)}
    model = trace(module, image)
    assert {path: type(part) for path, part in nnx.iter_modules(module)} == before
    assert not module.parts[0].drop.deterministic
    module.eval()
    check_same(model, module(image), image)
    layers = [model.layer(op) for op in model.graph.operators]
    assert layers[:5] == ["stem", "parts.0.conv", "parts.0", "parts.1.conv", "parts.1"]


def dense(params: Any, x: Any) -> Any:
    return x @ params["w"]


def branches(x: Any) -> Any:
    return x if x.sum() > 0 else -x


WRONG: dict[str, tuple[Any, Any, Any, type[Exception], str]] = {
    "missing params of a function": (
        dense, normal(1, 8), None, DataError, "the sample does not fit dense",
    ),
    "missing params of a module": (
        linen.Dense(2), normal(1, 3, 8), None, ModelError,
        "the linen module Dense needs its variables: pass params=variables",
    ),
    "params of what has its own": (
        b"TFL3", normal(1, 8), {}, ModelError, "params are for JAX functions and linen modules",
    ),
    "unknown object": (
        object(), normal(1, 8), None, ModelError,
        "the model must be a PyTorch nn.Module or ExportedProgram, a JAX function, a Flax module, "
        "a Keras 3 model, a tf.function, tf.Module or SavedModel folder, an onnx.ModelProto, the "
        "path of a .keras, .h5, .pt2 or TorchScript file, or the path or bytes of an .onnx or "
        "float .tflite file. Received: builtins.object",
    ),
    "op without a form": (
        lambda x: jax.lax.igamma(jnp.exp(x), jnp.exp(x)), normal(2, 8), None, UnsupportedOpError,
        "igamma at igamma has no form in the runtime; write it with other ops, or leave it to",
    ),
    "loop without a known end": (
        lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x), normal(2), None,
        UnsupportedOpError, "give jax.lax.scan or fori_loop a trip count that is a Python int",
    ),
    "branch on a value": (
        branches, normal(2, 8), None, ModelError,
        "It must be a function that jax.jit takes: no branches on values",
    ),
    "wrong shape": (
        dense, normal(1, 3), {"w": WEIGHT}, ModelError,
        'x @ params["w"]) on inputs \'x\' float32 (1, 3) raises TypeError: dot_general requires',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_says_where_what_and_what_to_do(name: str, trace: Trace) -> None:
    model, sample, params, kind, text = WRONG[name]
    with pytest.raises(kind) as caught:
        trace(model, sample, params)
    assert text in str(caught.value)


def test_the_layer_of_an_op_without_a_form_is_named(trace: Trace) -> None:
    class Sorting(linen.Module):  # type: ignore[misc]
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return Inner(name="ranking")(linen.Dense(4)(x))

    class Inner(linen.Module):  # type: ignore[misc]
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return jax.lax.igamma(x, x)

    module = Sorting()
    variables = variables_of(module, normal(1, 8))
    with pytest.raises(UnsupportedOpError, match="igamma at ranking has no form"):
        trace(module, normal(1, 8), variables)


def test_a_wrong_trace_is_refused(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CANONICAL, "tanh", lambda x, **_: jnp.sin(3 * x))
    with pytest.raises(ModelError, match="the trace of bent computes something else"):
        trace(bent, normal(2, 8))


def bent(x: Any) -> Any:
    return jnp.tanh(x)


def test_numbers_without_axes_are_outputs() -> None:
    data = list(normal(12, 1, 8))
    edge = edgeq.export(lambda x: (x.mean(), x.std()), data, recipe="int8", progress=False)
    with edge.session() as session:
        found = session.run(data[0], real=True)
    assert [array.shape for array in found.values()] == [(), ()]
    for array, wanted in zip(found.values(), (data[0].mean(), data[0].std()), strict=True):
        np.testing.assert_allclose(array, wanted, atol=0.02)
