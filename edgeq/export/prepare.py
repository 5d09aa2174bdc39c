"""The first stages, which `export`, `plan` and `calibrate` share: trace and rewrite."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import Fixed
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import ModelError, RecipeError
from edgeq.export import frontends
from edgeq.export.convert.integer_ports import Interface, known_ranges
from edgeq.export.convert.loop_weights import with_lifted_weights
from edgeq.export.export_options import ExportOptions
from edgeq.export.first_run import first_run
from edgeq.export.plan.planner import refuse_quantized
from edgeq.export.rewrite import rewrite
from edgeq.export.rewrite.checked import rewrite_checked
from edgeq.export.rewrite.nhwc_ports import to_nhwc
from edgeq.flatbuffer import pack
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.targets import TARGETS, Target
from edgeq.terminal.progress import Progress
from edgeq.versions import OLDEST, written


@dataclass(frozen=True)
class Prepared:
    """A model before anything is known of its data.

    Attributes:
        traced: The float model in the user's own layout.
        float_model: The float model as asked for, which the result is measured against.
        rewritten: The float model that plans speak of.
        interface: What its ports shall be.
        known: Ranges that need no data, by tensor of `rewritten`.
    """

    traced: LiteModel
    float_model: LiteModel
    rewritten: LiteModel
    interface: Interface
    known: Mapping[int, Fixed]


def prepare(
    model: object, data: RepDataset, options: ExportOptions, stages: Progress, converter: Worker
) -> Prepared:
    """Traces the user's model and rewrites it for the target.

    Args:
        model: The user's model.
        data: The representative data, of which the first sample may be looked at.
        options: What was asked for.
        stages: Where the stages show.
        converter: The converter's child process.

    Raises:
        ModelError: The model cannot be read or traced, or is quantized.
        RecipeError: The ports or the layout that were asked for do not fit it.
    """
    with stages.stage("trace"):
        traced = _traced(model, data, options, converter)
        refuse_quantized(traced)
        float_model = _laid_out(traced, options.layout, options.target)
    with stages.stage("rewrite"):
        sample = data.of(float_model).first_row(input_specs(float_model))
        if sample is not None:
            first_run(converter, float_model, sample, "the float model")
        rewritten = _lifted(
            float_model
            if float_model.given
            else rewrite_checked(float_model, options.target, sample, converter)
        )
        interface = Interface.of(rewritten, options.inputs, options.outputs)
        known = known_ranges(rewritten, interface)
    return Prepared(traced, float_model, rewritten, interface, known)


def _traced(
    model: object, data: RepDataset, options: ExportOptions, converter: Worker
) -> LiteModel:
    """The float model, which knows its states where the data does."""
    traced = frontends.trace(model, options.sample, data, converter, options.params)
    states = data.states_of(traced)
    if states:
        return replace(traced, states=states)
    return replace(traced, notes=(*traced.notes, *_kept_notes(traced)))


def _kept_notes(model: LiteModel) -> list[str]:
    """What the user should know of states that a model keeps by itself."""
    if not model.states:
        return []
    pairs = ", ".join(f"{given!r} is fed to {taken!r}" for taken, given in model.states)
    return [
        f"the model keeps states between its calls, which a file does not: {pairs} of the next "
        "run, zeros at first (Session.stream does it). The representative data were taken as one "
        "sequence; edgeq.Sequences(recordings) tells where each begins"
    ]


def check_made_for(calibration: Calibration, prepared: Prepared, options: ExportOptions) -> None:
    """Raises a `ModelError` for a calibration of the form that the model has otherwise."""
    for other in TARGETS.values():
        if calibration.model == prepared.rewritten.digest:
            return
        form = _rewritten(_laid_out(prepared.traced, options.layout, other), other)
        if calibration.model != form.digest:
            continue
        if other.name == options.target.name:
            raise ModelError(
                "the calibration was made for the newest run time, for which the model is "
                f"rewritten otherwise than for {written(options.oldest or OLDEST)}: export without "
                "min_runtime, or without calibration"
            )
        raise ModelError(
            f"the calibration was made for target {other.name!r}, for which the model is "
            f"rewritten otherwise than for {options.target.name!r}: calibrate with "
            f"target={options.target.name!r} too, or export with target={other.name!r}"
        )


def _laid_out(model: LiteModel, layout: str | None, target: Target) -> LiteModel:
    """The model with images as asked for, or else as the target likes them best."""
    if layout is not None:
        return to_nhwc(model)
    if target.layout is not None:
        with contextlib.suppress(RecipeError):  # it has no images, or has them as NHWC
            return to_nhwc(model)
    return model


def _rewritten(model: LiteModel, target: Target) -> LiteModel:
    """The model in better ops; one that brought scales is left in the ops that those are for."""
    return _lifted(model if model.given else rewrite(model, target))


def _lifted(model: LiteModel) -> LiteModel:
    """The model with the weights of its loops where plans speak of them."""
    tree = with_lifted_weights(model.tree)
    return model if tree is model.tree else replace(model, tflite=pack(tree))
