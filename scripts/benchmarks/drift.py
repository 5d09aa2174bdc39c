"""`scripts/bench drift`: streaming models over a thousand steps, each carrying its own states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

STEPS, SEQUENCES = 1000, 96
"""Of a fourth of the sequences, ten steps tell SQNR to a dB alone."""

WINDOWS = (slice(5, 15), slice(95, 105), slice(990, 1000))
"""Steps around the 10th and the 100th, and the last ones."""

RECIPES: dict[str, dict[str, Any]] = {
    "int8": {"recipe": "int8", "inputs": "int8", "outputs": "int8"},
    "auto": {"recipe": "auto"},
}
MODELS = ("conv", "gru", "vad")
"""A causal convolution of two layers, a GRU cell, and a detector of speech with an LSTM."""

NAMES = tuple(f"{model}:{framework}" for model in MODELS for framework in ("pytorch", "keras"))

Array = npt.NDArray[Any]


def run(
    names: list[str], folder: Path, _: bool, __: float, console: Console
) -> Iterator[tuple[str, Any]]:
    """Measures the models of these names; gives each name with plain values for JSON."""
    bench = Path(__file__).resolve().parent.parent / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"drift-{name.replace(':', '-')}.json"
        command = [sys.executable, str(bench), "drift-of", *name.split(":"), str(path)]
        with console.status(f"{name}: exporting"):
            done = subprocess.run(
                command, capture_output=True, text=True,
                env={**os.environ, "KERAS_BACKEND": "tensorflow"},
            )  # fmt: skip
        if done.returncode:
            console.print(f"{name}: {done.stderr.strip().splitlines()[-1][:300]}")
            continue
        rows = json.loads(path.read_text())
        console.print(_table(name, rows))
        yield name, rows


def measure(model: str, framework: str, path: Path) -> None:
    """Job of the child: SQNR of each output and state along unseen sequences, by recipe."""
    import edgeq

    network, states, shapes, step = (_keras if framework == "keras" else _torch)(model)
    start = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    data = edgeq.Sequences([list(s[:, None]) for s in _drawn(16, 60, step)], states, start)
    unseen = _drawn(SEQUENCES, STEPS, step, seed=1)
    rows = []
    for recipe, options in RECIPES.items():
        edge = edgeq.export(network, data, progress=False, **options)
        ports = {port.name: port for port in (*edge.io.inputs, *edge.io.outputs)}
        tied = all(ports[one].qparams == ports[other].qparams for one, other in edge.io.states)
        for name, (real, held) in _followed(edge, unseen).items():
            rows.append({
                "recipe": recipe, "name": name, "tied": tied,
                "windows_db": [_db(real[:, w], held[:, w]) for w in WINDOWS],
                "later_db": _db(real[:, 100:], held[:, 100:]),
            })  # fmt: skip
    path.write_text(json.dumps(rows))


def _followed(edge: Any, unseen: Array) -> dict[str, tuple[Array, Array]]:
    """Outputs and states of the float model and of `edge`, `(N, T, ...)` each."""
    from edgeq.runtime import Session

    ports = {port.name: port for port in edge.io.inputs}
    seen: dict[str, list[tuple[Array, Array]]] = {}
    with edge.session(threads=1) as other, Session(edge.float_model.tflite, threads=1) as own:
        for sequence in unseen:
            streams = own.stream(dict(edge.io.states)), other.stream()
            for x in sequence:
                made = [stream.run(x[None], real=True) for stream in streams]
                for name in made[0]:
                    seen.setdefault(name, []).append((made[0][name], made[1][name]))
                for name, state in streams[0].states.items():
                    held = ports[name].dequantize(streams[1].states[name])
                    seen.setdefault(name, []).append((state, held))
    return {name: _stacked(pairs, len(unseen)) for name, pairs in seen.items()}


def _stacked(pairs: list[tuple[Array, Array]], sequences: int) -> tuple[Array, Array]:
    one, other = (
        np.stack(arrays).reshape(sequences, STEPS, -1) for arrays in zip(*pairs, strict=True)
    )
    return one, other


def _db(real: Array, held: Array) -> float:
    noise = float(np.square(real - held).sum())
    return float(10 * np.log10(float(np.square(real).sum()) / max(noise, 1e-30)))


def _drawn(count: int, steps: int, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Inputs that change slowly, `(count, steps, ...)`."""
    noise = np.random.default_rng(seed).normal(size=(steps, count, *shape))
    for step in range(1, steps):
        noise[step] = 0.9 * noise[step - 1] + 0.4 * noise[step]
    return noise.swapaxes(0, 1).astype(np.float32)


