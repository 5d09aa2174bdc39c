"""`OutputFidelity`: how near one output of an integer model is to the float model's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeq.fidelity.parts import Part, least_db, worst_part
from edgeq.fidelity.sqnr import Drift, Fidelity, SampleSpread


@dataclass(frozen=True)
class OutputFidelity:
    """One output of the integer model against the float model.

    Attributes:
        name: Name in the signature.
        sqnr_db: Signal to quantization noise ratio in dB.
        largest_error: Largest absolute difference, in the output's own unit.
        mean_error: Mean absolute difference, likewise.
        cosine: Cosine of the angle between the two outputs, all samples taken as one vector.
        top1_agreement: Share of score vectors (of an output of two or more axes, those along the
            last one) whose highest entry is the same; None where the last axis has one entry.
        top5_agreement: Share of the five highest entries of score vectors that are among the five
            highest of the other one, too; None where the last axis has five entries or less.
        parts: Rows of it that differ much in magnitude, such as boxes and scores, each with its own
            SQNR; empty where all of it is of one kind.
        samples: How its SQNR differs from sample to sample; None where that was not looked at.
        are_indices: Whether its values are places, such as those of an argmax: `sqnr_db` is then
            the ratio of all of them to those that differ, 20 dB for 99 %, and `top1_agreement` the
            share of those that are the same.
        drift: How its SQNR goes along sequences; None where the samples are of none.
    """

    name: str
    sqnr_db: float
    largest_error: float
    mean_error: float
    cosine: float
    top1_agreement: float | None
    top5_agreement: float | None = None
    parts: tuple[Part, ...] = ()
    samples: SampleSpread | None = None
    are_indices: bool = False
    drift: Drift | None = None

    @classmethod
    def of(
        cls,
        name: str,
        seen: Fidelity,
        parts: Iterable[Part] = (),
        samples: SampleSpread | None = None,
        drift: Drift | None = None,
    ) -> OutputFidelity:
        """Makes the value from what some samples have shown."""
        return cls(
            name, seen.sqnr_db, seen.largest, seen.mean_error, seen.cosine,
            seen.top1_agreement, seen.top5_agreement, tuple(parts), samples,
            seen.are_indices, drift,
        )  # fmt: skip

    @property
    def worst_part(self) -> Part | None:
        """The part that has lost most, where the output falls into several."""
        return worst_part(self.parts)

    @property
    def least_db(self) -> float:
        """SQNR in dB that the output is judged by: that of its worst part."""
        return least_db(self.sqnr_db, self.parts)

    @property
    def kept(self) -> str:
        """The SQNR in words, or the agreement of indices."""
        if self.are_indices and self.top1_agreement is not None:
            return f"{self.top1_agreement:.2%} of its indices"
        return f"{self.least_db:.1f} dB"

    @property
    def worst_place(self) -> str:
        """The output, or its worst part, in words."""
        part = self.worst_part
        return f"output {self.name!r}" + (f", {part.where}" if part and part.where else "")
