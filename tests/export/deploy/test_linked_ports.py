"""Signatures that take what others give: one scale on all sides, and said so in file and report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq.export.deploy.signatures import MultiSignatureModel
from edgeq.flatbuffer import unpack
from edgeq.flatbuffer.metadata_entries import entry_content
from edgeq.ports import LINKS_ENTRY, Port

Array = npt.NDArray[np.float32]

WIDTH, HIDDEN = 16, 24


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


INTO, OUT = normal(WIDTH, HIDDEN) / 4, normal(HIDDEN, 20, seed=2) / 5
BLANK, TOKENS = np.zeros((8, HIDDEN), np.float32), normal(16, 8, WIDTH, seed=3)
PORTS: dict[str, Any] = {"inputs": {"cache": "int8"}, "outputs": {"cache_out": "int8"}}


def step(x: Any, pos: Any, cache: Any) -> Any:
    """Writes rows into a cache and reads all of it."""
    import jax

    cache = jax.lax.dynamic_update_slice(cache, x @ INTO, (pos, 0))
    return {"y": cache.sum(0) @ OUT, "cache_out": cache}


@pytest.fixture(scope="module")
def made() -> MultiSignatureModel:
    """Prompts louder than what follows, so that the two would have scales of their own."""
    pytest.importorskip("jax")
    prompts = [{"x": 1.5 * t[:4], "pos": np.int32(0), "cache": BLANK} for t in TOKENS]
    steps = [[{"x": t[i : i + 1], "pos": np.int32(i)} for i in range(8)] for t in TOKENS]
    data = {
        "prefill": prompts,
        "decode": edgeq.Sequences(steps, {"cache": "cache_out"}, {"cache": BLANK}),
    }
    found = edgeq.export(dict.fromkeys(data, step), data, recipe="int8", progress=False, **PORTS)
    assert isinstance(found, MultiSignatureModel)
    return found


def caches(made: MultiSignatureModel) -> list[Port]:
    every = (p for e in made.signatures.values() for p in (*e.io.inputs, *e.io.outputs))
    return [port for port in every if port.name in ("cache", "cache_out")]


def test_caches_have_one_scale_in_all_signatures(made: MultiSignatureModel) -> None:
    ports = caches(made)
    assert len(ports) == 4
    assert {(port.dtype, port.qparams) for port in ports} == {("int8", ports[0].qparams)}
    assert ports[0].qparams is not None
    _, high = ports[0].qparams.range()
    assert high > np.abs(1.5 * TOKENS[:, :4] @ INTO).max() * 0.9


def test_the_file_and_the_report_say_what_is_linked(made: MultiSignatureModel) -> None:
    (link,), qparams = made.links, caches(made)[0].qparams
    content = entry_content(unpack(made.tflite), LINKS_ENTRY)
    assert qparams is not None
    assert content is not None
    expected = {
        "outputs": [{"signature": key, "name": "cache_out"} for key in ("prefill", "decode")],
        "inputs": [{"signature": key, "name": "cache"} for key in ("prefill", "decode")],
        "scale": qparams.scale[0],
        "zero_point": qparams.zero_point[0],
    }
    assert json.loads(content.decode()) == [expected] == made.report.to_dict()["links"]
    assert (
        "'cache_out' of prefill and decode is fed to 'cache' of prefill and decode without "
        f"conversion: {qparams.describe()}"
    ) in made.report.text().replace("\n", "").replace("  ", " ")
    assert link.qparams is not None
    assert link.qparams.scale == qparams.scale


def test_what_prefill_gives_is_taken_byte_by_byte(made: MultiSignatureModel) -> None:
    tokens = normal(8, WIDTH, seed=9)
    port = caches(made)[0]
    with made.session("prefill") as prefill, made.session("decode") as decode:
        cache = prefill.run(
            {"x": tokens[:4], "pos": np.array(0, np.int32), "cache": port.quantize(BLANK)}
        )["cache_out"]
        stream = decode.stream(start={"cache": cache})
        assert stream.states["cache"].tobytes() == cache.tobytes()
        real = decode.stream(start={"cache": port.dequantize(cache)})
        assert real.states["cache"].tobytes() == cache.tobytes()
        for at in range(4, 8):
            y = stream.run({"x": tokens[at : at + 1], "pos": np.array(at, np.int32)})["y"]
        assert (stream.states["cache"][:4] == cache[:4]).all()
    expected = (tokens @ INTO).sum(0) @ OUT
    assert np.abs(y - expected).max() < 0.1 * np.abs(expected).max()


def of_two(first: Any, second: Any, gain: float = 3.0) -> MultiSignatureModel:
    """A file of two functions, of which the second takes the `features` that the first gives."""
    pytest.importorskip("jax")
    rows = normal(20, WIDTH, seed=4)
    data = {"first": rows, "second": {"features": gain * rows}}
    made = edgeq.export(
        {"first": first, "second": second}, data, recipe="int8", inputs={"second": "int8"},
        outputs={"first": "int8"}, progress=False,
    )  # fmt: skip
    assert isinstance(made, MultiSignatureModel)
    return made


def head(features: Any) -> Any:
    return {"scores": features @ INTO}


def test_an_output_and_an_input_of_one_name_are_linked() -> None:
    made = of_two(lambda row: {"features": row @ (INTO @ INTO.T)}, head)
    (given,), (taken,) = made.signatures["first"].io.outputs, made.signatures["second"].io.inputs
    assert given.dtype == taken.dtype == "int8"
    assert given.qparams == taken.qparams
    assert "'features' of first is fed to 'features' of second without conv" in made.report.text()


def test_a_scale_that_kernels_dictate_is_kept_where_it_holds_all() -> None:
    import jax.numpy as jnp

    def squashed(row: Any) -> Any:
        return {"features": jnp.tanh(row @ (INTO @ INTO.T))}

    made = of_two(squashed, head, 0.1)
    (given,), (taken,) = made.signatures["first"].io.outputs, made.signatures["second"].io.inputs
    assert given.qparams == taken.qparams
    assert taken.qparams is not None
    assert taken.qparams.scale == (1 / 128,)
    louder = of_two(squashed, head, 5.0)
    assert "fed to 'features' of second with a conversion" in louder.report.text()
    assert louder.links[0].qparams is None


def test_lengths_of_one_model_are_not_linked() -> None:
    pytest.importorskip("jax")
    samples = [normal(1, length, 4, seed=length) for length in (*range(3, 10), 9)]
    data = edgeq.Buckets(samples, {"short": 6, "long": 9}, axis=1)
    made = edgeq.export(lambda x: {"x": 9 * x + 1}, data, recipe="int8", progress=False)
    assert made.links == ()
