"""Runs a float model and collects what its weights are multiplied with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeq.export.round.common_weights import Party
from edgeq.export.round.exact import Matrix
from edgeq.export.round.loop_taps import LoopSite, LoopTaps
from edgeq.export.round.moments import Moments
from edgeq.export.round.weighted_ops import Site
from edgeq.files import Content, is_large
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session

MOST_SAMPLES = 32
"""Samples that weights are rounded by."""

MOST_ROWS = 4096
"""Rows that one op contributes, from all samples."""


def collect(
    party: Party, sites: Sequence[Site], moments: Sequence[Moments], advance: Callable[[], None]
) -> None:
    """Adds the rows that weights of a model are multiplied with to the moments of each.

    Args:
        party: The model.
        sites: Its weights.
        moments: What is known of their rows, one for each.
        advance: Called after each sample that has run.
    """
    graph, samples = party.model.graph, party.samples[:MOST_SAMPLES]
    read = dict.fromkeys(t for site in sites for t in site.inputs)
    loops = [site for site in sites if isinstance(site, LoopSite)]
    taps = LoopTaps(party.model.tree, loops, math.ceil(MOST_ROWS / len(samples)))
    tflite = _as_far_as(taps, [t for t in read if t not in graph.inputs])

    def rows_of(site: Site, session: Session, number: int) -> Matrix:
        if isinstance(site, LoopSite):
            return taps.rows(site, session.view)
        return site.rows(session.view, MOST_ROWS, len(samples), number)

    def rows(session: Session, numbered: Any) -> list[Matrix]:
        number, *sample = numbered
        session.invoke(sample)
        return [rows_of(site, session, int(number)) for site in sites]

    # Each session has weights of its own, of which a large model has room for one.
    each, members = (party.threads, 1) if is_large(len(tflite)) else (1, party.threads)
    with Crew(lambda: Session(tflite, threads=each, trusted=True), members) as crew:
        numbered = ((np.asarray(number), *sample) for number, sample in enumerate(samples))
        for found in crew.map(numbered, rows):
            for one, seen in zip(found, moments, strict=True):
                seen.add(one)
            advance()


def _as_far_as(taps: LoopTaps, tensors: Sequence[int]) -> Content:
    """The file that computes some tensors, what is kept of loops, and no more."""
    editor = GraphEditor(taps.tree)
    wanted = [*tensors, *taps.outputs]
    if wanted:
        editor.set_ports(editor.ports[0], wanted)
        editor.prune()
    return editor.finish()
