"""`scripts/bench recurrent`: recurrent networks by auto beside their other forms, in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

AUTO, UNROLLED, FUSED, TFLITE = "auto", "unrolled float", "fused float", "TFLiteConverter dynamic"
FRAMEWORKS = ("pytorch", "keras")
SAMPLES, JUDGED = 24, 4

Array = npt.NDArray[Any]

LAYERS: dict[str, tuple[str, int, int, int, bool]] = {
    "lstm": ("LSTM", 3, 256, 160, False),
    "bilstm": ("LSTM", 2, 128, 300, True),
    "gru": ("GRU", 2, 128, 100, False),
    "vad": ("GRU", 1, 64, 1, False),
}
"""Layer, number of them, width, steps and whether they read both ways; `vad` is a step that is fed
its own state."""

WIDTH = 40
"""Of the inputs: mel bands, for example."""


def samples(name: str, seed: int = 0) -> Array:
    """Inputs that change slowly, `(N, T, I)`; of the step, sequences of 30 of them."""
    steps = 30 if name == "vad" else LAYERS[name][3]
    noise = np.random.default_rng(seed).normal(size=(SAMPLES, steps, WIDTH)).astype("f")
    for step in range(1, steps):
        noise[:, step] = 0.8 * noise[:, step - 1] + 0.6 * noise[:, step]
    return noise


def run(
    names: list[str], folder: Path, _: bool, seconds: float, console: Console
) -> Iterator[tuple[str, Any]]:
    """Measures the networks of these names; gives each name with plain values for JSON."""
    for name in names:
        network, _, framework = name.partition(":")
        place = folder / network / framework
        place.mkdir(parents=True, exist_ok=True)
        with console.status(f"{name}: exporting"):
            failed = _made(network, framework, place)
        if failed:
            console.print(f"{name}: {failed}")
            continue
        rows = _measured(network, place, seconds)
        console.print(_table(name, rows))
        yield name, rows


NAMES = tuple(f"{network}:{framework}" for network in LAYERS for framework in FRAMEWORKS)


def _made(network: str, framework: str, folder: Path) -> str:
    """Has a child write the files of a network; why it did not, where it failed."""
    bench = Path(__file__).resolve().parent.parent / "bench"
    command = [sys.executable, str(bench), "recurrent-files", network, framework, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": "tensorflow"}
    )
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1][:300]


def write_files(network: str, framework: str, folder: Path) -> None:
    """Job of the child: every form of a network, and how long its export took."""
    import edgeq
    from edgeq.export.rewrite import rewrite
    from edgeq.export.rewrite.recurrence.unrolled import REWRITES
    from edgeq.targets import TARGETS

    model, data = _network(network, framework)
    edgeq.export(*_warm(framework))  # what imports and starts once is not timed
    start = time.perf_counter()
    made = edgeq.export(model, data, min_sqnr_db=None, progress=False)
    spent = time.perf_counter() - start
    fused = made.float_model
    files = {
        AUTO: made.tflite, FUSED: fused.tflite,
        UNROLLED: rewrite(fused, TARGETS["portable"], REWRITES).tflite,
    }  # fmt: skip
    if framework == "keras":
        files[TFLITE] = _by_tflite_converter(model)
    for form, tflite in files.items():
        (folder / f"{form}.tflite").write_bytes(tflite)
    (folder / "export.json").write_text(
        json.dumps({"seconds": spent, "stages": dict(made.report.seconds)})
    )


def _warm(framework: str) -> tuple[Any, Array]:
    if framework == "keras":
        import keras

        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), np.eye(4, dtype="f")
    import torch

    return torch.nn.Linear(4, 2).eval(), np.eye(4, dtype="f")


def _network(network: str, framework: str) -> tuple[Any, Any]:
    import edgeq

    build: Callable[[str], Any] = _keras_network if framework == "keras" else _torch_network
    model, data = build(network), samples(network)
    if network != "vad":
        return model, data
    states = {"h_in": "h_out"} if framework == "pytorch" else {1: 1}
    start = {name: np.zeros((1, LAYERS["vad"][2]), "f") for name in states}
    steps = data if framework == "pytorch" else data[:, :, None]
    return model, edgeq.Sequences(list(steps), states, start)


def _torch_network(network: str) -> Any:
    import torch

    kind, layers, width, steps, both = LAYERS[network]
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            made = getattr(torch.nn, kind)
            self.layer = made(WIDTH, width, layers, batch_first=True, bidirectional=both)
            self.head = torch.nn.Linear(width * (1 + both), 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x)[0])

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = torch.nn.GRUCell(WIDTH, width), torch.nn.Linear(width, 1)

        def forward(self, x: torch.Tensor, h_in: torch.Tensor) -> dict[str, torch.Tensor]:
            h = self.cell(x, h_in)
            return {"speech": torch.sigmoid(self.head(h)), "h_out": h}

    return (Step() if steps == 1 else Network()).eval()


def _keras_network(network: str) -> Any:
    import keras
    from keras import layers

    kind, count, width, steps, both = LAYERS[network]
    keras.utils.set_random_seed(0)
    inputs = keras.Input((steps, WIDTH), batch_size=1)
    made: Callable[..., Any] = getattr(layers, kind)
    if steps == 1:
        state = keras.Input((width,), batch_size=1)
        found, after = made(width, return_state=True)(inputs, initial_state=[state])
        speech = layers.Dense(1, activation="sigmoid")(found)
        return keras.Model([inputs, state], [speech, after])
    found = inputs
    for _ in range(count):
        layer = made(width, return_sequences=True)
        found = (layers.Bidirectional(layer) if both else layer)(found)
    return keras.Model(inputs, layers.Dense(32)(found))


def _by_tflite_converter(model: Any) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def _measured(network: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Row by form."""
    from edgeq.fidelity.sqnr import Fidelity
    from edgeq.runtime.benchmark import interleaved_latency
    from edgeq.runtime.session import Session

    sessions, rows = {}, {}
    for form in (UNROLLED, FUSED, TFLITE, AUTO):
        path = folder / f"{form}.tflite"
        if path.exists():
            tflite = path.read_bytes()
            loads = []
            for _ in range(3):
                start = time.perf_counter()
                sessions[form] = Session(tflite, threads=1, trusted=True)
                loads.append(1000 * (time.perf_counter() - start))
            rows[form] = {"load_ms": min(loads), "bytes": len(tflite)}
    drawn = samples(network, seed=1)[:JUDGED]
    inputs = {form: _inputs(session, drawn) for form, session in sessions.items()}
    outputs = {form: _outputs(session, inputs[form]) for form, session in sessions.items()}
    timed = {form: (session, inputs[form][0]) for form, session in sessions.items()}
    latency = interleaved_latency(timed, seconds)
    for form, row in rows.items():
        row["ms"] = latency[form].min_ms
        row["sqnr_db"] = Fidelity.of(outputs[FUSED], outputs[form]).sqnr_db
    rows[AUTO]["export_s"] = json.loads((folder / "export.json").read_text())["seconds"]
    return rows


