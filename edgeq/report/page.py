"""The HTML report: one self-contained file with charts, tables and the command to repeat it.

Charts are Plotly's, whose script is put into the file: nothing is fetched when it is opened. Takes
the plain values of the other reports; knows nothing of how they were measured.
"""

from __future__ import annotations

import html
import importlib.resources
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from edgeq.errors import DependencyError
from edgeq.fidelity.sqnr import Drift
from edgeq.foreign.shown import lines, visible
from edgeq.report import Report
from edgeq.report.comparison import Comparison
from edgeq.report.diagnosis import Diagnosis, LayerError
from edgeq.report.search_result import SearchReport, rows_of_trials

HISTOGRAMS = 40
"""Layers whose histograms are in the file, the ones that cost most first."""

FLOAT, EDGE, BAD = "#8a94a6", "#2f6fed", "#d9480f"
"""Colours that can be told apart on white and on black."""


def check_packages() -> None:
    """Raises a `DependencyError` if plotly or jinja2 is not installed."""
    for name in ("plotly", "jinja2"):
        if importlib.util.find_spec(name) is None:
            raise DependencyError(f"an HTML report needs {name}: pip install 'edgeq[report]'")


@dataclass(frozen=True)
class PlacedOp:
    """Where one op of the integer model runs.

    Attributes:
        index: Its position in the file.
        op: Builtin operator name.
        where: Layer path.
        kind: What it computes in.
        delegated: Whether the delegate took it.
    """

    index: int
    op: str
    where: str
    kind: str
    delegated: bool


@dataclass(frozen=True)
class PlanRow:
    """One line of the plan.

    Attributes:
        index: Position of the op in the float model.
        layer: Layer path.
        op: Builtin operator name.
        mode: What it computes in, and what its weight is stored as.
        qparams: Parameters of its result or stored weight.
        reason: Why it is float, or not what was asked for.
    """

    index: int
    layer: str
    op: str
    mode: str
    qparams: str
    reason: str


@dataclass(frozen=True)
class Page:
    """Content of an HTML report; sections without content are left out.

    Attributes:
        title: Its heading.
        command: The command that makes it again; empty where there was none.
        report: What was measured of an export.
        comparison: How far the outputs are apart.
        diagnosis: What each layer loses.
        ops: Where each op runs.
        plan: What was planned for each op.
        search: What was tried before.
    """

    title: str
    command: str = ""
    report: Report | None = None
    comparison: Comparison | None = None
    diagnosis: Diagnosis | None = None
    ops: Sequence[PlacedOp] = ()
    plan: Sequence[PlanRow] = ()
    search: SearchReport | None = None

    @property
    def front(self) -> list[tuple[str, ...]]:
        """The cells of a search's plans that no other beats."""
        return [] if self.search is None else list(rows_of_trials(self.search.front))

    def html(self) -> str:
        """The page as one file.

        Raises:
            DependencyError: plotly or jinja2 is not installed.
        """
        check_packages()
        import jinja2
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs

        assets = importlib.resources.files("edgeq.report") / "assets"
        texts = {
            name: (assets / name).read_text(encoding="utf-8")
            for name in ("page.html.j2", "page.css", "page.js")
        }
        environment = jinja2.Environment(
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            # What is in scripts is escaped as JSON.
            finalize=lambda value: lines(value) if type(value) is str else value,
        )
        made: str = environment.from_string(texts["page.html.j2"]).render(
            page=self,
            cards=self._cards(),
            warnings=self._warnings(),
            charts=self._charts(),
            histograms=self._histograms(),
            versions=f"edgeq {version('edgeq')}",
            # None of these holds anything of the user's.
            style=Markup(texts["page.css"]),
            script=Markup(texts["page.js"]),
            plotly=Markup(get_plotlyjs()),
        )
        return made

    def _fidelity_remark(self) -> str:
        sources = (self.report, self.diagnosis)
        bound = next((s.bound_db for s in sources if s and s.bound_db is not None), None)
        alone = "" if bound is None else f"; rounding noise alone would leave {bound:.1f} dB"
        return f"SQNR of the worst output or part{alone}"

    def _cards(self) -> list[tuple[str, str, str]]:
        """`(heading, number, remark)` of what is to be seen first."""
        cards = []
        best = self.comparison or self.report or self.diagnosis
        if best is not None:
            cards.append(("fidelity", f"{best.sqnr_db:.1f} dB", self._fidelity_remark()))
        for name, change in (self.comparison.metrics if self.comparison else {}).items():
            cards.append((
                name, f"{change.edge_value:.4g}",
                f"float {change.float_value:.4g}; difference {change.difference:+.4f}, "
                f"95 % interval {change.low:+.4f} to {change.high:+.4f}",
            ))  # fmt: skip
        if self.report is not None:
            made = self.report
            cards += [
                ("size", f"{made.edge_bytes / 1000:,.0f} kB", f"{made.size_ratio:.2f} of float"),
                ("latency", f"{made.edge_latency_ms:.2f} ms",
                 f"{made.latency_ratio:.2f} of float, one thread of this machine"),
                ("delegate", f"{made.delegated_ops} of {made.total_ops}",
                 f"ops in XNNPACK, in {made.partitions} partition(s)"),
                ("left float", str(len(made.float_ops)), "ops, each with its reason below"),
            ]  # fmt: skip
        elif self.ops:
            inside = sum(op.delegated for op in self.ops)
            cards.append(("delegate", f"{inside} of {len(self.ops)}", "ops in XNNPACK"))
        return cards

    def _warnings(self) -> list[str]:
        found = [] if self.report is None else [*self.report.notes, *self.report.warnings()]
        return found + ([self.diagnosis.advice] if self.diagnosis else [])

    def _charts(self) -> dict[str, Any]:
        """Plotly figures by the element that they are drawn into."""
        charts: dict[str, Any] = {}
        if self.diagnosis is not None:
            charts["layers"] = _layers(self.diagnosis.layers)
        if self.report is not None:
            charts["cost"] = _cost(self.report)
        if self.ops:
            charts["delegate"] = _delegate(self.ops)
        if self.comparison is not None and self.comparison.worst_samples:
            charts["worst"] = _worst(self.comparison)
        drifts = self._drifts()
        if drifts:
            charts["drift"] = _drift(drifts)
        if self.search is not None:
            charts["trials"] = _trials(self.search)
        return charts

    def _drifts(self) -> dict[str, Drift]:
        """How the SQNR of each output goes along sequences, where there are any."""
        judged = self.comparison or self.report
        outputs = () if judged is None else judged.outputs
        return {o.name: o.drift for o in outputs if o.drift is not None}

    def _histograms(self) -> list[dict[str, Any]]:
        """A figure for each layer, with its name."""
        layers = self.diagnosis.layers if self.diagnosis else ()
        shown = [line for line in layers if line.histogram][:HISTOGRAMS]
        return [{"name": visible(line.where), **_histogram(line)} for line in shown]


