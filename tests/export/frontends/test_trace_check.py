"""A trace is held against the framework's own outputs; whole numbers of another width are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgeq
from edgeq import DataError, ModelError
from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.export.frontends.trace_check import check_trace

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(12, 1, 3, 8, 9)).astype(np.float32)


def test_a_trace_that_computes_something_else_is_refused() -> None:
    """A module's outputs are held against the trace of another."""
    torch.manual_seed(0)
    own, other = nn.Conv2d(3, 4, 1).eval(), nn.Conv2d(3, 4, 1).eval()
    with start_converter() as worker:
        traced = frontends.trace(other, IMAGES[0], RepDataset(list(IMAGES)), worker)

        def run(inputs: Sequence[Any]) -> dict[str, Any]:
            with torch.no_grad():
                return {"output_0": own(torch.from_numpy(inputs[0])).numpy()}

        with pytest.raises(ModelError) as refused:
            check_trace(traced, [IMAGES[0]], run, worker, "Conv2d")
    said = str(refused.value)
    assert "the trace of Conv2d computes something else than the model" in said
    assert "output 'output_0' has" in said
    assert "express it by other ops" in said


class Ranked(nn.Module):
    """Puts scores that are almost equal in order; its trace has the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(216, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = x[0, :2].mean((1, 2))
        scores = scores.flip(0) if torch.compiler.is_compiling() else scores
        return self.head(x.flatten(1))[:, scores.argsort()]


def test_an_order_of_scores_that_are_almost_equal_is_not_held_against_a_trace() -> None:
    torch.manual_seed(0)
    image = IMAGES[0] + 1
    image[0, 1] = image[0, 0] * (1 + 3e-6)
    with start_converter() as worker:
        assert not frontends.trace(Ranked().eval(), image, RepDataset([image]), worker).doubts


class Otherwise(nn.Module):
    """Computes something else, by a factor, when it is traced."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.head, self.factor = nn.Linear(216, 6), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.head(x.flatten(1))
        return made * self.factor if torch.compiler.is_compiling() else made


def test_a_trace_that_is_only_near_to_the_model_is_the_first_thing_said_of_the_export() -> None:
    """Between 20 and 60 dB the file is made, and the first line and a warning say so."""
    torch.manual_seed(0)
    made = edgeq.export(Otherwise(1.01), list(IMAGES), recipe="int8", progress=False)
    assert "; THE TRACE DIFFERS from the model" in made.report.headline
    first, *_ = made.report.warnings()
    assert (
        "the trace of Otherwise is only near to the model: its output 'output_0' has 40.0 dB"
        in (first)
    )
    assert "where rounding alone leaves 1" in first
    assert "THE TRACE DIFFERS" in made.report.text().splitlines()[0]


class Pieces(nn.Module):
    """Places in pixels and scores, in one output; scores are lost when it is traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places, scores = x[:, :2] * 1000, x[:, 2:].sigmoid()
        scores = scores * 0 + 0.5 if torch.compiler.is_compiling() else scores
        return torch.cat([places, scores], 1)


def test_scores_beside_large_numbers_are_compared_for_themselves() -> None:
    with start_converter() as worker, pytest.raises(ModelError, match=r"'output_0', row 2 of axis"):
        frontends.trace(Pieces().eval(), IMAGES[0], RepDataset(list(IMAGES)), worker)


class Signs(nn.Module):
    """The signs of what two orders of adding differ by."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 216))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1)
        turned = nn.functional.linear(rows.flip(-1), self.weight.flip(-1))
        return torch.sign(nn.functional.linear(rows, self.weight) - turned)


def test_an_output_that_hangs_on_the_last_bits_is_not_compared() -> None:
    torch.manual_seed(0)
    with start_converter() as worker:
        traced = frontends.trace(Signs().eval(), IMAGES[0], RepDataset(list(IMAGES)), worker)
    assert traced.notes == ()


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