def _inputs(session: Any, drawn: Array) -> list[tuple[Array, ...]]:
    """Inputs of each sample in the model's order; a state is small random numbers."""
    rng = np.random.default_rng(2)
    found = []
    for sample in drawn:
        shapes = [port.shape for port in session.io.inputs]
        found.append(
            tuple(
                np.ascontiguousarray(np.resize(sample, shape), np.float32)
                if shape[-1] == WIDTH
                else rng.uniform(-0.3, 0.3, shape).astype("f")
                for shape in shapes
            )
        )
    return found


def _outputs(session: Any, inputs: list[tuple[Array, ...]]) -> Array:
    """The largest output of all samples, one behind the other."""
    made = []
    for sample in inputs:
        session.invoke(sample)
        made.append(max(session.outputs(), key=lambda array: array.size).copy())
    return np.concatenate([array.reshape(1, -1) for array in made])


def _table(name: str, rows: dict[str, Any]) -> Table:
    table = Table(title=name, title_style="bold", min_width=90)
    headings = ("", "ms", "over the fastest", "SQNR dB", "load ms", "kB", "export s")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    fastest = min(row["ms"] for row in rows.values())
    for form, row in rows.items():
        table.add_row(
            form, f"{row['ms']:.3f}", f"{row['ms'] / fastest:.2f}", f"{row['sqnr_db']:.1f}",
            f"{row['load_ms']:.1f}", f"{row['bytes'] / 1000:.0f}",
            f"{row['export_s']:.1f}" if "export_s" in row else "",
        )  # fmt: skip
    return table
