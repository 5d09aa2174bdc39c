"""The pytest plugin: the fixture `edgeq_check`, whose numbers explain themselves when a test fails.

def test_the_exported_model(edgeq_check):
    checked = edgeq_check("model.tflite", "model_int8.tflite", images, labels=labels)
    assert checked.accuracy_drop < 0.01
    assert checked.sqnr_db > 20
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from edgeq.compare.check import check
from edgeq.report.thresholds import Thresholds
from edgeq.report.verdict import CheckResult

MOST_METRICS = 4
"""So many are explained: pytest cuts what is longer than eight lines."""


class Quantity(float):
    """A number that knows what it was measured of.

    Attributes:
        name: What it is.
        result: Everything that was measured with it.
    """

    name: str
    result: CheckResult

    @classmethod
    def of(cls, name: str, value: float, result: CheckResult) -> Quantity:
        """A number with its name and all that was measured with it."""
        made = cls(value)
        made.name, made.result = name, result
        return made

    def explained(self) -> list[str]:
        """Explains the number to the reader of a failed test, line by line."""
        found = self.result.comparison
        worst = found.worst
        metrics = [
            f"{name}: float {m.float_value:.4f}, edge {m.edge_value:.4f}, difference "
            f"{m.difference:+.4f} (95 % interval {m.low:+.4f} to {m.high:+.4f})"
            for name, m in found.metrics.items()
        ]
        return [
            *metrics[:MOST_METRICS],
            f"{worst.worst_place}: SQNR {worst.least_db:.1f} dB, cosine {worst.cosine:.4f}, "
            f"largest error {worst.largest_error:.4g}, on {found.samples} samples",
            "to find the layer that costs it: edgeq debug FLOAT EDGE --data ...",
        ]


class Checked:
    """An integer model beside its float model, in numbers to assert on.

    Attributes:
        result: Everything that was measured.
    """

    def __init__(self, result: CheckResult) -> None:
        self.result = result

    def __repr__(self) -> str:
        return (
            f"<edge model of {self.result.facts.size_bytes / 1000:.1f} kB beside its float model>"
        )

    def _quantity(self, name: str, value: float) -> Quantity:
        return Quantity.of(name, value, self.result)

    @property
    def sqnr_db(self) -> Quantity:
        """SQNR of the worst output in dB."""
        return self._quantity("SQNR in dB", self.result.facts.sqnr_db)

    @property
    def agreement(self) -> Quantity:
        """Share of score vectors with the same highest entry; 0 where there are no scores."""
        return self._quantity("top-1 agreement", self.result.facts.agreement or 0.0)

    @property
    def accuracy_drop(self) -> Quantity:
        """How far the accuracy is below the float model's; needs labels."""
        return self.drop("accuracy")

    def drop(self, metric: str) -> Quantity:
        """How far a metric is worse than the float model's.

        Raises:
            KeyError: It was not measured.
        """
        drops = self.result.facts.drops
        if metric not in drops:
            known = ", ".join(drops) or "none"
            raise KeyError(f"{metric} was not measured (pass labels= or metrics=); known: {known}")
        return self._quantity(f"drop of {metric}", drops[metric])

    @property
    def size_ratio(self) -> Quantity:
        """Size over the float model's."""
        ratio = self.result.facts.size_bytes / self.result.float_bytes
        return self._quantity("size over float", ratio)

    @property
    def latency_ratio(self) -> Quantity:
        """Latency over the float model's on one thread of this machine."""
        return self._quantity("latency over float", self.result.facts.latency_ratio)

    @property
    def float_ops(self) -> tuple[str, ...]:
        """Where each op is that computes in float."""
        return self.result.facts.float_ops

    @property
    def is_fully_delegated(self) -> bool:
        """Whether every op runs in the XNNPACK delegate."""
        return self.result.facts.delegated_ops == self.result.facts.total_ops


@pytest.fixture(scope="session")
def edgeq_check() -> Callable[..., Checked]:
    """Measures an integer model beside its float one: `edgeq_check(float, edge, data, labels=...)`.

    Takes what `edgeq.check` takes. With `thresholds`, or those of the project's settings by
    `thresholds="project"`, a broken promise fails the test at once.
    """

    def measure(
        float_model: Any,
        edge_model: Any,
        data: Any,
        thresholds: Thresholds | Literal["project"] | None = None,
        **options: Any,
    ) -> Checked:
        wanted = Thresholds.read() if isinstance(thresholds, str) else thresholds
        options.setdefault("progress", False)
        result = check(float_model, edge_model, data, wanted, **options)
        if not result.passed:
            pytest.fail(result.text(), pytrace=False)
        return Checked(result)

    return measure


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explains a failed comparison with a measured number."""
    found = next((side for side in (left, right) if isinstance(side, Quantity)), None)
    if found is None:
        return None
    shown = (f"{side:.4g}" if isinstance(side, float) else repr(side) for side in (left, right))
    one, other = shown
    return [f"{found.name}: {one} {op} {other} does not hold", *found.explained()]
