"""A trace is held against the framework's own outputs; whole numbers of another width are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import edgeq
from edgeq import DataError, ModelError

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(12, 1, 3, 8, 9)).astype(np.float32)


def test_a_trace_that_computes_something_else_is_refused() -> None:
    """Upsampling to a size that is no whole multiple comes out of the lowering wrong."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(size=(13, 21), mode="nearest")).eval()
    with pytest.raises(ModelError) as refused:
        edgeq.export(model, list(IMAGES), progress=False)
    said = str(refused.value)
    assert "the trace of Sequential computes something else than the model" in said
    assert "output 'output_0' has" in said
    assert "indexing with constant places" in said


class Counting(nn.Module):
    """Changes a buffer in each run, which must stay as the user has it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.runs += 1
        return self.linear(x.mean(dim=(2, 3)))


def test_the_users_module_is_as_it_was() -> None:
    model = Counting().eval()
    edgeq.plan(model, list(IMAGES), recipe="dynamic_int8", progress=False)
    assert float(model.runs) == 0


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids).mean(dim=1))


def test_a_session_takes_ids_as_the_export_took_them() -> None:
    ids = GENERATOR.integers(0, 50, (12, 1, 6))
    made = edgeq.export(Tokens().eval(), list(ids), recipe="dynamic_int8", progress=False)
    with made.session() as session:
        wide, narrow = session.run(ids[0]), session.run(ids[0].astype(np.int32))
        assert all((wide[name] == narrow[name]).all() for name in narrow)
        rows = session.run(ids[:3, 0])
        assert all(len(value) == 3 for value in rows.values())
        with pytest.raises(DataError, match=r"values from 0 to 1099511627776 do not fit it"):
            session.run(np.asarray([[0, 1, 2, 3, 4, 1 << 40]]))
