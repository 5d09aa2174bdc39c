"""A model that LiteRT itself does not run ends in an error that names the layer."""

from __future__ import annotations

import re

import numpy as np
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.errors import ModelError

PLACES = Value((1,), "int32", 7, 9)


@pytest.mark.parametrize("recipe", ["auto", "int8"])
def test_the_op_that_the_runtime_refuses_is_named(recipe: str) -> None:
    steps = (
        Step("GATHER", (np.ones((4, 8), np.float32), "x"), {"table.row": Value((1, 8))}),
        Step("TANH", ("table.row",), {"y": Value((1, 8))}),
    )
    case = OneOp("no such row", {"x": PLACES}, steps)
    message = (
        "the float model does not run in LiteRT itself, in float: it stops at GATHER at table.row "
        "(op 0). Express that layer by other ops."
    )
    with pytest.raises(ModelError, match=re.escape(message)):
        edgeq.export(case.build(), case.draw(10), recipe=recipe, progress=False)
