"""Several signatures in one file: merged, split, exported, and run each by its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from file_parts import composite
from one_op import OneOp, Step, Value

import edgeq
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DataError, ModelError, RecipeError
from edgeq.export import frontends
from edgeq.export.deploy.merge_files import merge, signature_keys, split
from edgeq.export.deploy.signatures import MultiSignatureModel, check_alike
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import pack, parse, schema, unpack, with_inputs
from edgeq.isolation import Worker
from edgeq.recipe import Mode, Recipe
from edgeq.runtime.session import Session

Array = npt.NDArray[np.float32]

WIDTH, HIDDEN, CLASSES = 64, 1200, 3


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ROWS = normal(20, WIDTH, seed=1)
SHARED = normal(WIDTH, HIDDEN) / np.sqrt(WIDTH)
HEAD = normal(HIDDEN, CLASSES, seed=2) / np.sqrt(HIDDEN)
DATA = {"embed": ROWS, "classify": {"row": ROWS[:, ::-1].copy()}}


@pytest.fixture(scope="module")
def made() -> MultiSignatureModel:
    """Two JAX functions that read one large weight."""
    jnp = pytest.importorskip("jax.numpy")

    def embed(row: Any) -> Any:
        return {"embedding": jnp.dot(row, SHARED)}

    def classify(params: Any, row: Any) -> Any:
        return {"scores": jnp.dot(jnp.maximum(jnp.dot(row, SHARED), 0), params["head"])}

    found = edgeq.export(
        {"embed": embed, "classify": classify},
        DATA,
        params={"classify": {"head": HEAD}},
        recipe={"embed": "int8", "classify": "int8"},
        inputs={"classify": "int8"},
        progress=False,
    )
    assert isinstance(found, MultiSignatureModel)
    return found


def stored(tflite: bytes) -> list[bytes]:
    """The constants of a file, at least 1 kB each."""
    contents = [b.data for b in unpack(tflite).buffers if b.data is not None]
    return [bytes(content) for content in contents if len(content) >= 1000]


def test_shared_weight_is_stored_once(made: MultiSignatureModel) -> None:
    weight = WIDTH * HIDDEN
    singles = [edge_model.tflite for edge_model in made.signatures.values()]
    assert all(any(len(c) == weight for c in stored(single)) for single in singles)
    contents = stored(made.tflite)
    assert sorted(map(len, contents))[-2] < weight == max(map(len, contents))
    assert len(set(contents)) == len(contents)
    assert len(made.tflite) < sum(map(len, singles)) - weight


def test_every_signature_computes_what_it_does_alone(
    made: MultiSignatureModel, tmp_path: Path
) -> None:
    path = made.save(tmp_path / "both.tflite")
    assert path.read_bytes() == made.tflite
    for key, edge_model in made.signatures.items():
        with edge_model.session() as own, Session(path, signature=key) as session:
            assert set(session.signatures) == {"embed", "classify"}
            assert session.io == own.io == edge_model.io
            for row in ROWS[:4]:
                expected = own.run(row[None], real=True)
                found = session.run(row[None], real=True)
                assert found.keys() == expected.keys()
                assert all((found[name] == expected[name]).all() for name in expected)


def test_a_decoder_fills_its_cache_in_one_signature_and_goes_on_in_the_other() -> None:
    jax = pytest.importorskip("jax")

    def step(x: Any, pos: Any, cache: Any) -> Any:
        cache = jax.lax.dynamic_update_slice(cache, x @ SHARED, (pos, 0))
        return {"y": cache.sum(0) @ HEAD, "cache_out": cache}

    blank, tokens = np.zeros((8, HIDDEN), "f4"), normal(6, 8, WIDTH, seed=3)
    prompts = [{"x": t[:4], "pos": np.int32(0), "cache": blank} for t in tokens]
    steps = [[{"x": t[i : i + 1], "pos": np.int32(i)} for i in range(8)] for t in tokens]
    data = {
        "prefill": prompts,
        "decode": edgeq.Sequences(steps, {"cache": "cache_out"}, {"cache": blank}),
    }
    made = edgeq.export(dict.fromkeys(data, step), data, recipe="dynamic_int8", progress=False)
    weight = WIDTH * HIDDEN
    assert [len(content) for content in stored(made.tflite)].count(weight) == 1
    first = tokens[0]
    with made.session("prefill") as session:
        cache = session.run(prompts[0])["cache_out"]
    with made.session("decode") as session:
        stream = session.stream(start={"cache": cache})
        for i in range(4, 8):
            y = stream.run(steps[0][i])["y"]
            expected = (first[: i + 1] @ SHARED).sum(0) @ HEAD
            assert np.abs(y - expected).max() < 0.05 * np.abs(expected).max()


def related(count: int, seed: int, first: int = 0) -> Array:
    """Rows whose numbers go together, as activations do, those of a part of them alone."""
    mixed = normal(count, 6, seed=seed) @ np.roll(normal(6, WIDTH, seed=7), first, axis=1)
    return mixed.astype(np.float32) + 1


def loss_db(made: MultiSignatureModel, key: str, rows: Array) -> float:
    """SQNR of `rows @ SHARED` as a signature computes it."""
    with made.session(key) as session:
        found = session.run(rows)
    (outputs,) = found.values()
    wanted = rows @ SHARED
    return float(10 * np.log10(np.square(wanted).sum() / np.square(outputs - wanted).sum()))


def test_a_common_weight_is_rounded_by_the_data_of_all_signatures() -> None:
    pytest.importorskip("jax")

    def product(row: Any) -> Any:
        return {"product": row @ SHARED}

    data = {"one": related(20, 1), "other": related(20, 2, first=9)}
    models = dict.fromkeys(data, product)
    unseen = {"one": related(50, 3), "other": related(50, 4, first=9)}
    db = {}
    for rounding in ("gptq", "nearest"):
        recipe = Recipe(rounding, default=Mode.WEIGHT_INT8, rounding=rounding)
        made = edgeq.export(models, data, recipe=recipe, progress=False)
        assert [len(content) for content in stored(made.tflite)].count(WIDTH * HIDDEN) == 1
        db[rounding] = [loss_db(made, key, unseen[key]) for key in data]
    assert min(np.subtract(db["gptq"], db["nearest"])) > 3


def test_a_scale_in_front_of_a_common_weight_leaves_it_common() -> None:
    pytest.importorskip("jax")
    gamma, beta = normal(WIDTH, seed=5) + 2, normal(WIDTH, seed=6)

    def dense(rows: Any) -> Any:
        return {"product": (rows * gamma + beta) @ SHARED}

    data = {"many": list(normal(12, 1, 8, WIDTH)), "single": list(normal(12, 1, 1, WIDTH))}
    made = edgeq.export(dict.fromkeys(data, dense), data, recipe="int8", progress=False)
    assert [len(content) for content in stored(made.tflite)].count(WIDTH * HIDDEN) == 1


WORDS = 40
SPREAD = np.exp(normal(WORDS, 1, seed=8)) * normal(WORDS, WIDTH, seed=9)
"""Rows of an embedding, which differ in size."""


def decoder(count: int, table: Array = SPREAD, has_scores: bool = True) -> OneOp:
    """Tokens to rows of a table, a layer, and scores by the same rows."""
    tokens, hidden = Value((count,), "int32", 0, WORDS), Value((count, WIDTH))
    steps = (
        Step("GATHER", (table, "tokens"), {"rows": hidden}),
        Step("FULLY_CONNECTED", ("rows", normal(WIDTH, WIDTH, seed=count) / 8), {"y": hidden}),
        Step("FULLY_CONNECTED", ("y", table), {"scores": Value((count, WORDS))}),
    )
    return OneOp("decoder", {"tokens": tokens}, steps if has_scores else steps[:2])


@pytest.mark.parametrize("has_scores", [True, False])
def test_a_table_that_other_signatures_read_has_the_scales_of_rows(has_scores: bool) -> None:
    cases = {"prefill": decoder(4, has_scores=has_scores), "decode": decoder(1)}
    data = {key: case.draw(40) for key, case in cases.items()}
    models = {key: case.build() for key, case in cases.items()}
    made = edgeq.export(models, data, recipe="int8", min_sqnr_db=None, progress=False)
    assert [len(content) for content in stored(made.tflite)].count(WORDS * WIDTH) == 1
    for key, case in cases.items():
        with made.session(key) as session, Session(models[key]) as exact:
            found, wanted = (s.run(case.draw(50)[-1]) for s in (session, exact))
        for name, answer in wanted.items():
            assert np.square(found[name] - answer).sum() < 0.02 * np.square(answer).sum()


def test_a_table_that_a_layer_multiplies_by_is_there_once() -> None:
    case = decoder(1)
    made = edgeq.export(case.build(), case.draw(40), recipe="int8", progress=False)
    assert [len(content) for content in stored(made.tflite)].count(WORDS * WIDTH) == 1
    assert "with a scale for each row" in made.plan.remarks[0]
    alone = OneOp("look-up", case.inputs, case.steps[:2])
    own = edgeq.export(alone.build(), alone.draw(40), recipe="int8", progress=False)
    assert not own.report.float_ops


def test_a_table_with_numbers_halfway_between_integers_is_there_once() -> None:
    """Which the converter rounds to other integers than a look-up's are."""
    steps = np.arange(WORDS * WIDTH, dtype=np.float32) % 253 - 125.5
    table = steps.reshape(WORDS, WIDTH) / 128
    table[:, 0] = 127 / 128
    cases = {"prefill": decoder(4, table), "decode": decoder(1, table)}
    data = {key: case.draw(40) for key, case in cases.items()}
    models = {key: case.build() for key, case in cases.items()}
    made = edgeq.export(models, data, recipe="int8", min_sqnr_db=None, progress=False)
    found = [content for content in stored(made.tflite) if len(content) == WORDS * WIDTH]
    assert found == [np.rint(table * 128).astype(np.int8).tobytes()]


