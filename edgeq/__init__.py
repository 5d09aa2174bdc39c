"""edgeq: a float model in, a small, fast and verified int8 LiteRT model out."""

from edgeq.calibrate.calibration import Calibration
from edgeq.errors import (
    ConversionError,
    DataError,
    DependencyError,
    EdgeqError,
    ModelError,
    RecipeError,
    UnsupportedOpError,
    VerificationError,
)
from edgeq.export.edgemodel import EdgeModel
from edgeq.export.pipeline import calibrate, export
from edgeq.linter import LintResult, lint
from edgeq.recipe import Mode, Recipe, Rule

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "ConversionError",
    "DataError",
    "DependencyError",
    "EdgeModel",
    "EdgeqError",
    "LintResult",
    "Mode",
    "ModelError",
    "Recipe",
    "RecipeError",
    "Rule",
    "UnsupportedOpError",
    "VerificationError",
    "calibrate",
    "export",
    "lint",
]
