"""The minimum cut against every way of parting a few nodes."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.export.search.min_cut import Network

NODES = ("source", "sink", "a", "b", "c", "d")
EDGES = st.dictionaries(
    st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)).filter(lambda e: e[0] != e[1]),
    st.one_of(st.floats(0, 100), st.just(math.inf)),
    max_size=14,
)


def _cost(edges: dict[tuple[str, str], float], side: set[str]) -> float:
    return sum(cost for (a, b), cost in edges.items() if a in side and b not in side)


@given(EDGES)
def test_no_way_of_parting_the_nodes_is_cheaper(edges: dict[tuple[str, str], float]) -> None:
    network = Network("source", "sink", most=1000.0)
    for (start, end), cost in edges.items():
        network.add(start, end, cost)
    inner = NODES[2:]
    ways = [
        {"source", *chosen}
        for count in range(len(inner) + 1)
        for chosen in itertools.combinations(inner, count)
    ]
    least = min(_cost(edges, way) for way in ways)
    side = {str(node) for node in network.source_side()}
    assert "source" in side
    if not math.isinf(least):
        assert "sink" not in side
        assert _cost(edges, side) == pytest.approx(least, abs=1e-4)


def test_costs_add_up_and_great_ones_are_cut_short() -> None:
    network = Network("source", "sink", most=5.0)
    network.add("source", "a", 1e12)
    network.add("a", "sink", 3.0)
    network.add("a", "sink", 1.0)
    assert network.source_side() == {"source", "a"}
    network.add("a", "sink", 2.0)
    assert network.source_side() == {"source"}