def _torch(name: str) -> tuple[Any, dict[Any, Any], dict[Any, tuple[int, ...]], tuple[int, ...]]:
    """The model, its states, their shapes, and that of a step without the batch."""
    import torch
    from torch import Tensor, nn

    torch.manual_seed(0)

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(16, 32, 3), nn.Conv1d(32, 32, 3, dilation=2)
            self.head = nn.Conv1d(32, 8, 1)

        def forward(self, x: Tensor, past: Tensor, later: Tensor) -> dict[str, Tensor]:
            window = torch.cat([past, x], 2)
            y = torch.relu(self.first(window))
            wide = torch.cat([later, y], 2)
            y = torch.relu(self.second(wide)) + y
            return {"y": self.head(y), "past_out": window[..., 1:], "later_out": wide[..., 1:]}

    class Gru(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(40, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor, h: Tensor) -> dict[str, Tensor]:
            h = self.cell(x, h)
            return {"y": self.head(h), "h_out": h}

    class Vad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(40, 64, 3, stride=2), nn.Conv1d(64, 64, 3)
            self.cell, self.head = nn.LSTMCell(64, 64), nn.Linear(64, 1)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
            y = torch.relu(self.second(torch.relu(self.first(x)))).flatten(1)
            h, c = self.cell(y, (h, c))
            speech = torch.sigmoid(self.head(torch.relu(h)))
            return {"speech": speech, "h_out": h, "c_out": c}

    made: dict[str, tuple[Any, dict[Any, tuple[int, ...]], tuple[int, ...]]] = {
        "conv": (Conv, {"past": (1, 16, 2), "later": (1, 32, 4)}, (16, 1)),
        "gru": (Gru, {"h": (1, 64)}, (40,)),
        "vad": (Vad, {"h": (1, 64), "c": (1, 64)}, (40, 8)),
    }
    kind, shapes, step = made[name]
    return kind().eval(), {state: f"{state}_out" for state in shapes}, shapes, step


def _keras(name: str) -> tuple[Any, dict[Any, Any], dict[Any, tuple[int, ...]], tuple[int, ...]]:
    """The same of Keras, whose states are told by their places."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = {
        "conv": [(1, 16), (2, 16), (4, 32)], "gru": [(40,), (64,)], "vad": [(8, 40), (64,), (64,)],
    }[name]  # fmt: skip
    x, *states = (keras.Input(shape, batch_size=1) for shape in inputs)
    if name == "conv":
        window = layers.Concatenate(axis=1)([states[0], x])
        y = layers.Conv1D(32, 3, activation="relu")(window)
        wide = layers.Concatenate(axis=1)([states[1], y])
        y = layers.Add()([layers.Conv1D(32, 3, dilation_rate=2, activation="relu")(wide), y])
        outputs = [layers.Dense(8)(y), window[:, 1:], wide[:, 1:]]
    elif name == "gru":
        y, after = layers.GRUCell(64)(x, states)
        outputs = [layers.Dense(10)(y), *after]
    else:
        y = layers.Conv1D(64, 3, strides=2, activation="relu")(x)
        y = layers.Conv1D(64, 3, activation="relu")(y)
        y, *after = layers.LSTM(64, return_state=True)(y, initial_state=states)
        outputs = [layers.Dense(1, activation="sigmoid")(layers.ReLU()(y)), *after]
    places = range(1, len(inputs))
    shapes = {place: (1, *inputs[place]) for place in places}
    return keras.Model([x, *states], outputs), {place: place for place in places}, shapes, inputs[0]


def _table(name: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=name, title_style="bold", min_width=90)
    for heading in ("", "", "step 10, dB", "step 100", "step 1,000", "from 100 on", "one scale"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        numbers = (*row["windows_db"], row["later_db"])
        tied = "yes" if row["tied"] else "no"
        table.add_row(row["recipe"], row["name"], *(f"{n:.1f}" for n in numbers), tied)
    return table
