"""`edgeq calibrate`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import NAMED
from edgeq.cli.app import app
from edgeq.cli.failing import errors_as_sentences
from edgeq.cli.inputs import load_data, load_model, port_spec
from edgeq.cli.options import (
    Data,
    DataConfig,
    DataOptions,
    InputTypes,
    Layout,
    Model,
    OutputTypes,
    Overwrite,
    PortRange,
    RecipeName,
    TargetName,
    Threads,
)
from edgeq.cli.state_options import States, StateStart
from edgeq.cli.writing import JSON, check_outputs, say


@app.command(
    epilog="Examples:\n\n"
    "edgeq calibrate model.tflite --data images.npy -o calibration.json --observer percentile\n\n"
    "edgeq calibrate model.tflite --data images.npy -o calibration.json --resume\n\n"
    "edgeq export model.tflite --data images.npy --calibration calibration.json -o int8.tflite"
)
def calibrate(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the .json.")],
    data_config: DataConfig = None,
    data_option: DataOptions = None,
    state: States = None,
    state_start: StateStart = None,
    observer: Annotated[str, typer.Option(help=f"One of {', '.join(NAMED)}.")] = "minmax",
    recipe: RecipeName = "auto",
    target: TargetName = "xnnpack",
    inputs: InputTypes = None,
    outputs: OutputTypes = None,
    input_range: PortRange = None,
    output_range: PortRange = None,
    layout: Layout = None,
    resume: Annotated[bool, typer.Option(help="Go on where an earlier run ended.")] = False,
    save_every: Annotated[float, typer.Option(help="Seconds between saves.", min=0.0)] = 5.0,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Measures the ranges of a model's tensors on data and writes them to a file.

    What has been seen is saved every few seconds beside the output, as OUTPUT.partial. After an
    interruption --resume skips the samples that it holds, and ends with the same file as a run
    without the interruption.
    """
    from edgeq.export.pipeline import calibrate as run

    with errors_as_sentences():
        check_outputs(overwrite, ("--output", output, JSON))
        partial = output.with_name(f"{output.name}.partial")
        start = Calibration.load(partial) if resume and partial.exists() else None
        if start is not None:
            say(f"going on behind {start.samples} samples")
        checkpoint = _Checkpoint(partial, save_every)
        advice: list[str] = []
        made = run(
            load_model(model), load_data(data, data_config, data_option, model, state, state_start),
            observer=observer, start=start, checkpoint=checkpoint, on_advice=advice.extend,
            threads=threads, layout=layout, recipe=recipe, target=target,
            inputs=port_spec(inputs, input_range), outputs=port_spec(outputs, output_range),
        )  # fmt: skip
        made.save(output)
        partial.unlink(missing_ok=True)
        say(f"wrote {output}: {made.samples} samples")
        for sentence in advice:
            say(f"note: {sentence}")


class _Checkpoint:
    """Saves a calibration from time to time."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, state: Callable[[], Calibration]) -> None:
        if time.monotonic() - self._last >= self._seconds:
            state().save(self._path)
            self._last = time.monotonic()
