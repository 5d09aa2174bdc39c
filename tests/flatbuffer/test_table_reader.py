"""Tables are read as the library reads them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as library

from edgeq.flatbuffer import unpack
from edgeq.flatbuffer.table_reader import Table
from edgeq.model import LiteModel


def test_a_file_has_the_same_values(demo_model: LiteModel) -> None:
    expected = library.ModelT.InitFromObj(library.Model.GetRootAs(demo_model.tflite, 0))
    same(unpack(demo_model.tflite), expected)


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif hasattr(expected, "__dict__"):
        assert vars(found).keys() == vars(expected).keys()
        for name, other in vars(expected).items():
            same(getattr(found, name), other)
    else:
        assert type(found) is type(expected)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("content", [struct.pack("<i", 8), struct.pack("<i", -8), b""])
def test_a_table_outside_the_file_is_an_error(content: bytes) -> None:
    with pytest.raises(struct.error):
        Table(content, 0).Offset(4)
