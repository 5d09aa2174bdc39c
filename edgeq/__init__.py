"""edgeq: a float model in, a small, fast and verified int8 LiteRT model out."""

import importlib
from types import ModuleType

from edgeq.calibrate.calibration import Calibration
from edgeq.compiler import compile_edgetpu
from edgeq.errors import (
    ConversionError,
    DataError,
    DelegateError,
    DependencyError,
    EdgeqError,
    ModelError,
    RecipeError,
    UnsupportedOpError,
    VerificationError,
)
from edgeq.export.checking import check
from edgeq.export.comparison import compare, evaluate
from edgeq.export.debugging import debug
from edgeq.export.dequantize import dequantize
from edgeq.export.edgemodel import EdgeModel
from edgeq.export.pipeline import calibrate, export, plan
from edgeq.export.planned import PlannedModel
from edgeq.export.reporting import write_report
from edgeq.export.signatures import MultiSignatureModel
from edgeq.linter import LintResult, lint
from edgeq.recipe import Mode, Recipe, Rule
from edgeq.report.check import CheckResult
from edgeq.report.comparison import Comparison
from edgeq.report.diagnosis import Diagnosis
from edgeq.thresholds import Thresholds

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "CheckResult",
    "Comparison",
    "ConversionError",
    "DataError",
    "DelegateError",
    "DependencyError",
    "Diagnosis",
    "EdgeModel",
    "EdgeqError",
    "LintResult",
    "Mode",
    "ModelError",
    "MultiSignatureModel",
    "PlannedModel",
    "Recipe",
    "RecipeError",
    "Rule",
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
    "write_report",
]


def __getattr__(name: str) -> ModuleType:
    """Imports `edgeq.qat`, which needs PyTorch, when it is asked for."""
    if name != "qat":
        raise AttributeError(f"module 'edgeq' has no attribute {name!r}")
    return importlib.import_module("edgeq.qat")
