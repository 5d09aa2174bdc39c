"""Quantization-aware training for PyTorch: a module that trains with the numbers of its export.

model = edgeq.qat.prepare(model, sample, recipe="int8")
...                                   # the training loop, as it is
edgeq.qat.freeze(model)               # for the last epoch or two
edge_model = edgeq.export(model, rep_dataset, recipe="int8")
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DependencyError, ModelError, RecipeError
from edgeq.export import frontends
from edgeq.export.plan.choices import Choice, choose, weight_slot
from edgeq.export.rewrite import rewrite
from edgeq.recipe import Mode, Recipe, as_recipe

try:
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    from edgeq.export.frontends.fake_quantize import (
        INPUT_NAME,
        ActivationFakeQuantize,
        WeightFakeQuantize,
        WeightForm,
        hold_statistics,
        is_trained,
        quantize_input,
    )
except ImportError:
    raise DependencyError(
        "training with fake quantization needs PyTorch: pip install 'edgeq[torch]'"
    ) from None

__all__ = ["freeze", "prepare"]

_CHANNEL_AXIS = {
    nn.Conv1d: 0, nn.Conv2d: 0, nn.Linear: 0, nn.Embedding: 0,
    nn.ConvTranspose1d: 1, nn.ConvTranspose2d: 1,
}  # fmt: skip
"""Axis of the output channels in the weight of each layer that can be trained so."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def prepare(model: Any, sample: Any, recipe: str | Recipe = "int8") -> Any:
    """A copy of a module that computes with the integers of its export, ready to be trained.

    Weights are rounded as `recipe` has them stored, with the batch normalisation behind them
    folded in as the export does it; where it makes a layer static, what the layer reads is rounded
    too, in a range that follows the training batches. Gradients pass straight through where a value
    is inside its range.

    Args:
        model: The trained float module; it is not changed.
        sample: One input, as for `export`.
        recipe: As for `export`, which must be given the same; where it says `"auto"`, layers are
            static int8.

    Returns:
        The module to train; its parameters are those of the original under the same names, apart
        from the weights, which stand under `parametrizations.weight.original` of their layer.

    Raises:
        ModelError: It carries fake quantization already, has no layer to quantize, or cannot be
            traced.
        RecipeError: It asks for zero points of weights.
        EdgeqError: As for `export`.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"quantization-aware training is for PyTorch modules. Received: {type(model).__name__}"
        )
    if is_trained(model):
        raise ModelError("the module carries fake quantization already: go on training it")
    chosen = _choices(model, sample, as_recipe(recipe))
    if not all(choice.weights.symmetric for choice in chosen.values()):
        raise RecipeError(
            "fake quantization trains with the zero point 0: leave out symmetric=False"
        )
    prepared = copy.deepcopy(model)
    layers = dict(_layers(prepared, chosen))
    if not layers:
        raise ModelError("the recipe makes no weight of a layer of the module an integer")
    norms = _norms_behind(prepared, sample, layers)
    for path, layer in layers.items():
        _quantize(layer, chosen[path], norms.get(layer))
    return prepared


def freeze(model: Any) -> None:
    """Holds the ranges of activations and the statistics of batch normalisations where they are.

    For the last part of a training: from here on the module computes with the very numbers that its
    export will have. It is changed in place.

    Raises:
        ModelError: The module was not prepared.
    """
    if not is_trained(model):
        raise ModelError("only a module made by edgeq.qat.prepare can be frozen")
    for part in model.modules():
        if isinstance(part, ActivationFakeQuantize):
            part.frozen.fill_(True)
        if isinstance(part, _NORMS):
            part.register_forward_pre_hook(hold_statistics)


def _choices(model: Any, sample: Any, recipe: Recipe) -> Mapping[str, Choice]:
    """Choice for the weight of each layer, by its path."""
    with start_converter() as worker:
        traced = rewrite(frontends.trace(model, sample, RepDataset([sample]), worker))
    graph = traced.graph
    return {
        traced.layer(graph.operators[index]): choice
        for index, choice in choose(traced, recipe).items()
        if weight_slot(graph, graph.operators[index]) is not None
    }


def _layers(model: Any, choices: Mapping[str, Choice]) -> Iterator[tuple[str, Any]]:
    """The layers whose weights become integers, by path; says which cannot be trained so."""
    others = []
    for path, choice in choices.items():
        if _mode(choice).weight_dtype is None:
            continue
        try:
            layer = model.get_submodule(path)
        except AttributeError:
            layer = None
        if type(layer) in _CHANNEL_AXIS:
            yield path, layer
        else:
            others.append(path)
    if others:
        warnings.warn(
            f"not trained with fake quantization, but quantized by the export: {', '.join(others)}",
            stacklevel=3,
        )


def _mode(choice: Choice) -> Mode:
    return Mode.STATIC_INT8 if choice.mode is Mode.AUTO else choice.mode


def _quantize(layer: Any, choice: Choice, norm: Any) -> None:
    mode = _mode(choice)
    assert mode.weight_dtype is not None
    axis = _CHANNEL_AXIS[type(layer)]
    form = WeightForm(mode.weight_dtype, axis, choice.weights)
    parametrize.register_parametrization(layer, "weight", WeightFakeQuantize(form, norm))
    if mode.is_static and not isinstance(layer, nn.Embedding):
        layer.add_module(INPUT_NAME, ActivationFakeQuantize(mode.activation_dtype))
        layer.register_forward_pre_hook(quantize_input)


def _norms_behind(model: Any, sample: Any, layers: Mapping[str, Any]) -> dict[Any, Any]:
    """The batch normalisation that reads what a layer makes as it is, by layer."""
    made: dict[int, tuple[Any, Any, int]] = {}
    found: dict[Any, Any] = {}

    def made_by(layer: Any, _: object, output: Any) -> None:
        made[id(output)] = layer, output, output._version

    def read_by(norm: Any, arguments: tuple[Any, ...]) -> None:
        layer, output, version = made.get(id(arguments[0]), (None, None, -1))
        if layer is not None and output._version == version:
            found[layer] = norm

    hooks = [layer.register_forward_hook(made_by) for layer in layers.values()]
    hooks += [
        part.register_forward_pre_hook(read_by)
        for part in model.modules()
        if isinstance(part, _NORMS) and part.track_running_stats
    ]
    was_training = [(part, part.training) for part in model.modules()]
    with torch.no_grad():
        frontends.pytorch.run(model.eval(), sample)
    for part, training in was_training:
        part.training = training
    for hook in hooks:
        hook.remove()
    return found