def _hover(text: str) -> str:
    """Text that Plotly shows as it is; it knows some HTML."""
    return html.escape(visible(text))


def _figure(traces: Sequence[Any], **layout: Any) -> dict[str, Any]:
    """Plain values of a Plotly figure; text and lines get the colours of the reader's theme."""
    import plotly.graph_objects as go

    figure = go.Figure(list(traces))
    figure.update_layout(
        template=None, margin={"l": 60, "r": 16, "t": 40, "b": 56},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", **layout,
    )  # fmt: skip
    made: dict[str, Any] = json.loads(figure.to_json())
    return made


def _layers(layers: Sequence[LayerError]) -> dict[str, Any]:
    import plotly.graph_objects as go

    ordered = sorted(layers, key=lambda line: -1 if line.index is None else line.index)
    names = [_hover(line.where) for line in ordered]

    def trace(name: str, values: Sequence[float], **options: Any) -> Any:
        finite = [value if abs(value) < 200 else None for value in values]
        return go.Scatter(
            x=list(range(len(names))), y=finite, name=name, mode="lines+markers", text=names,
            hovertemplate="%{text}<br>%{y:.1f} dB", **options,
        )  # fmt: skip

    return _figure(
        [
            trace("alone, at the outputs", [x.cost_db for x in ordered], line={"color": BAD}),
            trace("adds", [x.added_db for x in ordered], line={"color": FLOAT}),
            trace("so far", [x.accumulated_db for x in ordered], line={"color": EDGE}),
        ],
        xaxis={"title": {"text": "layers, in order"}}, yaxis={"title": {"text": "SQNR in dB"}},
    )  # fmt: skip


def _histogram(line: LayerError) -> dict[str, Any]:
    import plotly.graph_objects as go

    centres = [centre for centre, _ in line.histogram]
    counts = [count for _, count in line.histogram]
    bars = go.Bar(x=centres, y=counts, marker={"color": EDGE}, name="values", hoverinfo="x+y")
    shapes: list[Mapping[str, Any]] = []
    if line.spread is not None:
        shapes = [
            {"type": "line", "x0": end, "x1": end, "yref": "paper", "y0": 0, "y1": 1,
             "line": {"color": BAD, "width": 2, "dash": "dash"}}
            for end in (line.spread.low, line.spread.high)
        ]  # fmt: skip
    return _figure(
        [bars], shapes=shapes, bargap=0, showlegend=False,
        xaxis={"title": {"text": "value in the float model"}},
        yaxis={"title": {"text": "how many"}, "type": "log"},
    )  # fmt: skip


