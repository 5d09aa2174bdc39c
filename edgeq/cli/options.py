"""The options that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.argument_types import ImageLayoutName
from edgeq.export.portspec import DTYPES
from edgeq.export.search.devices import DEFAULT, DEVICES
from edgeq.fidelity.metrics import BUILT_IN
from edgeq.recipe import PRESETS
from edgeq.targets import TARGETS

MODEL_HELP = (
    "A float .tflite or .onnx file, a SavedModel folder, a .keras, .h5, .pt2 or TorchScript file, "
    "or module:function that returns a model of PyTorch, JAX, Flax, Keras or TensorFlow."
)


Model = Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")]


FloatSide = Annotated[str, typer.Argument(help=MODEL_HELP, metavar="FLOAT")]


Data = Annotated[
    str,
    typer.Option(
        help="Representative inputs: .npy (N, ...), .npz (one array an input), .csv (one row a "
        "sample), a folder of images, .wav or .npy files, or module:function."
    ),
]


TargetName = Annotated[str, typer.Option(help=f"Where the model will run: {', '.join(TARGETS)}.")]


RECIPE_HELP = f"One of {', '.join(PRESETS)}, or a recipe as .json or .yaml."


RecipeName = Annotated[str, typer.Option(help=RECIPE_HELP)]


Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict/--no-strict",
        help="Whether an op that cannot be int8 as the recipe wants is an error, or stays float.",
        show_default="strict for targets that compute in integers alone",
    ),
]


CalibrationFile = Annotated[Path | None, typer.Option(help="Plan by this file of edgeq calibrate.")]


DataConfig = Annotated[
    Path | None, typer.Option(help="Options of the data as .json or .yaml, such as size: 224x224.")
]


DataOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--data-option", metavar="KEY=VALUE",
        help="One option of the data, which wins over --data-config; may be repeated. Images: "
        "size, crop, resize, mean, std, scale, layout, color. Sound: length.",
    ),
]  # fmt: skip


Threads = Annotated[
    int | None,
    typer.Option(help="Samples that run side by side; by default one for each CPU.", min=1),
]


Overwrite = Annotated[bool, typer.Option(help="Replace an existing output.")]


Measure = Annotated[
    bool,
    typer.Option(help="Let recipe auto decide by times measured on this machine."),
]


CostTable = Annotated[
    Path | None,
    typer.Option(help="What recipe auto estimates times by: a file of edgeq bench --fit."),
]


DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        help=f"What recipe auto plans for: {', '.join(DEVICES)}, or a file of edgeq bench --fit.",
        show_default=DEFAULT,
    ),
]


GoalDb = Annotated[
    float,
    typer.Option(
        "--goal-db", "--goal-sqnr",
        help="SQNR in dB from which on recipe auto takes the fastest plan.",
    ),
]  # fmt: skip


MinSqnrDb = Annotated[
    float | None,
    typer.Option("--min-sqnr-db", "--min-sqnr", help="Lowest SQNR in dB an output may have."),
]


LabelsFile = Annotated[
    Path | None, typer.Option(help="Right class of each sample, .npy (N,); adds the accuracy.")
]


Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help=f"What to compute from outputs and labels: {', '.join(BUILT_IN)}, or "
        "module:function of (outputs, targets); may be repeated.",
    ),
]


OutputName = Annotated[
    str | None, typer.Option(help="Output that metrics look at, if there are several.")
]


PortRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="LOW HIGH",
        help="Range of its real numbers that is known beforehand, instead of measured.",
    ),
]


PORTS_DEFAULT = "float32" + "".join(
    f", for {target.title} {target.port_type}"
    for target in TARGETS.values()
    if target.port_type != "float32"
)


InputTypes = Annotated[
    str | None,
    typer.Option(help=f"What the app passes: {', '.join(DTYPES)}.", show_default=PORTS_DEFAULT),
]


OutputTypes = Annotated[
    str | None, typer.Option(help="What the app gets, likewise.", show_default=PORTS_DEFAULT)
]


MinRuntime = Annotated[
    str | None,
    typer.Option(help="Oldest TensorFlow Lite version that will run the file, such as 2.14."),
]


Layout = Annotated[
    ImageLayoutName | None,
    typer.Option(help="nhwc: take and give images as NHWC where the model has NCHW."),
]


Page = Annotated[
    Path | None, typer.Option("--report", help="Also write a page to look at, as .html.")
]


JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write it as JSON.")]
