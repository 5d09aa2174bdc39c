"""The example that writes down speech, on a Whisper of one layer with random weights."""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from example_programs import program

import edgeq

Array = npt.NDArray[np.float32]

WIDTH, VOCABULARY, BINS = 64, 50, 80


@pytest.fixture(scope="module", name="program")
def speech_to_text() -> ModuleType:
    return program("speech_to_text")


def weights() -> dict[str, Array]:
    """What CTranslate2 calls the weights of a Whisper."""
    random = np.random.default_rng(0)
    found = {
        "encoder/position_encodings/encodings": random.normal(size=(500, WIDTH)),
        "decoder/position_encodings/encodings": random.normal(size=(64, WIDTH)),
        "decoder/embeddings/weight": random.normal(size=(VOCABULARY, WIDTH)),
    }

    def dense(name: str, rows: int, columns: int, *kernel: int) -> None:
        scale = np.sqrt(columns)
        found[f"{name}/weight"] = random.normal(size=(rows, columns, *kernel)) / scale
        found[f"{name}/bias"] = random.normal(size=rows) / 10

    def norm(name: str) -> None:
        found[f"{name}/gamma"] = random.uniform(0.5, 2, WIDTH)
        found[f"{name}/beta"] = random.normal(size=WIDTH) / 10

    dense("encoder/conv1", WIDTH, BINS, 3)
    dense("encoder/conv2", WIDTH, WIDTH, 3)
    for side in ("encoder", "decoder"):
        layer = f"{side}/layer_0"
        for part in (f"{layer}/self_attention", f"{layer}/attention", f"{layer}/ffn", side):
            norm(f"{part}/layer_norm")
        dense(f"{layer}/self_attention/linear_0", 3 * WIDTH, WIDTH)
        dense(f"{layer}/self_attention/linear_1", WIDTH, WIDTH)
        dense(f"{layer}/attention/linear_0", WIDTH, WIDTH)
        dense(f"{layer}/attention/linear_1", 2 * WIDTH, WIDTH)
        dense(f"{layer}/attention/linear_2", WIDTH, WIDTH)
        dense(f"{layer}/ffn/linear_0", 4 * WIDTH, WIDTH)
        dense(f"{layer}/ffn/linear_1", WIDTH, 4 * WIDTH)
    return {name: array.astype(np.float32) for name, array in found.items()}


def written(arrays: dict[str, Array], aliases: dict[str, str]) -> bytes:
    """A CTranslate2 file, every second array in float16."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    made = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for number, (name, array) in enumerate(arrays.items()):
        stored = array.astype(np.float16) if number % 2 else array
        made += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        made += struct.pack("<BI", 4 if number % 2 else 0, stored.nbytes) + stored.tobytes()
    made += struct.pack("<I", len(aliases))
    return made + b"".join(text(alias) + text(name) for alias, name in aliases.items())


def test_weights_are_read_from_a_file(program: ModuleType) -> None:
    arrays = weights()
    alias = {"decoder/projection/weight": "decoder/embeddings/weight"}
    found = program.variables(written(arrays, alias))
    assert found.keys() == arrays.keys() | alias.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(found[name], array, atol=2e-3, rtol=1e-3)
    assert found["decoder/projection/weight"].dtype == np.float32


@pytest.mark.slow
def test_the_exported_step_carries_the_caches(program: ModuleType) -> None:
    encoder, step = program.networks(weights())
    random = np.random.default_rng(1)
    with torch.no_grad():
        sound = torch.from_numpy(random.normal(size=(1, BINS, 1000)).astype(np.float32))
        keys, values = encoder(sound)
    assert keys.shape == values.shape == (1, 1, 500, 64)
    start = {name: np.zeros((1, 1, program.STEPS, 64), np.float32) for name in program.STATES}
    shared = {"sound_keys": keys.numpy(), "sound_values": values.numpy()}
    tokens = random.integers(0, VOCABULARY, (4, 12)).astype(np.int32)
    spoken = [
        [{"token": t.reshape(1, 1), "position": np.array([p], np.int32), **shared}
         for p, t in enumerate(sequence)]
        for sequence in tokens
    ]  # fmt: skip
    data = edgeq.Sequences(spoken, program.STATES, start)
    made = edgeq.export(step, data, recipe="dynamic_int8", progress=False)
    stream = made.session().stream()
    caches: dict[str, Any] = {name: torch.from_numpy(array) for name, array in start.items()}
    for given in spoken[0]:
        scores = stream.run(given)["scores"]
        with torch.no_grad():
            tensors = {name: torch.from_numpy(array) for name, array in given.items()}
            expected = step(**tensors, **caches)
        caches = {name: expected[of] for name, of in program.STATES.items()}
        error = np.square(scores - expected["scores"].numpy()).mean()
        assert error < 1e-3 * np.square(expected["scores"].numpy()).mean()
