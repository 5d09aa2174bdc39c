"""`ExportOptions`: what a caller of `export`, `plan` or `calibrate` asks for, read once.

Knows what is asked for where nothing is said; nothing of the model that it is asked of.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from edgeq.calibrate.calibration import Calibration
from edgeq.errors import RecipeError
from edgeq.export.plan.min_runtime import EDGETPU_COMPILER
from edgeq.export.rewrite.nhwc_ports import check_layout
from edgeq.export.search.costs import WITH_DOT_PRODUCT, WITHOUT_DOT_PRODUCT, Costs
from edgeq.portspec import PortSpecs, as_port_specs
from edgeq.recipe import AUTO, INT8, Recipe, as_recipe
from edgeq.runtime.cpu import has_int8_dot_product
from edgeq.targets import TARGETS
from edgeq.versions import Version, as_version


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export; those that are not explained here are as `export` takes them.

    Attributes:
        params: See `export`.
        sample: See `export`.
        recipe: What becomes of each op; `Mode.AUTO` where the search decides.
        target: Name of the target.
        calibration: Ranges that are known already, or None.
        inputs: What the app passes.
        outputs: What the app gets.
        layout: See `export`.
        min_sqnr_db: See `export`.
        oldest: The oldest run time that will read the file; None is the newest.
        measure: See `export`.
        goal_db: See `export`.
        costs: Rates of the processor that a search plans for.
        threads: See `export`.
    """

    params: object
    sample: object
    recipe: Recipe
    target: str
    calibration: Calibration | None
    inputs: PortSpecs
    outputs: PortSpecs
    layout: str | None
    min_sqnr_db: float | None
    oldest: Version | None
    measure: bool
    goal_db: float
    costs: Costs
    threads: int | None

    @classmethod
    def read(
        cls,
        *,
        params: object = None,
        sample: object = None,
        recipe: str | os.PathLike[str] | Recipe = "auto",
        target: str = "xnnpack",
        calibration: Calibration | str | os.PathLike[str] | None = None,
        inputs: object = None,
        outputs: object = None,
        layout: str | None = None,
        min_sqnr_db: float | None = None,
        min_runtime: str | None = None,
        measure: bool = False,
        goal_db: float = 20.0,
        costs: Costs | str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> ExportOptions:
        """The options in the form in which users give them.

        Raises:
            RecipeError: One of them is not what it can be.
            DataError: The calibration's file cannot be read.
        """
        _check_target(target)
        check_layout(layout)
        return cls(
            params=params,
            sample=sample,
            recipe=_recipe_for(target, recipe),
            target=target,
            calibration=_calibration(calibration),
            inputs=_ports_for(target, inputs, "inputs"),
            outputs=_ports_for(target, outputs, "outputs"),
            layout=layout,
            min_sqnr_db=min_sqnr_db,
            oldest=_runtime_for(target, min_runtime),
            measure=measure,
            goal_db=goal_db,
            costs=_costs(measure, costs),
            threads=threads,
        )


def _check_target(target: str) -> None:
    if target not in TARGETS:
        raise RecipeError(f"target must be one of {', '.join(TARGETS)}. Received: {target!r}")


def _recipe_for(target: str, recipe: str | os.PathLike[str] | Recipe) -> Recipe:
    """The recipe; only XNNPACK runs float and integers side by side, which "auto" makes use of."""
    found = as_recipe(recipe)
    is_auto = found.with_rounding(AUTO.rounding) == AUTO
    return INT8.with_rounding(found.rounding) if is_auto and target != "xnnpack" else found


def _calibration(given: Calibration | str | os.PathLike[str] | None) -> Calibration | None:
    return given if given is None or isinstance(given, Calibration) else Calibration.load(given)


def _ports_for(target: str, asked: object, side: str) -> PortSpecs:
    """What ports shall be; the Edge TPU has no op that converts from and to float."""
    default = "int8" if target == "edgetpu" else "float32"
    return as_port_specs(default if asked is None else asked, side)


def _runtime_for(target: str, min_runtime: str | None) -> Version | None:
    if min_runtime is not None:
        return as_version(min_runtime)
    return EDGETPU_COMPILER if target == "edgetpu" else None


def _costs(measure: bool, given: Costs | str | os.PathLike[str] | None) -> Costs:
    """Rates of the processor to plan for: this one's if it is measured on, else a phone's."""
    if given is not None:
        return given if isinstance(given, Costs) else Costs.load(given)
    here = measure and has_int8_dot_product() is False
    return WITHOUT_DOT_PRODUCT if here else WITH_DOT_PRODUCT
