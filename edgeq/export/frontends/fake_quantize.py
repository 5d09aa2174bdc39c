"""Fake quantization in a trained PyTorch module, and how its scales are read.

`WeightFakeQuantize` and `ActivationFakeQuantize` compute with the numbers that the exported file
will hold; `finished` takes them out again and keeps what they have learned. Know PyTorch and the
arithmetic of integers, nothing of graphs or recipes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgeq.export.plan.weight_scales import CLIPS, SMALLEST_BLOCK_SCALE
from edgeq.qtypes import SCALE_MIN, DType, covering
from edgeq.recipe import DEFAULT_SCHEME, WeightScheme

MOMENTUM = 0.05
"""How much of its range an activation takes from each batch; all of it from the first."""

INPUT_NAME = "edgeq_input"
"""Attribute of a layer that holds the fake quantization of what it reads."""

LearnedRange = tuple[str, float, float]
"""`(layer path, lowest, highest)` of what a layer reads."""


@dataclass(frozen=True)
class WeightForm:
    """How a weight is stored.

    Attributes:
        dtype: Integer type.
        axis: Axis of the output channels in PyTorch's weight.
        weights: Whether each channel has a scale, or each block of columns.
    """

    dtype: DType
    axis: int
    weights: WeightScheme = DEFAULT_SCHEME


class WeightFakeQuantize(nn.Module):  # type: ignore[misc]  # torch is not followed
    """A parametrization that rounds a weight to the integers of a form.

    With a batch normalisation behind it, what is rounded is the weight with its scale in it,
    `weight * gamma / sqrt(running_var + eps)`, as in the exported file; the scale is taken out
    again for the convolution. Gradients pass where a weight is inside its range.

    Args:
        form: How the weight will be stored.
        norm: The batch normalisation that the converter folds into the weight, if any.
    """

    def __init__(self, form: WeightForm, norm: Any = None) -> None:
        super().__init__()
        self.form = form
        self._norm = [norm]  # in a list, so that it does not become a part of this module

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, same shape."""
        factor = self._factor(weight)
        rounded: Tensor = _rounded(weight * factor, self.form) / factor
        return rounded

    def _factor(self, weight: Tensor) -> Tensor:
        norm = self._norm[0]
        if norm is None:
            return weight.new_ones(())
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        # A channel that the normalisation switches off keeps its weight as it is.
        scale = torch.where(scale.abs() < SCALE_MIN, torch.ones_like(scale), scale)
        shape = [-1 if axis == self.form.axis else 1 for axis in range(weight.ndim)]
        return scale.reshape(shape)


def _rounded(weight: Tensor, form: WeightForm) -> Tensor:
    if form.weights.block_size:
        blocks = weight.reshape(-1, form.weights.block_size)
        scale = _scales(blocks.detach(), form.dtype).clamp_min(SMALLEST_BLOCK_SCALE)
        # The kernels read the scales with the 8 leading bits of bfloat16.
        rounded = _fake_quantize(blocks, scale.bfloat16().float(), 0, form.dtype)
        return rounded.reshape(weight.shape)
    rows = weight.detach().transpose(0, form.axis).flatten(1)
    if not form.weights.per_channel:
        scale = _scales(rows.reshape(1, -1), form.dtype)
        return _fake_quantize(weight, scale.expand(weight.shape[form.axis]), form.axis, form.dtype)
    return _fake_quantize(weight, _scales(rows, form.dtype), form.axis, form.dtype)


def _fake_quantize(weight: Tensor, scale: Tensor, axis: int, dtype: DType) -> Tensor:
    zero_points = torch.zeros(len(scale), dtype=torch.int32, device=scale.device)
    low, high = dtype.limits(narrow_range=True)
    return torch.fake_quantize_per_channel_affine(
        weight, scale.contiguous(), zero_points, axis, low, high
    )


