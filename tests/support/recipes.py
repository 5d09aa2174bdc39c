"""Recipes of tests."""

from __future__ import annotations

import edgeq

NEAREST = edgeq.Recipe("int8", rounding="nearest")
"""`"int8"` for what does not depend on the rounding of weights, which takes most of an export."""
