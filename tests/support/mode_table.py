"""Each mode on each kind of weighted op: whether it works, and how close it stays to float.

`docs/modes.md` is this table; `python tests/support/mode_table.py` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from one_op import CASES, OneOp, Step, Value

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.run import Calibrator
from edgeq.converter import check_runs, start_converter
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.errors import EdgeqError
from edgeq.export.convert.convert_plan import convert
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.plan.choices import choose
from edgeq.export.plan.planner import make_plan
from edgeq.export.verify import check_float_ops, check_qparams
from edgeq.fidelity.sqnr import Fidelity
from edgeq.flatbuffer import parse
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.recipe import PRESETS, Recipe
from edgeq.runtime.session import Session

PAGE = Path(__file__).resolve().parents[2] / "docs" / "modes.md"
STEP_DB = 5
"""SQNR is written as the next lower multiple: processors differ in the last bits."""


def _embedding() -> OneOp:
    table = np.random.default_rng(5).normal(size=(40, 16)).astype(np.float32)
    rows = Value((1, 6, 16))
    step = Step("GATHER", (table, "ids"), {"y": rows})
    return OneOp("GATHER", {"ids": Value((1, 6), "int32", 0, 40)}, (step,))


def _case(label: str) -> OneOp:
    return next(case for case in CASES if case.label == label)


OPS = {
    "dense": _case("FULLY_CONNECTED"),
    "dense without bias": _case("FULLY_CONNECTED/without bias"),
    "convolution": _case("CONV_2D"),
    "depthwise convolution": _case("DEPTHWISE_CONV_2D"),
    "transposed convolution": _case("TRANSPOSE_CONV"),
    "batch matmul": _case("BATCH_MATMUL/constant"),
    "embedding": _embedding(),
}
MODES = {
    **{name: recipe for name, recipe in PRESETS.items() if name != "auto"},
    **{
        f"{name}, symmetric=False": replace(recipe, symmetric=False)
        for name, recipe in PRESETS.items()
        if recipe.default.is_weight_only
    },
}
"""Recipe of each row by what the page calls it."""


@dataclass(frozen=True)
class Cell:
    """One mode on one op.

    Attributes:
        sqnr_db: SQNR of the output; NaN where it does not work.
        form: What the op became, by the exported file's own counts.
        reason: Why it does not work, or why it became something else than asked for.
        delegated: Whether the delegate takes all of it.
    """

    sqnr_db: float
    form: str = ""
    reason: str = ""
    delegated: bool = False

    def text(self) -> str:
        """The cell as the page shows it."""
        if math.isnan(self.sqnr_db):
            return f"no: {self.reason}"
        level = int(self.sqnr_db // STEP_DB) * STEP_DB
        place = "" if self.delegated else ", outside the delegate"
        why = f" ({self.reason})" if self.reason else ""
        return f"≥ {level} dB{place}{why}"


def cells() -> Iterator[tuple[str, str, Cell]]:
    """`(mode, op, cell)` of the whole table, on the real converter and kernels."""
    with start_converter() as worker:
        for mode in MODES:
            for name, case in OPS.items():
                yield mode, name, cell(worker, case, MODES[mode])


def cell(worker: Worker, case: OneOp, recipe: Recipe) -> Cell:
    """One export, without the parts that the table does not show."""
    model = LiteModel(case.build(), "tflite")
    samples = list(RepDataset(case.draw(12)).samples(input_specs(model)))
    try:
        choices = choose(model, recipe)
        calibration = Calibration(model.digest, 0, {})
        if recipe.default.is_static:
            # As many as need no margin: those that judge were all seen.
            calibration = replace(Calibrator(model, 1).run(samples), samples=128)
        plan = make_plan(model, calibration, choices)
        made = convert(worker, model, plan)
        check_runs(worker, made.tflite, samples[0], "the exported model")
        exported = ExportedGraph(model, parse(made.tflite).graphs[0], made.origins)
        check_float_ops(exported, plan)
        check_qparams(exported, plan)
    except EdgeqError as error:
        return Cell(math.nan, reason=str(error).split(":")[0])
    reason = next(iter({**plan.float_ops, **plan.remarks}.values()), "")
    return replace(_judged(model, made.tflite, samples), form=_form(exported), reason=reason)


def _form(exported: ExportedGraph) -> str:
    return ", ".join(kind for kind in exported.op_counts() if not kind.startswith("quantize"))


def _judged(model: LiteModel, tflite: bytes, samples: list[Sample]) -> Cell:
    fidelity = Fidelity()
    with Session(model.tflite) as reference, Session(tflite) as edge:
        for sample in samples:
            reference.invoke(sample)
            edge.invoke(sample)
            fidelity = fidelity.observe(reference.outputs()[0], edge.outputs()[0])
        coverage = edge.coverage()
    return Cell(fidelity.sqnr_db, delegated=len(coverage.delegated) == coverage.total)


def page(found: dict[tuple[str, str], Cell]) -> str:
    """The whole page."""
    lines = [
        "# Modes",
        "",
        "What each mode makes of an op with a weight, as tried on the real converter and kernels",
        f"with random weights: the SQNR that its output keeps at least, in steps of {STEP_DB} dB,",
        "and whether XNNPACK takes all of it. Written by `python tests/support/mode_table.py`.",
        "",
        "| mode | " + " | ".join(OPS) + " |",
        "| --- | " + " | ".join("---" for _ in OPS) + " |",
    ]
    for mode in MODES:
        cells = " | ".join(found[mode, name].text() for name in OPS)
        lines.append(f"| `{mode}` | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page({(mode, op): cell for mode, op, cell in cells()}), "utf-8")