def test_names_and_op_codes(made: MultiSignatureModel) -> None:
    merged = parse(made.tflite)
    assert [(s.key, s.graph) for s in merged.signatures] == [("embed", 0), ("classify", 1)]
    assert [name for s in merged.signatures for name, _ in s.inputs] == ["row", "row"]
    assert [name for s in merged.signatures for name, _ in s.outputs] == ["embedding", "scores"]
    for graph, edge_model in zip(merged.graphs, made.signatures.values(), strict=True):
        (own,) = parse(edge_model.tflite).graphs
        assert [t.name for t in graph.tensors] == [t.name for t in own.tensors]
        assert [(op.name, op.version) for op in graph.operators] == [
            (op.name, op.version) for op in own.operators
        ]
    codes = [(c.builtinCode, c.version) for c in unpack(made.tflite).operatorCodes]
    assert len(set(codes)) == len(codes)


def test_options_by_signature_reach_their_own(made: MultiSignatureModel) -> None:
    types = {key: each.io.inputs[0].dtype for key, each in made.signatures.items()}
    assert types == {"embed": "float32", "classify": "int8"}
    with made.session("classify") as session:
        assert session.input_names == ("row",)


def test_report_has_that_of_each(made: MultiSignatureModel) -> None:
    text = made.report.text()
    assert text.index("signature embed") < text.index("SQNR of embedding")
    assert text.index("SQNR of embedding") < text.index("signature classify")
    assert text.index("signature classify") < text.index("SQNR of scores")
    assert f"all 2 signatures: {len(made.tflite) / 1000:,.1f} kB in one file" in text
    written = json.loads(made.report.to_json())
    assert written["edge_bytes"] == len(made.tflite) < written["single_bytes"]
    assert list(written["signatures"]) == ["embed", "classify"]


