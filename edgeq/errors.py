"""The exception tree of edgeq; every error raised on purpose is in it.

EdgeqError
├── ModelError             the model cannot be read, traced or understood
│   └── UnsupportedOpError an op of the model has no form in the wanted mode
├── DataError              representative data of a wrong shape, dtype, name or value
├── RecipeError            a rule or recipe that makes no sense for this model
├── ConversionError        the converter refused the model, or died on it
├── VerificationError      the exported file breaks a promise of its plan
├── ProcessKilledError     a child process was killed from outside or had no memory, twice
├── DelegateError          a delegate's library or device cannot be used
└── DependencyError        an optional package is missing or of an untested version

A message says where (layer path, op, sample, input), what was found, why that is wrong, and what to
do about it. Nothing here knows any other module.
"""

from __future__ import annotations


class EdgeqError(Exception):
    """Root of every error that edgeq raises on purpose."""


class ModelError(EdgeqError):
    """The model cannot be read, traced or understood."""


class UnsupportedOpError(ModelError):
    """An op of the model has no form in the mode that the recipe asks for."""


class DataError(EdgeqError):
    """Representative data of a wrong shape, dtype, name or value."""


class RecipeError(EdgeqError):
    """A rule or recipe that makes no sense for this model."""


class ConversionError(EdgeqError):
    """The converter refused the model, or its process died on it."""


class VerificationError(EdgeqError):
    """The exported file breaks a promise of its plan."""


class ProcessKilledError(EdgeqError):
    """A child process was killed from outside or had no memory, and so had the one after it.

    It says nothing of the model, so that no other result may come of it.
    """


class DelegateError(EdgeqError):
    """A delegate's library or device is missing, busy or refuses to serve."""


class DependencyError(EdgeqError):
    """An optional package is missing, or of a version that edgeq was not tested with."""
