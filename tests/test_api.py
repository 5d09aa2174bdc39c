"""What `import edgeq` gives, what it does not drag in, and that exports repeat to the byte."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq import errors
from edgeq.export.edge_model import EdgeModel
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

PUBLIC = [
    "AUTO",
    "INT8",
    "Buckets",
    "Calibration",
    "CheckResult",
    "Comparison",
    "ConversionError",
    "DataError",
    "DataLike",
    "DelegateError",
    "DependencyError",
    "Diagnosis",
    "EdgeModel",
    "EdgeqError",
    "LintResult",
    "Mode",
    "ModelError",
    "ModelLike",
    "MultiSignatureModel",
    "PlannedModel",
    "ProcessKilledError",
    "Recipe",
    "RecipeError",
    "Rule",
    "SearchResult",
    "Sequences",
    "Thresholds",
    "UnsupportedOpError",
    "VerificationError",
    "calibrate",
    "check",
    "compare",
    "compile_edgetpu",
    "debug",
    "dequantize",
    "evaluate",
    "export",
    "lint",
    "plan",
    "search",
    "write_report",
]

HEAVY = ["torch", "jax", "keras", "tensorflow", "litert_torch", "litert_converter", "typer", "ray"]


def test_the_public_names_are_these() -> None:
    assert edgeq.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    assert inspect.getdoc(getattr(edgeq, name))


def test_the_version_is_that_of_the_package() -> None:
    assert edgeq.__version__ == importlib.metadata.version("edgeq")


def test_every_error_is_caught_by_the_root() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert len(kinds) == 10
    assert all(issubclass(kind, edgeq.EdgeqError) for kind in kinds)
    assert issubclass(edgeq.UnsupportedOpError, edgeq.ModelError)
    assert {kind.__name__ for kind in kinds} <= set(edgeq.__all__)


def fresh(source: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import edgeq.export.plan.planner, edgeq.data.rep_dataset",
        "from edgeq.data.rep_dataset import RepDataset; from edgeq.export.frontends import torch",
        "import importlib; importlib.import_module('edgeq.export.pipeline'); import edgeq.cli",
        "from edgeq.compare.compare_models import compare; import edgeq.report.comparison",
    ],
)
def test_functions_win_over_the_packages_that_share_their_names(statement: str) -> None:
    source = (
        f"{statement}\nimport edgeq, inspect\n"
        "names = 'export', 'calibrate', 'compare', 'evaluate'\n"
        "print([inspect.isfunction(getattr(edgeq, name)) for name in names])"
    )
    assert fresh(source) == str([True] * 4)


def test_importing_edgeq_imports_no_framework() -> None:
    source = f"import sys, edgeq\nprint([m for m in {HEAVY} if m in sys.modules])"
    assert fresh(source) == "[]"


def test_exporting_a_tflite_imports_no_framework(demo_model: LiteModel) -> None:
    """Nor does the converter, which may kill its process, ever come into this one."""
    source = (
        "import sys, edgeq\nfrom edgeq import demo\n"
        "edgeq.export(demo.float_model_path(), demo.load_data().calibration[:10])\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    assert fresh(source) == "[]"


@pytest.mark.parametrize("recipe", ["int8", "auto"])
def test_exporting_twice_gives_the_same_bytes(
    recipe: str, demo_model: LiteModel, demo_images: npt.NDArray[np.float32]
) -> None:
    """Whatever form the same data has."""
    made, again = (
        edgeq.export(demo_model.tflite, data, recipe=recipe, progress=False)
        for data in (demo_images, lambda: iter(demo_images[:, None]))
    )
    assert again.tflite == made.tflite
    assert again.plan == made.plan
    assert again.calibration == made.calibration


def test_an_exported_model_runs_and_tells_its_inputs(
    exported: EdgeModel, demo_model: LiteModel, demo_images: npt.NDArray[np.float32]
) -> None:
    (port,) = exported.io.inputs
    image = demo_images[:1]
    assert (port.name, port.shape, port.dtype) == (
        demo_model.signature.inputs[0][0], image.shape, "float32",
    )  # fmt: skip
    with exported.session() as session, Session(demo_model.tflite) as reference:
        found, expected = session.run(image), reference.run({port.name: image})
    assert found.keys() == expected.keys() == {p.name for p in exported.io.outputs}
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < 0.2 * np.abs(value).max()


def test_models_show_themselves_in_a_line(exported: EdgeModel, demo_model: LiteModel) -> None:
    assert re.fullmatch(
        r"EdgeModel\(recipe='int8', target='xnnpack', [\d.]+ kB, 0\.\d\d of float, SQNR "
        r"[\d.]+ dB, [\d.]+ of float's time here\)",
        repr(exported),
    )
    assert re.fullmatch(r"LiteModel\(from tflite, \d+ ops, [\d.]+ kB\)", repr(demo_model))


def test_the_annotated_model_can_be_read(exported: EdgeModel) -> None:
    text = exported.annotated_mlir()
    assert text.count('stablehlo.composite "quant.fake_quant"') == (
        len(exported.plan.tensors) + len(exported.plan.operands)
    )


def test_a_ruled_out_model_does_not_reach_the_data() -> None:
    """A recipe or target that makes no sense is told before any work."""

    def samples() -> object:
        raise AssertionError("the data was read")

    with pytest.raises(edgeq.RecipeError, match="target must be one of xnnpack"):
        edgeq.export(b"", samples, target="moon")
    with pytest.raises(edgeq.RecipeError, match="neither a preset"):
        edgeq.export(b"", samples, recipe="int9")


@pytest.mark.parametrize("model", [7, None, {}, object()])
def test_what_is_no_model_is_told_by_its_type(model: object) -> None:
    with pytest.raises(edgeq.ModelError, match=rf"Received: builtins\.{type(model).__name__}"):
        edgeq.export(model, np.zeros((1, 4), np.float32))


def test_an_exported_model_is_not_exported_again(exported: EdgeModel) -> None:
    with pytest.raises(edgeq.ModelError, match="the model is quantized already"):
        edgeq.export(exported.tflite, np.zeros((1, 1, 28, 28), np.float32))
