"""Running LiteRT models: `Session`, and what the interpreter here is."""

from edgeq.runtime.backend import load_backend
from edgeq.runtime.session import Session

__all__ = ["Session", "load_backend"]