def test_signatures_that_differ_are_told_apart(made: MultiSignatureModel) -> None:
    singles = {key: edge_model.tflite for key, edge_model in made.signatures.items()}
    check_alike(made.tflite, singles)
    tree = unpack(made.tflite)
    weight = max((b for b in tree.buffers if b.data is not None), key=lambda b: len(b.data))
    weight.data = np.roll(weight.data, 1)
    with pytest.raises(edgeq.VerificationError, match="'embed' computes other numbers"):
        check_alike(pack(tree), singles)


@pytest.fixture(scope="module")
def floats(made: MultiSignatureModel) -> dict[str, bytes]:
    """The float files of both functions."""
    return {key: each.float_model.tflite for key, each in made.signatures.items()}


def test_split_undoes_merge(floats: dict[str, bytes]) -> None:
    merged = merge(floats)
    assert signature_keys(merged) == ("embed", "classify")
    assert len(merged) < sum(map(len, floats.values())) - 4 * WIDTH * HIDDEN
    for key, single in split(merged).items():
        (graph,), (own,) = parse(single).graphs, parse(floats[key]).graphs
        assert [(t.name, t.shape) for t in graph.tensors] == [
            (t.name, t.shape) for t in own.tensors
        ]
        assert [op.name for op in graph.operators] == [op.name for op in own.operators]
        assert len(single) < len(floats[key]) + 1000
        sample = ROWS[:1]
        with Session(single) as found, Session(floats[key]) as expected:
            answers = found.run(sample), expected.run(sample)
        assert answers[0].keys() == answers[1].keys()
        assert all((answers[0][name] == answers[1][name]).all() for name in answers[1])


