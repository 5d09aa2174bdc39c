"""A folder with one float model, its samples, and what each contestant made of them.

Whatever traces or quantizes runs in a process of its own: it may die, and its memory and threads
must not slow what is measured afterwards. A contestant that refuses or dies gives a reason.
"""

from __future__ import annotations

import importlib.util
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BENCH = Path(__file__).resolve().parent.parent / "bench"
TIMEOUT_S = 1800

Sample = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True)
class Refused:
    """Why a contestant made nothing."""

    reason: str


@dataclass(frozen=True)
class Workshop:
    """One model's folder.

    Attributes:
        folder: Where its files are.
        measure: Whether edgeq AUTO may measure times.
    """

    folder: Path
    measure: bool = True

    @property
    def float_path(self) -> Path:
        """The float .tflite."""
        return self.folder / "float.tflite"

    def trace(self, kind: str, name: str) -> Refused | None:
        """Has a child write the float model and the samples, unless they are there already."""
        if self.float_path.exists():
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        return _run("traced-model", kind, name, str(self.folder))

    def write(
        self, tflite: bytes, representative: Sequence[Sample], unseen: Sequence[Sample] = ()
    ) -> None:
        """Called by that child."""
        for name, samples in (("samples", representative), ("unseen", unseen or representative)):
            columns = [np.concatenate(column) for column in zip(*samples, strict=True)]
            np.savez(self.folder / f"{name}.npz", len(samples), *columns)
        self.float_path.write_bytes(tflite)

    def samples(self) -> list[Sample]:
        """The representative samples."""
        return self._stored("samples")

    def unseen(self) -> list[Sample]:
        """Samples that no contestant sees, where the case has such, or else what they all see."""
        return self._stored("unseen")

    def _stored(self, name: str) -> list[Sample]:
        with np.load(self.folder / f"{name}.npz") as stored:
            count, *arrays = stored.values()
        return list(zip(*(np.split(array, int(count)) for array in arrays), strict=True))

    def make(self, contestant: str) -> Path | Refused:
        """Has a child make the contestant's file."""
        path = self._path(contestant)
        path.unlink(missing_ok=True)
        options = ["--measure" if self.measure else "--no-measure"]
        return _run("made-by", contestant, str(self.folder), str(path), *options) or path

    def told(self, contestant: str) -> dict[str, Any]:
        """What edgeq's export says: its seconds, the worst output's SQNR on samples that it held
        out, and what rounding noise alone would leave."""
        path = self._path(contestant).with_suffix(".json")
        report = json.loads(path.read_text()) if path.exists() else {}
        return {
            key: report[key] for key in ("export_s", "reported_db", "bound_db") if key in report
        }

    def _path(self, contestant: str) -> Path:
        return self.folder / f"{contestant.replace(' ', '_')}.tflite"


def made_by(contestant: str, folder: Path, path: Path, measure: bool) -> None:
    """Job of the child: makes a contestant's file and runs one sample through it."""
    from edgeq.runtime.session import outputs_of

    workshop = Workshop(folder, measure)
    tflite = CONTESTANTS[contestant](workshop, path)
    outputs_of(tflite, workshop.samples()[0])
    path.write_bytes(tflite)


