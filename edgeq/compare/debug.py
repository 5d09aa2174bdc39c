"""`debug`: which layers of an integer model cost its outputs most, why, and what to do about it.

Knows in which order models are loaded, run and measured; what runs is `Parts`', what is concluded
is `causes`'.
"""

from __future__ import annotations

import itertools
from typing import Any

from edgeq.argument_types import DataLike, FilePath, ModelLike
from edgeq.compare.layer_errors import Part, Parts, Seen
from edgeq.compare.load_models import load, worker_for
from edgeq.compare.loss_causes import Loss, explain
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.data.sequences import read_data, repeatable
from edgeq.data.steps import Step, completed
from edgeq.errors import ModelError
from edgeq.export.deploy.scales_entry import read_scales, read_shifts
from edgeq.export.edge_model import EdgeModel
from edgeq.export.equalize.absorb import scaled_as
from edgeq.export.equalize.centre import shifted_as
from edgeq.export.noise.bound import noise_bound_db
from edgeq.export.noise.sensitivity import Noise, measure_noise
from edgeq.export.pipeline import export
from edgeq.export.rewrite import rewrite
from edgeq.fidelity.paired_run import PairedRun
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.recipe import Recipe, as_recipe
from edgeq.report.diagnosis import Diagnosis, LayerError
from edgeq.runtime.backend import load_backend
from edgeq.targets import TARGETS
from edgeq.terminal.progress import Progress

MOST_SAMPLES = 16
"""Samples that are run."""


def debug(
    float_model: ModelLike | LiteModel | EdgeModel,
    edge_model: FilePath | bytes | LiteModel | EdgeModel | None,
    data: DataLike,
    *,
    recipe: FilePath | Recipe = "int8",
    goal_db: float = 20.0,
    progress: bool | None = None,
) -> Diagnosis:
    """Finds out which layers of an integer model lose what, and why.

    Args:
        float_model: As for `compare`; of an `EdgeModel`, its float model is taken.
        edge_model: An `EdgeModel`, or the path or bytes of a .tflite of any converter that keeps
            the names of tensors. None exports the float model by `recipe` first. Scales of channels
            are read from its metadata.
        data: As `rep_dataset` of `export`. The first 16 samples are run; all of them calibrate if
            the float model is exported first.
        recipe: What the edge model was or is to be exported with. The suggested recipe has its
            rules behind new ones.
        goal_db: SQNR in dB from which on the outputs are good enough.
        progress: As for `export`.

    Returns:
        Every layer, the one that costs the outputs most first, and a better recipe.

    Raises:
        ModelError: A model cannot be read or traced, or the two have no tensors in common.
        DataError: The data do not fit, or the float model's outputs are not finite.
        EdgeqError: What `export` raises, where there is no edge model.
    """
    stages, base = Progress.make(progress), as_recipe(recipe)
    if edge_model is None:
        data = repeatable(data)
        source: Any = float_model.tflite if isinstance(float_model, LiteModel) else float_model
        edge_model = export(source, data, recipe=base, min_sqnr_db=None, progress=progress)
    dataset = read_data(data)
    with worker_for((float_model, edge_model)) as worker, stages.stage("load"):
        edge = load("the edge model", edge_model, dataset, worker)
        parts = _parts(float_model, edge_model, edge, dataset, worker)
        samples = _first(dataset, parts.reference)
        parts.check_runs(worker, samples[0])
    with stages.stage("compare", len(samples)) as advance:
        sqnr_db = PairedRun((parts.reference, edge))(samples).least_db
        seen = parts.run(samples, advance)
    with stages.stage("measure") as advance:
        rounded = parts.rounded()
        noise = measure_noise(parts.reference, parts.plan(), rounded, samples, advance)
        bound_db = noise_bound_db(parts.reference, parts.plan(), samples)
    losses = [_loss(parts, *pair, noise) for pair in zip(parts.parts, seen, strict=True)]
    found = Diagnosis(
        layers=tuple(loss.line for loss in losses),
        sqnr_db=sqnr_db,
        samples=len(samples),
        runtime=load_backend().describe(),
        bound_db=bound_db,
    )
    return explain(found, parts.reference, losses, base, goal_db)


def _parts(
    float_model: object, edge_model: object, edge: LiteModel, data: RepDataset, worker: Worker
) -> Parts:
    """The edge model beside the float model that it was made from."""
    if isinstance(edge_model, EdgeModel):
        return Parts(edge_model.rewritten, edge, edge_model.beside_float())
    scales, shifts = read_scales(edge.tree), read_shifts(edge.tree)
    references = [
        scaled_as(shifted_as(r, shifts), scales) for r in _references(float_model, data, worker)
    ]
    found = max((Parts(reference, edge) for reference in references), key=lambda p: p.in_common)
    if not found.in_common and len(found.reference.graph.operators) > 1:
        raise ModelError(
            "the two models have no tensors in common by name and shape: pass the float model that "
            "the edge model was made from, by a converter that keeps names"
        )
    return found


def _references(float_model: object, data: RepDataset, worker: Worker) -> list[LiteModel]:
    """The float model in the forms that the edge model may have been made from."""
    if isinstance(float_model, EdgeModel):
        float_model = float_model.float_model
    loaded = load("the float model", float_model, data, worker)
    forms = [*(rewrite(loaded, target) for target in TARGETS.values()), loaded]
    return list({form.digest: form for form in forms}.values())  # most are the same


def _first(data: RepDataset, model: LiteModel) -> list[Sample]:
    """The first samples, in arrays of their own."""
    samples = completed(data.of(model).samples(input_specs(model)), model)
    return [
        sample.copied() if isinstance(sample, Step) else tuple(array.copy() for array in sample)
        for sample in itertools.islice(samples, MOST_SAMPLES)
    ]


def _loss(parts: Parts, part: Part, seen: Seen, noise: Noise) -> Loss:
    by_result = noise.tensors.get(part.real, 0.0)
    by_weight = 0.0 if part.origin is None else noise.weights.get(part.origin.index, 0.0)
    line = LayerError(
        layer=part.name,
        op="" if part.op is None else part.op.name,
        index=None if part.op is None else part.op.index,
        kind=part.result.dtype if part.op is None else parts.exported.kind(part.op),
        cost=by_weight + by_result,
        noise=by_result,
        added_db=seen.added.sqnr_db,
        accumulated_db=seen.accumulated.sqnr_db,
        spread=seen.spread(),
        histogram=seen.histogram(),
    )
    weight = None if part.op is None else parts.weight(part.op)
    return Loss(line, part.origin, part.real, by_weight, weight)
