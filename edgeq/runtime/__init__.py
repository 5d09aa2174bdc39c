"""Running LiteRT models: `Session`, `SessionPool`, and what the interpreter here is."""

from edgeq.runtime.backend import load_backend
from edgeq.runtime.delegates import edgetpu_devices
from edgeq.runtime.pool import SessionPool
from edgeq.runtime.session import Session

__all__ = ["Session", "SessionPool", "edgetpu_devices", "load_backend"]
