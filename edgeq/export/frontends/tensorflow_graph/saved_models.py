"""SavedModel folders, and which of their signatures is exported.

Importing it does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeq.errors import ModelError
from edgeq.export.frontends.arguments import first_line

SERVING = "serving_default"
"""The signature that is exported."""


def loaded_from(folder: str) -> Any:
    import tensorflow as tf

    try:
        return tf.saved_model.load(folder)
    except Exception as error:
        raise ModelError(
            f"TensorFlow cannot load the SavedModel {folder}: {first_line(error)}"
        ) from None


def served(loaded: Any, folder: str) -> Any:
    """The signature that is exported: the only one, or that which serves."""
    keys = list(loaded.signatures)
    if SERVING not in keys and len(keys) != 1:
        raise ModelError(
            f"the SavedModel {folder} has no signature {SERVING!r}; its signatures are: "
            f"{', '.join(keys) or 'none'}. {_one_of(keys)}"
        )
    return loaded.signatures[SERVING if SERVING in keys else keys[0]]


def _one_of(keys: Sequence[str]) -> str:
    """How another signature of a SavedModel is exported."""
    if not keys:
        return (
            f"Save it with tf.saved_model.save(model, folder, signatures={{{SERVING!r}: function}})"
        )
    both = ", ".join(f"{key!r}: loaded.signatures[{key!r}]" for key in keys)
    return (
        f"Load it with tf.saved_model.load and export one of them, or all in one file: {{{both}}}"
    )


def left_out(loaded: Any, folder: str) -> tuple[str, ...]:
    """A note on the signatures that are not exported."""
    kept = served(loaded, folder)
    others = [key for key, function in loaded.signatures.items() if function is not kept]
    if not others:
        return ()
    listed = " and ".join(map(repr, others))
    said = f"the SavedModel also has the signature {listed}, which is not in the file"
    return (f"{said}. {_one_of(list(loaded.signatures))}",)