def _run(*arguments: str) -> Refused | None:
    """Runs a hidden command of the bench; a reason if it did not end well."""
    try:
        done = subprocess.run(
            [sys.executable, str(BENCH), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Refused(f"not done in {TIMEOUT_S} s")
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return Refused(f"died of {signal.Signals(-done.returncode).name}")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return Refused(lines[-1][:300] if lines else f"exit code {done.returncode}")


def _edgeq(recipe: str, ranges: bool = True, **passes: Any) -> Callable[[Workshop, Path], bytes]:
    """By a preset, or by one with some of its fields otherwise; `ranges` may leave rare values out.

    What the export says of itself goes beside the file.
    """

    def make(workshop: Workshop, path: Path) -> bytes:
        import edgeq
        from edgeq.export.noise import clipped_ranges
        from edgeq.recipe import PRESETS

        if not ranges:
            clipped_ranges.LEAST_GAIN_DB = math.inf
        start = time.perf_counter()
        made = edgeq.export(
            workshop.float_path,
            workshop.samples(),
            recipe=replace(PRESETS[recipe], **passes),
            min_sqnr_db=None,
            measure=workshop.measure and recipe == "auto",
            progress=False,
        )
        told = {"export_s": time.perf_counter() - start, "reported_db": made.report.sqnr_db}
        path.with_suffix(".json").write_text(json.dumps({**made.report.to_dict(), **told}))
        path.with_suffix(".txt").write_text(made.report.text())
        return made.tflite

    return make


def _named_samples(workshop: Workshop) -> tuple[str, list[dict[str, npt.NDArray[Any]]]]:
    """Key of the signature, and the samples by its input names."""
    from edgeq.flatbuffer import parse
    from edgeq.runtime.session import Session

    tflite = workshop.float_path.read_bytes()
    with Session(tflite) as session:
        names = session.input_names
    named = [dict(zip(names, sample, strict=True)) for sample in workshop.samples()]
    return parse(tflite).signatures[0].key, named


def _peer_static(workshop: Workshop, _: Path) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    key, samples = _named_samples(workshop)
    # Inputs and outputs stay float, as edgeq leaves them: all take the same samples.
    ports = [
        {"regex": ".*", "operation": port, "algorithm_key": "no_quantize"}
        for port in ("INPUT", "OUTPUT")
    ]
    made = quantizer.Quantizer(str(workshop.float_path), [*recipe.static_wi8_ai8(), *ports])
    return bytes(made.quantize(made.calibrate({key: samples})).quantized_model)


def _peer_dynamic(workshop: Workshop, _: Path) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(str(workshop.float_path), recipe.dynamic_wi8_afp32())
    return bytes(made.quantize().quantized_model)


def _tensorflow(workshop: Workshop, _: Path) -> bytes:
    """What TFLiteConverter does with `experimental_new_quantizer=False` once it has converted.

    Its newer quantizer leaves the weights of files from other converters float.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise SystemExit("tensorflow is not installed")
    import tensorflow
    from tensorflow.lite.python.optimize import calibrator

    samples = workshop.samples()

    def generate() -> Iterator[list[npt.NDArray[Any]]]:
        yield from (list(sample) for sample in samples)

    made = calibrator.Calibrator(workshop.float_path.read_bytes())
    float32 = tensorflow.float32
    return bytes(made.calibrate_and_quantize(generate, float32, float32, allow_float=True))


FOUR_BIT = tuple(
    f"edgeq {preset} {rounding}"
    for preset in ("weight_int4", "blocks of 32")
    for rounding in ("nearest", "gptq", "reconstruct")
)
"""Weights of 4 bits with a scale for each channel, or for 32 columns of it, and how they are
rounded."""


def _four_bit(contestant: str) -> Callable[[Workshop, Path], bytes]:
    rounding = contestant.rpartition(" ")[2]
    if "blocks" in contestant:
        return _edgeq("dynamic_int4", block_size=32, rounding=rounding)
    return _edgeq("weight_int4", rounding=rounding)


CONTESTANTS: dict[str, Callable[[Workshop, Path], bytes]] = {
    "edgeq auto": _edgeq("auto"),
    "edgeq int8": _edgeq("int8"),
    "edgeq int8 nothing": _edgeq("int8", ranges=False, rounding="nearest", equalize=False),
    "edgeq int8 ranges": _edgeq("int8", rounding="nearest", equalize=False),
    "edgeq int8 rounded once": _edgeq("int8", ranges=False, rounding="gptq_once", equalize=False),
    "edgeq int8 rounded twice": _edgeq("int8", ranges=False, equalize=False),
    "edgeq int8 scaled": _edgeq("int8", ranges=False, rounding="gptq_once"),
    "edgeq int8 reconstruct": _edgeq("int8", rounding="reconstruct"),
    **{name: _four_bit(name) for name in FOUR_BIT},
    "edgeq dynamic": _edgeq("dynamic_int8"),
    "edgeq weight_int8": _edgeq("weight_int8"),
    "edgeq float16": _edgeq("float16"),
    "ai-edge-quantizer static": _peer_static,
    "ai-edge-quantizer dynamic": _peer_dynamic,
    "TFLiteConverter int8": _tensorflow,
}
"""Who makes a file of a float model, by name."""