def _cost(report: Report) -> dict[str, Any]:
    import plotly.graph_objects as go

    names = ["size in kB", "latency in ms"]
    before = [report.float_bytes / 1000, report.float_latency_ms]
    after = [report.edge_bytes / 1000, report.edge_latency_ms]
    traces = []
    for place, axis in enumerate(("", "2")):
        for label, values, color in (("float", before, FLOAT), ("exported", after, EDGE)):
            traces.append(
                go.Bar(
                    x=[names[place]], y=[values[place]], name=label, marker={"color": color},
                    text=[f"{values[place]:,.3g}"], textposition="auto", xaxis=f"x{axis}",
                    yaxis=f"y{axis}", showlegend=not place, legendgroup=label,
                )
            )  # fmt: skip
    grid = {"rows": 1, "columns": 2, "pattern": "independent"}
    return _figure(traces, barmode="group", grid=grid)


def _delegate(ops: Sequence[PlacedOp]) -> dict[str, Any]:
    import plotly.graph_objects as go

    traces = []
    for title, inside, color in (("in XNNPACK", True, EDGE), ("outside", False, BAD)):
        chosen = [op for op in ops if op.delegated is inside]
        if chosen:
            traces.append(
                go.Bar(
                    x=[op.index for op in chosen], y=[1] * len(chosen), name=title,
                    marker={"color": color}, hovertemplate="%{text}<extra></extra>",
                    text=[_hover(f"{op.index} {op.op} at {op.where}: {op.kind}") for op in chosen],
                    textposition="none",
                )
            )  # fmt: skip
    return _figure(
        traces, bargap=0.05, barmode="overlay", height=190, showlegend=True,
        yaxis={"visible": False}, xaxis={"title": {"text": "ops, in order"}},
    )  # fmt: skip


def _worst(found: Comparison) -> dict[str, Any]:
    import plotly.graph_objects as go

    worst = found.worst_samples
    color = [BAD if sample.top1_changed else EDGE for sample in worst]
    bars = go.Bar(
        x=[f"sample {sample.index}" for sample in worst], y=[sample.sqnr_db for sample in worst],
        marker={"color": color}, hovertemplate="%{x}: %{y:.1f} dB<extra></extra>",
    )  # fmt: skip
    return _figure([bars], yaxis={"title": {"text": "SQNR in dB"}})


def _drift(drifts: Mapping[str, Drift]) -> dict[str, Any]:
    import plotly.graph_objects as go

    traces = []
    for name, drift in drifts.items():
        count = len(drift.tenths_db)
        finite = [value if abs(value) < 200 else None for value in drift.tenths_db]
        traces.append(
            go.Scatter(
                x=[100 * (place + 0.5) / count for place in range(count)], y=finite,
                name=_hover(name), mode="lines+markers",
                hovertemplate="%{x:.0f} % of the steps: %{y:.1f} dB",
            )
        )  # fmt: skip
    return _figure(
        traces, showlegend=True,
        xaxis={"title": {"text": "place in the sequence, in %"}, "range": [0, 100]},
        yaxis={"title": {"text": "SQNR in dB"}},
    )  # fmt: skip


def _trials(found: SearchReport) -> dict[str, Any]:
    import plotly.graph_objects as go

    front = found.front
    others = [trial for trial in found.working if trial not in front]
    traces = []
    for title, trials, color, mode in (
        ("beaten", others, FLOAT, "markers"), ("not beaten", front, EDGE, "lines+markers"),
        ("chosen", [found.best], BAD, "markers"),
    ):  # fmt: skip
        traces.append(
            go.Scatter(
                x=[trial.latency_ratio for trial in trials], y=[trial.drop for trial in trials],
                text=[_hover(trial.name) for trial in trials], name=title, mode=mode,
                marker={"color": color, "size": 9}, line={"color": color, "dash": "dot"},
                hovertemplate="%{text}<br>%{x:.2f} of the time, worse by %{y:.4f}<extra></extra>",
            )
        )  # fmt: skip
    limit = {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": found.goal.max_drop,
        "y1": found.goal.max_drop, "line": {"color": BAD, "dash": "dash"},
    }  # fmt: skip
    worse = f"{_hover(found.goal.metric)}: worse than float by"
    return _figure(
        traces, shapes=[limit], xaxis={"title": {"text": "time over float's"}},
        yaxis={"title": {"text": worse}},
    )  # fmt: skip
