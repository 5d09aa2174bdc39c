"""`EdgeModel`: what an export returns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.calibrate.calibration import Calibration
from edgeq.data.readers import ImageLayout
from edgeq.export.build import Built
from edgeq.export.convert.convert_plan import annotated_mlir
from edgeq.export.convert.loop_weights import lifted_graph
from edgeq.export.deploy.metadata import Metadata
from edgeq.export.export_options import ExportOptions
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.plan.strictness import float_notes
from edgeq.export.search.ready import Ready
from edgeq.files import write_whole
from edgeq.model import LiteModel
from edgeq.ports import IO
from edgeq.report import Measured, Report
from edgeq.runtime.session import Session


@dataclass(frozen=True)
class EdgeModel:
    """A verified integer model.

    Attributes:
        tflite: The .tflite file.
        float_model: The float model as traced, in the layout that was asked for, which it was
            measured against.
        rewritten: The float model that the plan speaks of: the same numbers by other ops.
        plan: What became an integer and how.
        calibration: The ranges that the plan rests on.
        report: What was measured.
        origins: For tensors of the file, the tensor of `rewritten` that each came from.
    """

    tflite: bytes
    float_model: LiteModel
    rewritten: LiteModel
    plan: Plan
    calibration: Calibration
    report: Report
    origins: Mapping[int, int]

    def __repr__(self) -> str:
        report = self.report
        return (
            f"EdgeModel(recipe={report.recipe!r}, target={report.target!r}, "
            f"{len(self.tflite) / 1000:,.1f} kB, {report.size_ratio:.2f} of float, "
            f"SQNR {report.sqnr_db:.1f} dB, {report.latency_ratio:.2f} of float's time here)"
        )

    @property
    def io(self) -> IO:
        """Names, shapes, types and scales of the inputs and outputs."""
        return self.report.io

    def save(self, path: str | os.PathLike[str], metadata: Metadata | None = None) -> Path:
        """Writes the .tflite file, whole or not at all; a file that is there is replaced.

        Args:
            path: The file.
            metadata: What `describe` gives, to put into the file, and beside it as a file with the
                same name that ends in .json.

        Returns:
            Path of the .tflite file.
        """
        if metadata is None:
            return write_whole(path, self.tflite)
        write_whole(Path(path).with_suffix(".json"), metadata.to_json().encode())
        return write_whole(path, metadata.embedded(self.tflite))

    def describe(self, labels: Sequence[str] = (), images: ImageLayout | None = None) -> Metadata:
        """Collects the facts that an app needs to feed the model and to read its answers.

        Args:
            labels: Names of the classes, in the order of the scores.
            images: How images become what the model takes: how the data that it was calibrated with
                were made.

        Raises:
            DataError: The names or the images do not fit the model.
        """
        nhwc = self.float_model.nhwc
        digest = self.calibration.digest
        return Metadata(self.io, self.report.recipe, digest, tuple(labels), images, nhwc)

    def session(self, delegate: str = "xnnpack", threads: int | None = None) -> Session:
        """The model loaded on this machine's interpreter."""
        return Session(self.tflite, delegate, threads, trusted=True)

    def beside_float(self) -> ExportedGraph:
        """The file's graph beside that of `rewritten`."""
        return ExportedGraph(self.rewritten, lifted_graph(self.tflite), self.origins)

    def annotated_mlir(self) -> str:
        """The float model as MLIR with its `quant.fake_quant` composites, constants left out."""
        return annotated_mlir(self.rewritten, self.plan)


def made_of(
    ready: Ready,
    built: Built,
    measured: Measured,
    options: ExportOptions,
    planned_for: str,
    seconds: Mapping[str, float],
) -> EdgeModel:
    """What an export returns.

    Args:
        ready: The float model and its ranges.
        built: The file.
        measured: What was measured on it.
        options: What was asked for.
        planned_for: The processor that a search planned for; empty where the recipe decided.
        seconds: Wall time of each stage.
    """
    rewritten, ranges = built.model, ready.ranges
    report = Report(
        **vars(measured),
        recipe=options.recipe.name,
        target=options.target.name,
        calibrated_samples=ranges.calibration.samples,
        independent=ranges.independent,
        fitted_weights=built.fitted,
        doubts=rewritten.doubts,
        planned_for=planned_for,
        estimated_ratio=built.estimated_ratio,
        goal_db=options.goal_db if planned_for else None,
        notes=(
            *rewritten.notes,
            *float_notes(rewritten, options.recipe, built.plan.float_ops),
            *built.notes,
            *ranges.advice,
            *options.target.next_steps(),
        ),
        seconds=seconds,
    )
    return EdgeModel(
        tflite=bytes(built.tflite),
        float_model=ready.prepared.float_model,
        rewritten=rewritten,
        plan=built.plan,
        calibration=ranges.calibration,
        report=report,
        origins=built.origins,
    )
