"""edgeq: a float model in, a small, fast and verified int8 LiteRT model out."""

import importlib
from types import ModuleType

from edgeq.argument_types import DataLike, ModelLike
from edgeq.calibrate.calibration import Calibration
from edgeq.compare.check import check
from edgeq.compare.compare_models import compare, evaluate
from edgeq.compare.debug import debug
from edgeq.data.buckets import Buckets
from edgeq.data.sequences import Sequences
from edgeq.errors import (
    ConversionError,
    DataError,
    DelegateError,
    DependencyError,
    EdgeqError,
    ModelError,
    ProcessKilledError,
    RecipeError,
    UnsupportedOpError,
    VerificationError,
)
from edgeq.export.deploy.signatures import MultiSignatureModel
from edgeq.export.edge_model import EdgeModel
from edgeq.export.frontends.dequantize import dequantize
from edgeq.export.html_report import write_report
from edgeq.export.pipeline import calibrate, export, plan
from edgeq.export.plan.planned_model import PlannedModel
from edgeq.goal.metric_search import SearchResult, search
from edgeq.linter import LintResult, lint
from edgeq.recipe import AUTO, INT8, Mode, Recipe, Rule
from edgeq.report.comparison import Comparison
from edgeq.report.diagnosis import Diagnosis
from edgeq.report.thresholds import Thresholds
from edgeq.report.verdict import CheckResult
from edgeq.targets.edgetpu_compiler import compile_edgetpu

__version__ = "0.1.0"

__all__ = [
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


def __getattr__(name: str) -> ModuleType:
    """Imports `edgeq.qat`, which needs PyTorch, when it is asked for."""
    if name != "qat":
        raise AttributeError(f"module 'edgeq' has no attribute {name!r}")
    return importlib.import_module("edgeq.qat")