def _scales(rows: Tensor, dtype: DType) -> Tensor:
    """A scale for each row, chosen as the export chooses it."""
    top = dtype.limits(narrow_range=True)[1]
    absmax = rows.abs().amax(dim=1)
    if dtype.bits < 8:
        absmax = absmax * _best_clip(rows, absmax, top)
    return (absmax / top).clamp_min(SCALE_MIN)


def _best_clip(rows: Tensor, absmax: Tensor, top: int) -> Tensor:
    """Share of each row's largest magnitude that loses least."""
    clips = torch.as_tensor(CLIPS, dtype=rows.dtype, device=rows.device)
    errors = []
    for clip in clips:
        step = (absmax * clip / top).clamp_min(SCALE_MIN)[:, None]
        errors.append(((rows / step).round().clamp(-top, top) * step - rows).square().sum(dim=1))
    return clips[torch.stack(errors).argmin(dim=0)]


class ActivationFakeQuantize(nn.Module):  # type: ignore[misc]
    """Rounds an activation to integers whose range is a moving average of the batches' extremes.

    Args:
        dtype: Integer type.
    """

    low: Tensor
    high: Tensor
    frozen: Tensor

    def __init__(self, dtype: DType) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("low", torch.tensor(float("nan")))
        self.register_buffer("high", torch.tensor(float("nan")))
        self.register_buffer("frozen", torch.tensor(False))

    @property
    def range(self) -> tuple[float, float] | None:
        """Lowest and highest value that it holds; None before the first batch."""
        low, high = float(self.low), float(self.high)
        return None if low != low else (low, high)

    def forward(self, values: Tensor) -> Tensor:
        """The rounded values, same shape; as they are before the first batch of a training."""
        if self.training and not self.frozen:
            self._observe(values.detach())
        found = self.range
        if found is None:
            return values
        qparams = covering(found, self.dtype)
        low, high = self.dtype.limits()
        return torch.fake_quantize_per_tensor_affine(
            values, qparams.scale[0], qparams.zero_point[0], low, high
        )

    def _observe(self, values: Tensor) -> None:
        low, high = torch.aminmax(values)
        if bool(self.low.isnan()):
            self.low.copy_(low)
            self.high.copy_(high)
        else:
            self.low.lerp_(low, MOMENTUM)
            self.high.lerp_(high, MOMENTUM)


def quantize_input(layer: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The forward pre-hook of a layer that reads integers."""
    return (getattr(layer, INPUT_NAME)(arguments[0]), *arguments[1:])


def hold_statistics(norm: Any, _: object) -> None:
    """The forward pre-hook of a batch normalisation whose statistics do not move any more."""
    norm.training = False


def is_trained(module: Any) -> bool:
    """Whether a module carries fake quantization."""
    return any(isinstance(p, WeightFakeQuantize | ActivationFakeQuantize) for p in module.modules())


def finished(module: Any) -> tuple[Any, tuple[LearnedRange, ...]]:
    """A copy of a trained module without fake quantization, and the ranges that it has learned.

    Its weights are those that the fake quantization rounded to, so that the export rounds to the
    same integers.
    """
    module = copy.deepcopy(module).eval()
    ranges = []
    for path, part in list(module.named_modules()):
        if parametrize.is_parametrized(part):
            _make_plain(part)
        _drop_hook(part, quantize_input)
        _drop_hook(part, hold_statistics)
        if hasattr(part, INPUT_NAME):
            found = getattr(part, INPUT_NAME).range
            ranges += [] if found is None else [(path, *found)]
            delattr(part, INPUT_NAME)
    return module, tuple(ranges)


def _make_plain(part: Any) -> None:
    """Puts the values of parametrized tensors in their place.

    PyTorch's own way takes them out of the class, which the copy shares with the original.
    """
    values = {name: getattr(part, name).detach() for name in part.parametrizations}
    part.__class__ = parametrize.type_before_parametrizations(part)
    del part.parametrizations
    for name, value in values.items():
        part.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _drop_hook(part: Any, hook: Callable[..., Any]) -> None:
    for key, registered in list(part._forward_pre_hooks.items()):
        if registered is hook:
            del part._forward_pre_hooks[key]