def test_float_file_with_two_signatures(
    made: MultiSignatureModel, floats: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "float.tflite"
    path.write_bytes(merge(floats))
    again = edgeq.export(path, DATA, recipe="int8", inputs={"classify": "int8"}, progress=False)
    assert list(again.signatures) == ["embed", "classify"]
    for key, edge_model in made.signatures.items():
        with made.session(key) as first, again.session(key) as second:
            row = edge_model.io.inputs[0].quantize(ROWS[:1])
            expected, found = first.run(row), second.run(row)
        assert all((found[name] == expected[name]).all() for name in expected)


def add(shape: tuple[int, ...] = (1, 3)) -> OneOp:
    value = Value(shape)
    return OneOp(
        "ADD", {"left": value, "right": value}, (Step("ADD", ("left", "right"), {"sum": value}),)
    )


def test_one_data_set_for_several_signatures_is_refused() -> None:
    both = merge({"first": add().build(), "second": add((1, 4)).build()})
    way_out = r"all of them with data for each: edgeq.export\(model, \{'first': ..., 'second': "
    for data in (normal(10, 3), {"first": ROWS, "third": ROWS}):
        with pytest.raises(ModelError, match="has 2 signatures; export " + way_out):
            edgeq.export(both, data)


def test_inputs_by_position_keep_the_order_of_the_graph() -> None:
    value = Value((1, 3))
    step = Step("SUB", ("z", "a"), {"difference": value})
    subtract = with_inputs(OneOp("SUB", {"a": value, "z": value}, (step,)).build(), ["z", "a"])
    left, right = normal(1, 3), normal(1, 3, seed=1)
    both = merge({"first": add().build(), "second": subtract})
    for file, key in ((subtract, None), (both, "second"), (split(both)["second"], None)):
        with Session(file, signature=key) as session:
            assert session.input_names == ("z", "a")
            np.testing.assert_array_equal(session.run([left, right])["difference"], left - right)


def test_dict_of_arrays_by_input_name_stays_one() -> None:
    data = {"left": normal(10, 3), "right": normal(10, 3, seed=1)}
    made = edgeq.export(add().build(), data, recipe="int8", progress=False)
    assert isinstance(made, EdgeModel)


def test_a_signature_takes_the_graphs_along_that_it_runs() -> None:
    sample = normal(1, 8)
    with Session(composite()) as session:
        expected = session.run(sample)["z"]
    both = merge({"first": add().build(), "second": composite(), "third": add().build()})
    for file, key in ((both, "second"), (split(both)["second"], None)):
        with Session(file, signature=key) as session:
            np.testing.assert_array_equal(session.run(sample)["z"], expected)
    assert [len(parse(file).graphs) for file in split(both).values()] == [1, 2, 1]


MODELS = {"first": add().build(), "second": add((1, 4)).build()}


@pytest.mark.parametrize(
    ("models", "data", "kind", "text"),
    [
        (
            MODELS, {"first": ROWS, "third": ROWS}, DataError,
            "the models have first, second, the data first, third",
        ),
        (MODELS, {}, DataError, "the models have first, second, the data none"),
        (MODELS, ROWS, DataError, "by the same keys, first, second. Received: ndarray"),
        ({1: b""}, {1: ROWS}, ModelError, "by signature key, which is text. Received: 1"),
        ({"first": None}, {"first": ROWS}, ModelError, "signature 'first': the model must be a"),
        (
            MODELS, {"first": ROWS, "second": ROWS}, DataError,
            "signature 'first': ",
        ),
    ],
)  # fmt: skip
def test_wrong_mappings_are_said_to_be_so(
    models: Any, data: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        edgeq.export(models, data, progress=False)
    assert text in str(caught.value)


def test_wrong_option_names_its_signature() -> None:
    with pytest.raises(RecipeError, match="signature 'first': target must be one of"):
        edgeq.export({"first": MODELS["first"]}, {"first": ROWS}, target={"first": "moon"})  # type: ignore[arg-type]


def test_greatest_minimal_runtime_is_kept() -> None:
    def with_metadata(version: bytes) -> bytes:
        tree = unpack(add().build())
        entry, buffer = schema.MetadataT(), schema.BufferT()
        entry.name, entry.buffer = b"min_runtime_version", len(tree.buffers)
        buffer.data = np.frombuffer(version.ljust(16, b"\0"), np.uint8)
        tree.buffers.append(buffer)
        tree.metadata = [entry]
        return pack(tree)

    versions = {"a": b"2.9.0", "b": b"2.14.0", "c": b"1.15.0"}
    tree = unpack(merge({key: with_metadata(version) for key, version in versions.items()}))
    (entry,) = tree.metadata
    assert bytes(tree.buffers[entry.buffer].data).rstrip(b"\0") == b"2.14.0"


def test_open_sizes_of_a_keras_model_are_noted(converter: Worker) -> None:
    keras = pytest.importorskip("keras")
    inputs = [keras.Input((None, 4), name="words"), keras.Input((4,), name="speaker", batch_size=2)]
    model = keras.Model(inputs, keras.layers.Add()(inputs))
    sample = {"words": normal(2, 5, 4), "speaker": normal(2, 4)}
    traced = frontends.trace(model, None, RepDataset([sample]), converter)
    assert traced.notes == tuple(
        f"input 'words' may have any size along dimension {axis}; in the file it is {size}, as in "
        "the sample"
        for axis, size in ((0, 2), (1, 5))
    )
