"""`offers`: recipes that are worth a trial, for a search that judges them by more than SQNR."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeq.converter import start_converter
from edgeq.export.export_options import ExportOptions
from edgeq.export.pipeline import make_ready
from edgeq.export.search.as_rules import recipe_of
from edgeq.export.search.auto import Search
from edgeq.export.search.trials import Trials
from edgeq.model import LiteModel
from edgeq.recipe import Recipe
from edgeq.terminal.progress import Progress


@dataclass(frozen=True)
class Offers:
    """What a search can try.

    Attributes:
        float_model: The model as traced; `export` takes it in place of the user's.
        recipes: From the fastest plan to the most faithful, by estimates; empty where the recipe
            that was asked for leaves nothing open.
    """

    float_model: LiteModel
    recipes: tuple[Recipe, ...]


def offers(model: object, rep_dataset: object, options: ExportOptions, stages: Progress) -> Offers:
    """Finds the plans that `recipe="auto"` would choose from, as recipes.

    Args:
        model: As for `export`.
        rep_dataset: As for `export`.
        options: What is asked for.
        stages: Where the stages show.

    Raises:
        EdgeqError: As for `export`.
    """
    with start_converter() as converter:
        ready = make_ready(model, rep_dataset, options, stages, converter)
        traced, rewritten = ready.prepared.float_model, ready.prepared.rewritten
        if not ready.is_open:
            return Offers(traced, ())
        with stages.stage("search") as advance:
            trials = Trials(traced, ready.ladder, ready.judging.trials, False, advance)
            found = Search(trials, ready.choices, options).offers()
    plans = [recipe_of(rewritten, candidate.choices, "") for candidate in found]
    numbered = enumerate(dict.fromkeys(plans), 1)
    return Offers(traced, tuple(replace(plan, name=f"cut {place}") for place, plan in numbered))
