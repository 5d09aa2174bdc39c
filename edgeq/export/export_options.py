"""`ExportOptions`: what a caller of `export`, `plan` or `calibrate` asks for, read once.

Knows what is asked for where nothing is said; nothing of the model that it is asked of.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from numbers import Real

from edgeq.calibrate.calibration import Calibration
from edgeq.errors import RecipeError
from edgeq.export.portspec import PortSpecs, as_port_specs
from edgeq.export.rewrite.nhwc_ports import check_layout
from edgeq.export.search.costs import Costs
from edgeq.export.search.devices import DEFAULT, as_costs
from edgeq.recipe import AUTO, INT8, Recipe, as_recipe
from edgeq.runtime.cpu import has_int8_dot_product
from edgeq.targets import Target, as_target
from edgeq.versions import Version, as_version


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export; those that are not explained here are as `export` takes them.

    Attributes:
        params: See `export`.
        sample: See `export`.
        recipe: What becomes of each op; `Mode.AUTO` where the search decides.
        target: Where the file is to run, with the oldest run time that is to read it.
        strict: Whether an op that cannot be in integers as a rule wants is an error, where the rule
            does not say.
        calibration: Ranges that are known already, or None.
        inputs: What the app passes.
        outputs: What the app gets.
        layout: See `export`.
        min_sqnr_db: See `export`.
        measure: See `export`.
        goal_db: See `export`.
        costs: Rates of the processor that a search plans for.
        threads: See `export`.
    """

    params: object
    sample: object
    recipe: Recipe
    target: Target
    strict: bool
    calibration: Calibration | None
    inputs: PortSpecs
    outputs: PortSpecs
    layout: str | None
    min_sqnr_db: float | None
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
        strict: bool | None = None,
        calibration: Calibration | str | os.PathLike[str] | None = None,
        inputs: object = None,
        outputs: object = None,
        layout: str | None = None,
        min_sqnr_db: float | None = None,
        min_runtime: str | None = None,
        measure: bool = False,
        goal_db: float = 20.0,
        costs: Costs | str | os.PathLike[str] | None = None,
        device: str | os.PathLike[str] | None = None,
        threads: int | None = None,
    ) -> ExportOptions:
        """The options in the form in which users give them.

        Raises:
            RecipeError: One of them is not what it can be.
            DataError: The calibration's file cannot be read.
        """
        place = as_target(target)
        check_layout(layout)
        _check_kinds(measure=measure, goal_db=goal_db, min_sqnr_db=min_sqnr_db, threads=threads)
        return cls(
            params=params,
            sample=sample,
            recipe=_recipe_for(place, recipe),
            target=replace(place, oldest_runtime=_runtime_for(place, min_runtime)),
            strict=_strict_for(place, strict),
            calibration=_calibration(calibration),
            inputs=_ports_for(place, inputs, "inputs"),
            outputs=_ports_for(place, outputs, "outputs"),
            layout=layout,
            min_sqnr_db=min_sqnr_db,
            measure=measure,
            goal_db=goal_db,
            costs=_costs(measure, costs, device),
            threads=threads,
        )

    @property
    def oldest(self) -> Version | None:
        """The oldest run time that will read the file; None is the newest."""
        return self.target.oldest_runtime


def _check_kinds(measure: object, goal_db: object, min_sqnr_db: object, threads: object) -> None:
    """Raises a `RecipeError` for an option of another kind than it has."""
    wanted = {
        "measure must be True or False": isinstance(measure, bool),
        "goal_db must be a number": _is_number(goal_db),
        "min_sqnr_db must be a number or None": min_sqnr_db is None or _is_number(min_sqnr_db),
        "threads must be a whole number from 1 on, or None": threads is None
        or (isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1),
    }
    given = (measure, goal_db, min_sqnr_db, threads)
    for (what, holds), value in zip(wanted.items(), given, strict=True):
        if not holds:
            raise RecipeError(f"{what}. Received: {value!r:.80}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def _recipe_for(target: Target, recipe: str | os.PathLike[str] | Recipe) -> Recipe:
    """The recipe; where float and integers do not mix, "auto" is "int8"."""
    found = as_recipe(recipe)
    is_auto = found.with_rounding(AUTO.rounding) == AUTO
    return INT8.with_rounding(found.rounding) if is_auto and not target.mixes_float else found


def _strict_for(target: Target, asked: bool | None) -> bool:
    """Strictness asked for, or else whether the target computes in integers alone."""
    if asked is not None and not isinstance(asked, bool):
        raise RecipeError(f"strict must be True, False or None. Received: {asked!r}")
    return not target.mixes_float if asked is None else asked


def _calibration(given: Calibration | str | os.PathLike[str] | None) -> Calibration | None:
    return given if given is None or isinstance(given, Calibration) else Calibration.load(given)


def _ports_for(target: Target, asked: object, side: str) -> PortSpecs:
    """Requested ports, or those of the target where nothing is said."""
    return as_port_specs(target.port_type if asked is None else asked, side)


def _runtime_for(target: Target, min_runtime: str | None) -> Version | None:
    return target.oldest_runtime if min_runtime is None else as_version(min_runtime)


def _costs(
    measure: bool,
    given: Costs | str | os.PathLike[str] | None,
    device: str | os.PathLike[str] | None,
) -> Costs:
    """Rates of the processor to plan for: this one's if it is measured on, else the default's."""
    if given is not None and device is not None:
        raise RecipeError(
            "costs and device both say what to plan for: leave one out. "
            f"Received: device={os.fspath(device)!r:.80}"
        )
    if device is not None:
        return as_costs(device)
    if given is not None:
        if not isinstance(given, Costs | str | os.PathLike):
            raise RecipeError(
                f"costs must be a table or its file's path. Received: {type(given).__name__}"
            )
        return given if isinstance(given, Costs) else Costs.load(given)
    here = measure and has_int8_dot_product() is False
    return as_costs("x86-avx2" if here else DEFAULT)
