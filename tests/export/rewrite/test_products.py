"""Products in the form that is faster: the same numbers, however axes lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_op import OneOp
from rewrite_cases import summed_product

from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.export.rewrite import rewrite
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session


@st.composite
def _summed(draw: st.DrawFn) -> OneOp:
    """A sum of a broadcast product with axes in any order."""
    kinds = draw(st.permutations(["batch", "left", "right", "depth"]))
    kinds = [*kinds, *draw(st.lists(st.sampled_from(["left", "right", "unit"]), max_size=1))]
    sizes = {"batch": 2, "left": 8, "right": 9, "depth": 3, "unit": 1}
    one = tuple(1 if kind == "right" else sizes[kind] for kind in kinds)
    other = tuple(1 if kind == "left" else sizes[kind] for kind in kinds)
    return summed_product(one, other, kinds.index("depth"), keeps=draw(st.booleans()))


@given(_summed())
@settings(max_examples=60, deadline=None)
def test_a_broadcast_product_keeps_its_numbers(case: OneOp) -> None:
    model, (sample,) = LiteModel(case.build(), "tflite"), case.draw(1)
    found, rewritten = [], rewrite(model)
    assert not any("failed" in note for note in rewritten.notes)
    for made in (model, rewritten):
        with Session(made.tflite, threads=1) as session:
            found.append(session.run(sample)["y"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_few_rows_stay_a_sum() -> None:
    case = summed_product((2, 7, 1, 8), (2, 1, 10, 8), 3)
    model = LiteModel(case.build(), "tflite")
    assert rewrite(model) is model


def test_products_of_jax_without_a_batch_are_delegated(converter: Worker) -> None:
    jnp = pytest.importorskip("jax.numpy")
    random = np.random.default_rng(0)
    nodes = [random.normal(size=(12, 12)).astype("f"), random.normal(size=(12, 5)).astype("f")]

    def graph(adjacent: Any, x: Any) -> Any:
        return adjacent @ adjacent.T @ x, jnp.einsum("nd,nd->n", x, x * x)

    model = rewrite(frontends.trace(graph, None, RepDataset([tuple(nodes)]), converter, None))
    with Session(model.tflite, threads=1) as session:
        found, coverage = list(session.run(tuple(nodes)).values()), session.coverage()
    for made, expected in zip(found, graph(*map(jnp.asarray, nodes)), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)
    names = [op.name for op in model.graph.operators]
    assert len(coverage.delegated) == coverage.total
    assert names.count("BATCH_MATMUL") == 2
    assert names.count("SUM") == 1
