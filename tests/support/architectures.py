"""Well-known network architectures, with weights and inputs that behave like trained ones.

Each entry of `ARCHITECTURES` is one float model that an exporter meets in practice.  `samples`
draws smooth random inputs for it and `perturbed` gives it weights whose activations have the
spread of a trained network, so that tests need no downloads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

FloatArray: TypeAlias = npt.NDArray[np.float32]
Activation: TypeAlias = Callable[[], nn.Module]


class Build(Protocol):
    """Builds a model with freshly initialised weights."""

    def __call__(self, num_classes: int = 100) -> nn.Module:
        """Returns the model for `num_classes` outputs."""


@dataclass(frozen=True)
class Architecture:
    """A model definition and the input it takes.

    Attributes:
        name: Key of the entry in `ARCHITECTURES`.
        build: Builds the model; takes `num_classes`.
        input_shape: `(1, channels, height, width)`, or `(1, channels, length)` for waveforms.
    """

    name: str
    build: Build
    input_shape: tuple[int, ...]


def round_channels(channels: float, divisor: int = 8) -> int:
    """Rounds to a multiple of `divisor`, never losing more than a tenth of the channels."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


# Shared blocks.


class ConvNormAct(nn.Sequential):
    """Convolution that keeps the size at stride 1, batch normalisation, activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Activation | None = nn.ReLU,
        epsilon: float = 1e-5,
    ) -> None:
        padding = kernel // 2
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=epsilon),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class Residual(nn.Module):
    """Sum of a branch and a shortcut, followed by an activation."""

    def __init__(
        self,
        branch: nn.Module,
        shortcut: nn.Module | None = None,
        activation: Activation = nn.Identity,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut if shortcut is not None else nn.Identity()
        self.activation = activation()

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, inputs, H, W)` to the shape that branch and shortcut share."""
        outputs: Tensor = self.activation(self.branch(features) + self.shortcut(features))
        return outputs


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channel averages."""

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Activation = nn.ReLU,
        gate: Activation = nn.Hardsigmoid,
    ) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            activation(),
            nn.Conv2d(squeezed, channels, 1),
            gate(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, channels, H, W)` to the same shape."""
        gates: Tensor = self.gates(features)
        return features * gates


class InvertedResidual(nn.Module):
    """Expand, depthwise, optional squeeze-excite, project; residual where the shapes allow it."""

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        kernel: int,
        stride: int,
        conv: Callable[..., nn.Module],
        squeeze_excite: nn.Module | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(conv(inputs, expanded))
        layers.append(conv(expanded, expanded, kernel, stride, groups=expanded))
        if squeeze_excite is not None:
            layers.append(squeeze_excite)
        layers.append(conv(expanded, outputs, activation=None))
        self.layers = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        outputs: Tensor = self.layers(features)
        return features + outputs if self.has_shortcut else outputs


class GlobalMean(nn.Module):
    """Average over all positions."""

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, channels, H, W)` or `(N, channels, L)` to `(N, channels)`."""
        return features.mean(dim=tuple(range(2, features.ndim)))


def pooled_classifier(channels: int, num_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Global average pooling, flattening, dropout and a fully connected layer."""
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(channels, num_classes))


# MobileNets and EfficientNets.


def mobilenet_v1(num_classes: int = 100) -> nn.Module:
    """MobileNetV1: depthwise separable convolutions."""
    stages = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    stages += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    layers: list[nn.Module] = [ConvNormAct(3, 32, 3, 2)]
    inputs = 32
    for outputs, stride in stages:
        layers.append(ConvNormAct(inputs, inputs, 3, stride, groups=inputs))
        layers.append(ConvNormAct(inputs, outputs))
        inputs = outputs
    return nn.Sequential(*layers, pooled_classifier(inputs, num_classes))


def mobilenet_v2(num_classes: int = 100) -> nn.Module:
    """MobileNetV2: inverted residuals with linear bottlenecks and ReLU6."""
    stages = [
        # Expansion, outputs, repeats, stride.
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    conv = partial(ConvNormAct, activation=nn.ReLU6)
    layers: list[nn.Module] = [conv(3, 32, 3, 2)]
    inputs = 32
    for expansion, outputs, repeats, first_stride in stages:
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            layers.append(InvertedResidual(inputs, inputs * expansion, outputs, 3, stride, conv))
            inputs = outputs
    return nn.Sequential(
        *layers,
        conv(inputs, 1280),
        GlobalMean(),
        nn.Dropout(0.2),
        nn.Linear(1280, num_classes),
    )


# Kernel, expanded, outputs, squeeze-excite, hard swish, stride.
MobileNetV3Stages: TypeAlias = list[tuple[int, int, int, bool, bool, int]]

MOBILENET_V3_LARGE: MobileNetV3Stages = [
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
]
MOBILENET_V3_SMALL: MobileNetV3Stages = [
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
]


def _mobilenet_v3(stages: MobileNetV3Stages, hidden: int, num_classes: int) -> nn.Module:
    stem = partial(ConvNormAct, activation=nn.Hardswish, epsilon=1e-3)
    layers: list[nn.Module] = [stem(3, 16, 3, 2)]
    inputs = 16
    for kernel, expanded, outputs, squeezes, hard_swish, stride in stages:
        squeeze = SqueezeExcite(expanded, round_channels(expanded / 4)) if squeezes else None
        activation = nn.Hardswish if hard_swish else nn.ReLU
        conv = partial(ConvNormAct, activation=activation, epsilon=1e-3)
        layers.append(InvertedResidual(inputs, expanded, outputs, kernel, stride, conv, squeeze))
        inputs = outputs
    return nn.Sequential(
        *layers,
        stem(inputs, inputs * 6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(inputs * 6, hidden),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(hidden, num_classes),
    )


def mobilenet_v3_large(num_classes: int = 100) -> nn.Module:
    """MobileNetV3-Large: hard swish and squeeze-excite with hard sigmoid gates."""
    return _mobilenet_v3(MOBILENET_V3_LARGE, 1280, num_classes)


def mobilenet_v3_small(num_classes: int = 100) -> nn.Module:
    """MobileNetV3-Small: hard swish and squeeze-excite with hard sigmoid gates."""
    return _mobilenet_v3(MOBILENET_V3_SMALL, 1024, num_classes)


# Expansion, outputs, repeats, stride, kernel.
EFFICIENTNET_STAGES = [
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
]


def _efficientnet(activation: Activation, squeezes: bool, num_classes: int) -> nn.Module:
    conv = partial(ConvNormAct, activation=activation, epsilon=1e-3)
    layers: list[nn.Module] = [conv(3, 32, 3, 2)]
    inputs = 32
    for expansion, outputs, repeats, first_stride, kernel in EFFICIENTNET_STAGES:
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            expanded = inputs * expansion
            squeeze = None
            if squeezes:
                squeeze = SqueezeExcite(expanded, inputs // 4, activation, nn.Sigmoid)
            block = InvertedResidual(inputs, expanded, outputs, kernel, stride, conv, squeeze)
            layers.append(block)
            inputs = outputs
    return nn.Sequential(*layers, conv(inputs, 1280), pooled_classifier(1280, num_classes, 0.2))


def efficientnet_lite0(num_classes: int = 100) -> nn.Module:
    """EfficientNet-Lite0: ReLU6 and no squeeze-excite."""
    return _efficientnet(nn.ReLU6, False, num_classes)


def efficientnet_b0(num_classes: int = 100) -> nn.Module:
    """EfficientNet-B0: SiLU and squeeze-excite with sigmoid gates."""
    return _efficientnet(nn.SiLU, True, num_classes)


# Residual networks.


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return ConvNormAct(inputs, outputs, 1, stride, activation=None)


def _basic_block(inputs: int, width: int, stride: int) -> nn.Module:
    branch = nn.Sequential(
        ConvNormAct(inputs, width, 3, stride), ConvNormAct(width, width, 3, activation=None)
    )
    return Residual(branch, _projection(inputs, width, stride), nn.ReLU)


def _bottleneck_block(inputs: int, width: int, stride: int) -> nn.Module:
    branch = nn.Sequential(
        ConvNormAct(inputs, width),
        ConvNormAct(width, width, 3, stride),
        ConvNormAct(width, 4 * width, activation=None),
    )
    return Residual(branch, _projection(inputs, 4 * width, stride), nn.ReLU)


def _resnet(
    block: Callable[[int, int, int], nn.Module],
    expansion: int,
    depths: tuple[int, ...],
    num_classes: int,
) -> nn.Module:
    layers: list[nn.Module] = [ConvNormAct(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for index in range(depth):
            layers.append(block(inputs, width, 2 if stage and index == 0 else 1))
            inputs = width * expansion
    return nn.Sequential(*layers, pooled_classifier(inputs, num_classes))


def resnet18(num_classes: int = 100) -> nn.Module:
    """ResNet-18: basic residual blocks."""
    return _resnet(_basic_block, 1, (2, 2, 2, 2), num_classes)


def resnet50(num_classes: int = 100) -> nn.Module:
    """ResNet-50: bottleneck residual blocks with the stride on the 3 x 3 convolution."""
    return _resnet(_bottleneck_block, 4, (3, 4, 6, 3), num_classes)


def _regnet_block(inputs: int, width: int, stride: int, group_width: int) -> nn.Module:
    branch = nn.Sequential(
        ConvNormAct(inputs, width),
        ConvNormAct(width, width, 3, stride, groups=width // group_width),
        SqueezeExcite(width, round(inputs / 4), gate=nn.Sigmoid),
        ConvNormAct(width, width, activation=None),
    )
    return Residual(branch, _projection(inputs, width, stride), nn.ReLU)


def regnet_y_400mf(num_classes: int = 100) -> nn.Module:
    """RegNetY-400MF: grouped bottlenecks with squeeze-excite."""
    layers: list[nn.Module] = [ConvNormAct(3, 32, 3, 2)]
    inputs = 32
    for width, depth in [(48, 1), (104, 3), (208, 6), (440, 6)]:
        for index in range(depth):
            layers.append(_regnet_block(inputs, width, 2 if index == 0 else 1, group_width=8))
            inputs = width
    return nn.Sequential(*layers, pooled_classifier(inputs, num_classes))


# DenseNet, SqueezeNet, ShuffleNet and GhostNet.


class NormActConv(nn.Sequential):
    """Batch normalisation, ReLU and a convolution, in the pre-activation order."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        )


class DenseLayer(nn.Module):
    """Appends `growth` new channels to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            NormActConv(inputs, 4 * growth), NormActConv(4 * growth, growth, 3)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, inputs, H, W)` to `(N, inputs + growth, H, W)`."""
        return torch.cat([features, self.layers(features)], dim=1)


def densenet121(num_classes: int = 100) -> nn.Module:
    """DenseNet-121: every layer sees the outputs of all earlier ones in its block."""
    growth = 32
    channels = 64
    layers: list[nn.Module] = [ConvNormAct(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate((6, 12, 24, 16)):
        if stage:
            layers += [NormActConv(channels, channels // 2), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, pooled_classifier(channels, num_classes))


class Fire(nn.Module):
    """Squeezes the channels, then expands them with 1 x 1 and 3 x 3 convolutions."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeezed, 1), nn.ReLU())
        self.pointwise = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU())
        self.spatial = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, inputs, H, W)` to `(N, 2 * expanded, H, W)`."""
        squeezed = self.squeeze(features)
        return torch.cat([self.pointwise(squeezed), self.spatial(squeezed)], dim=1)


def squeezenet1_1(num_classes: int = 100) -> nn.Module:
    """SqueezeNet 1.1: fire modules, no normalisation, a convolution as the classifier."""
    pool = partial(nn.MaxPool2d, 3, 2, ceil_mode=True)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2),
        nn.ReLU(),
        pool(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        pool(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
        nn.Dropout(0.5),
        nn.Conv2d(512, num_classes, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def shuffle_channels(features: Tensor, groups: int) -> Tensor:
    """Interleaves the channel groups of `(N, channels, H, W)`."""
    count, channels, height, width = features.shape
    grouped = features.reshape(count, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(count, channels, height, width)


class ShuffleUnit(nn.Module):
    """Transforms half of the channels and shuffles them with the other half."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.splits = stride == 1
        branch_inputs = half if self.splits else inputs
        self.branch = nn.Sequential(
            ConvNormAct(branch_inputs, half),
            ConvNormAct(half, half, 3, stride, groups=half, activation=None),
            ConvNormAct(half, half),
        )
        self.shortcut: nn.Module = nn.Identity()
        if not self.splits:
            self.shortcut = nn.Sequential(
                ConvNormAct(inputs, inputs, 3, stride, groups=inputs, activation=None),
                ConvNormAct(inputs, half),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        kept, changed = features.chunk(2, dim=1) if self.splits else (features, features)
        outputs = torch.cat([self.shortcut(kept), self.branch(changed)], dim=1)
        return shuffle_channels(outputs, groups=2)


def shufflenet_v2(num_classes: int = 100) -> nn.Module:
    """ShuffleNetV2 x1.0: channel splits and channel shuffles."""
    layers: list[nn.Module] = [ConvNormAct(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 24
    for outputs, repeats in [(116, 4), (232, 8), (464, 4)]:
        for index in range(repeats):
            layers.append(ShuffleUnit(inputs, outputs, 2 if index == 0 else 1))
            inputs = outputs
    return nn.Sequential(
        *layers, ConvNormAct(inputs, 1024), GlobalMean(), nn.Linear(1024, num_classes)
    )


class Ghost(nn.Module):
    """Computes half of the channels and derives the other half with a depthwise convolution."""

    def __init__(self, inputs: int, outputs: int, activation: Activation | None = nn.ReLU) -> None:
        super().__init__()
        half = outputs // 2
        self.primary = ConvNormAct(inputs, half, activation=activation)
        self.cheap = ConvNormAct(half, half, 3, groups=half, activation=activation)

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, inputs, H, W)` to `(N, outputs, H, W)`."""
        primary = self.primary(features)
        return torch.cat([primary, self.cheap(primary)], dim=1)


def _ghost_bottleneck(
    inputs: int, expanded: int, outputs: int, kernel: int, stride: int, squeezes: bool
) -> nn.Module:
    layers: list[nn.Module] = [Ghost(inputs, expanded)]
    if stride > 1:
        layers.append(
            ConvNormAct(expanded, expanded, kernel, stride, groups=expanded, activation=None)
        )
    if squeezes:
        layers.append(SqueezeExcite(expanded, round_channels(expanded / 4, 4)))
    layers.append(Ghost(expanded, outputs, activation=None))
    shortcut = None
    if stride > 1 or inputs != outputs:
        shortcut = nn.Sequential(
            ConvNormAct(inputs, inputs, kernel, stride, groups=inputs, activation=None),
            ConvNormAct(inputs, outputs, activation=None),
        )
    return Residual(nn.Sequential(*layers), shortcut)


def ghostnet(num_classes: int = 100) -> nn.Module:
    """GhostNet 1.0: ghost modules that derive half of their channels cheaply."""
    stages = [
        # Kernel, expanded, outputs, squeeze-excite, stride.
        (3, 16, 16, False, 1),
        (3, 48, 24, False, 2),
        (3, 72, 24, False, 1),
        (5, 72, 40, True, 2),
        (5, 120, 40, True, 1),
        (3, 240, 80, False, 2),
        (3, 200, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 184, 80, False, 1),
        (3, 480, 112, True, 1),
        (3, 672, 112, True, 1),
        (5, 672, 160, True, 2),
        (5, 960, 160, False, 1),
        (5, 960, 160, True, 1),
        (5, 960, 160, False, 1),
        (5, 960, 160, True, 1),
    ]
    layers: list[nn.Module] = [ConvNormAct(3, 16, 3, 2)]
    inputs = 16
    for kernel, expanded, outputs, squeezes, stride in stages:
        layers.append(_ghost_bottleneck(inputs, expanded, outputs, kernel, stride, squeezes))
        inputs = outputs
    return nn.Sequential(
        *layers,
        ConvNormAct(inputs, 960),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(960, 1280, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(1280, num_classes),
    )


# Re-parameterised networks.


def mobileone_s0(num_classes: int = 100) -> nn.Module:
    """MobileOne-S0 in its inference form: plain convolutions with folded normalisation."""

    def conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Module:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        return nn.Sequential(layer, nn.ReLU())

    layers: list[nn.Module] = [conv(3, 48, 3, 2, 1)]
    inputs = 48
    for outputs, depth in [(48, 2), (128, 8), (256, 10), (1024, 1)]:
        for index in range(depth):
            layers.append(conv(inputs, inputs, 3, 2 if index == 0 else 1, inputs))
            layers.append(conv(inputs, outputs, 1, 1, 1))
            inputs = outputs
    return nn.Sequential(*layers, pooled_classifier(inputs, num_classes))


class RepVggBlock(nn.Module):
    """Parallel 3 x 3, 1 x 1 and identity branches, each normalised, summed before a ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.spatial = ConvNormAct(inputs, outputs, 3, stride, activation=None)
        self.pointwise = ConvNormAct(inputs, outputs, 1, stride, activation=None)
        has_identity = stride == 1 and inputs == outputs
        self.identity = nn.BatchNorm2d(inputs) if has_identity else None

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        outputs: Tensor = self.spatial(features) + self.pointwise(features)
        if self.identity is not None:
            outputs = outputs + self.identity(features)
        return functional.relu(outputs)


def repvgg_a0(num_classes: int = 100) -> nn.Module:
    """RepVGG-A0 in its training form, with up to three branches per block."""
    layers: list[nn.Module] = [RepVggBlock(3, 48, 2)]
    inputs = 48
    for outputs, depth in [(48, 2), (96, 4), (192, 14), (1280, 1)]:
        for index in range(depth):
            layers.append(RepVggBlock(inputs, outputs, 2 if index == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, pooled_classifier(inputs, num_classes))


# ConvNeXt.


class Permute(nn.Module):
    """Reorders the dimensions."""

    def __init__(self, *dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, features: Tensor) -> Tensor:
        """Maps a tensor to its permuted view."""
        return features.permute(self.dimensions)


class LayerScale(nn.Module):
    """Scales each channel of a channels-last tensor by a learned factor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, H, W, channels)` to the same shape."""
        return features * self.scale


def _channel_norm(channels: int) -> nn.Module:
    norm = nn.LayerNorm(channels, eps=1e-6)
    return nn.Sequential(Permute(0, 2, 3, 1), norm, Permute(0, 3, 1, 2))


def _convnext_block(channels: int) -> nn.Module:
    branch = nn.Sequential(
        nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
        Permute(0, 2, 3, 1),
        nn.LayerNorm(channels, eps=1e-6),
        nn.Linear(channels, 4 * channels),
        nn.GELU(),
        nn.Linear(4 * channels, channels),
        LayerScale(channels),
        Permute(0, 3, 1, 2),
    )
    return Residual(branch)


def convnext_tiny(num_classes: int = 100) -> nn.Module:
    """ConvNeXt-Tiny: large depthwise kernels, layer normalisation, GELU, layer scale."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), _channel_norm(96)]
    inputs = 96
    for stage, depth in enumerate((3, 3, 9, 3)):
        channels = 96 * 2**stage
        if stage:
            layers += [_channel_norm(inputs), nn.Conv2d(inputs, channels, 2, 2)]
        layers += [_convnext_block(channels) for _ in range(depth)]
        inputs = channels
    head = nn.Linear(inputs, num_classes)
    return nn.Sequential(*layers, GlobalMean(), nn.LayerNorm(inputs, eps=1e-6), head)


# Vision transformer.


class PatchTokens(nn.Module):
    """Cuts an image into patches, a token each, behind a learned token for the whole."""

    def __init__(self, size: int, patch: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.whole = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))

    def forward(self, images: Tensor) -> Tensor:
        """Maps `(N, 3, size, size)` to `(N, tokens, width)`."""
        patches = self.embed(images).flatten(2).transpose(1, 2)
        whole = self.whole.expand(len(patches), -1, -1)
        return torch.cat([whole, patches], dim=1) + self.positions


class Attention(nn.Module):
    """Self-attention: each head mixes the tokens by how well their queries and keys agree."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.mixed = nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        return tokens.reshape(count, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps `(N, tokens, width)` to the same shape."""
        layers = (self.queries, self.keys, self.values)
        queries, keys, values = (self._split(layer(tokens)) for layer in layers)
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[-1])
        heads = scores.softmax(dim=-1) @ values
        outputs: Tensor = self.mixed(heads.transpose(1, 2).reshape(tokens.shape))
        return outputs


class FirstToken(nn.Module):
    """Keeps the first token alone."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps `(N, tokens, width)` to `(N, width)`."""
        return tokens[:, 0]


def _transformer_block(width: int, heads: int) -> nn.Module:
    mlp = (nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(width, eps=1e-6), Attention(width, heads))),
        Residual(nn.Sequential(nn.LayerNorm(width, eps=1e-6), *mlp)),
    )


def vit_tiny(num_classes: int = 100) -> nn.Module:
    """ViT-Tiny with patches of 16 x 16: 12 blocks of width 192 with 3 heads, for 224 x 224 only."""
    width = 192
    blocks = [_transformer_block(width, heads=3) for _ in range(12)]
    head = nn.Linear(width, num_classes)
    return nn.Sequential(
        PatchTokens(224, 16, width), *blocks, nn.LayerNorm(width, eps=1e-6), FirstToken(), head
    )


# Segmentation, audio and vectors.


def _double_conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(ConvNormAct(inputs, outputs, 3), ConvNormAct(outputs, outputs, 3))


class BilinearUpsample(nn.Module):
    """Doubles height and width, then changes the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(N, inputs, H, W)` to `(N, outputs, 2 * H, 2 * W)`."""
        size = (2 * features.shape[2], 2 * features.shape[3])
        resized = functional.interpolate(features, size, mode="bilinear", align_corners=False)
        outputs: Tensor = self.conv(resized)
        return outputs


class UNet(nn.Module):
    """U-Net whose last decoder stage upsamples bilinearly, the others by transposed convolution."""

    def __init__(
        self, num_classes: int = 100, widths: tuple[int, ...] = (32, 64, 128, 256)
    ) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.stem = _double_conv(3, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _double_conv(narrow, wide)) for narrow, wide in pairs
        )
        self.up = nn.ModuleList(
            BilinearUpsample(wide, narrow) if index == 0 else nn.ConvTranspose2d(wide, narrow, 2, 2)
            for index, (narrow, wide) in enumerate(pairs)
        )
        self.merge = nn.ModuleList(_double_conv(2 * narrow, narrow) for narrow, _ in pairs)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Maps `(N, 3, H, W)` to `(N, num_classes, H, W)`."""
        levels: list[Tensor] = [self.stem(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        features = levels.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            features = merge(torch.cat([levels.pop(), up(features)], dim=1))
        outputs: Tensor = self.head(features)
        return outputs


def unet(num_classes: int = 100) -> nn.Module:
    """U-Net with transposed convolutions and one bilinear stage."""
    return UNet(num_classes)


def audio_net(num_classes: int = 100) -> nn.Module:
    """Strided one-dimensional convolutions over a waveform."""
    layers: list[nn.Module] = []
    inputs = 1
    for outputs, kernel in [(64, 80), (64, 9), (128, 9), (256, 9)]:
        layers += [
            nn.Conv1d(inputs, outputs, kernel, 4, kernel // 2, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
        ]
        inputs = outputs
    return nn.Sequential(*layers, GlobalMean(), nn.Linear(inputs, num_classes))


def mlp(num_classes: int = 100) -> nn.Module:
    """Fully connected layers over a flattened image."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, num_classes),
    )


_IMAGE = (1, 3, 96, 96)
ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("mobilenet_v1", mobilenet_v1, _IMAGE),
        Architecture("mobilenet_v2", mobilenet_v2, _IMAGE),
        Architecture("mobilenet_v3_large", mobilenet_v3_large, _IMAGE),
        Architecture("mobilenet_v3_small", mobilenet_v3_small, _IMAGE),
        Architecture("efficientnet_lite0", efficientnet_lite0, _IMAGE),
        Architecture("efficientnet_b0", efficientnet_b0, _IMAGE),
        Architecture("resnet18", resnet18, _IMAGE),
        Architecture("resnet50", resnet50, _IMAGE),
        Architecture("regnet_y_400mf", regnet_y_400mf, _IMAGE),
        Architecture("densenet121", densenet121, _IMAGE),
        Architecture("ghostnet", ghostnet, _IMAGE),
        Architecture("mobileone_s0", mobileone_s0, _IMAGE),
        Architecture("repvgg_a0", repvgg_a0, _IMAGE),
        Architecture("convnext_tiny", convnext_tiny, _IMAGE),
        Architecture("squeezenet1_1", squeezenet1_1, _IMAGE),
        Architecture("shufflenet_v2", shufflenet_v2, _IMAGE),
        Architecture("vit_tiny", vit_tiny, (1, 3, 224, 224)),
        Architecture("unet", unet, (1, 3, 64, 64)),
        Architecture("audio_net", audio_net, (1, 1, 4000)),
        Architecture("mlp", mlp, (1, 1, 28, 28)),
    )
}


# Inputs.


def _waves(
    generator: np.random.Generator, shape: tuple[int, ...], cycles: tuple[float, float], count: int
) -> npt.NDArray[np.float64]:
    """Sums `count` plane waves that have `cycles[0]` to `cycles[1]` periods across the field."""
    channels, *sizes = shape
    axes = np.meshgrid(*(np.linspace(0.0, 1.0, size) for size in sizes), indexing="ij")
    field = np.zeros(shape)
    for _ in range(count):
        frequency = math.exp(generator.uniform(math.log(cycles[0]), math.log(cycles[1])))
        direction = generator.normal(size=len(sizes))
        direction *= 2.0 * math.pi * frequency / np.linalg.norm(direction)
        phase = generator.uniform(0.0, 2.0 * math.pi)
        wave = np.cos(phase + sum(rate * axis for rate, axis in zip(direction, axes, strict=True)))
        # A shared part keeps the channels correlated, as the colours of a photograph are.
        weights = generator.normal() + 0.5 * generator.normal(size=channels)
        field += weights.reshape(-1, *(1 for _ in sizes)) * wave / math.sqrt(frequency)
    return field


def _sample(shape: tuple[int, ...], seed: int, index: int) -> FloatArray:
    generator = np.random.default_rng((seed, index))
    is_waveform = len(shape) == 2
    cycles = (20.0, 800.0) if is_waveform else (0.5, 8.0)
    field = _waves(generator, shape, cycles, count=12)
    field *= generator.uniform(0.7, 1.1) / field.std()
    field -= (1.0 if is_waveform else 0.7) * field.mean()
    field += 0.1 * generator.normal(size=shape)
    return field.astype(np.float32)


def samples(architecture: Architecture, count: int, seed: int = 0) -> FloatArray:
    """Draws smooth random inputs of roughly zero mean and unit variance.

    Images are sums of low-frequency plane waves and waveforms are sums of sinusoids, both with a
    little noise.  A longer draw with the same seed starts with the shorter one.

    Args:
        architecture: The architecture that takes the inputs.
        count: Number of inputs.
        seed: Seed of the draw.

    Returns:
        An array of shape `(count, *architecture.input_shape[1:])`.
    """
    shape = architecture.input_shape[1:]
    return np.stack([_sample(shape, seed, index) for index in range(count)])


# Weights.
#
# Plain random networks are chaotic: a small difference between two inputs grows from layer to
# layer until nothing of the input is left.  Trained networks are not, and rounding to eight bits
# would swamp a model that was.  Two measures tame the weights below: most of each kernel is smooth
# in space, and most inputs of the rectifiers are positive.

_SMOOTH_SHARE = 0.9
_POSITIVE_SHIFT = 0.7

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
BatchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
Weighted: TypeAlias = nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def _fan_in(layer: Weighted) -> float:
    """Number of products summed into one output value."""
    if isinstance(layer, nn.ConvTranspose2d):
        return float(layer.weight[:, 0].numel() / math.prod(layer.stride))
    return float(layer.weight[0].numel())


def _smooth_kernels(weight: Tensor) -> None:
    """Replaces most of each kernel of `(outputs, inputs, height, width)` by a bell."""
    rows, columns = (torch.exp(-(torch.linspace(-1, 1, size) ** 2)) for size in weight.shape[2:])
    bell = torch.outer(rows, columns)
    bell /= bell.square().mean().sqrt()
    heights = weight.std() * torch.randn(*weight.shape[:2], 1, 1)
    weight *= math.sqrt(1.0 - _SMOOTH_SHARE)
    weight += math.sqrt(_SMOOTH_SHARE) * heights * bell


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _WEIGHTED):
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / _fan_in(module)))
            if isinstance(module, nn.Conv2d):
                _smooth_kernels(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, _BATCH_NORMS):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, mean=_POSITIVE_SHIFT, std=0.2)
        elif isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, LayerScale):
            nn.init.uniform_(module.scale, 0.2, 1.0)


def _standardise(mean: float, layer: nn.Module, _: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
    """Gives each channel of `layer` a new mean and spread, as a folded normalisation would."""
    assert isinstance(layer, _WEIGHTED)
    assert layer.bias is not None
    channel_axis = outputs.ndim - 1 if isinstance(layer, nn.Linear) else 1
    outputs = outputs.movedim(channel_axis, -1)
    values = outputs.flatten(0, -2)
    scale = torch.empty(values.shape[1]).uniform_(0.6, 1.4) / (values.std(dim=0) + 1e-3)
    shift = mean + 0.2 * torch.randn(values.shape[1]) - scale * values.mean(dim=0)
    weight_axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    layer.weight.movedim(weight_axis, -1).mul_(scale)
    layer.bias.mul_(scale).add_(shift)
    return (outputs * scale + shift).movedim(-1, channel_axis)


def _damp_gates(model: nn.Module) -> list[nn.Module]:
    """Keeps gates away from their limits, and returns the layers that compute them."""
    blocks = [module for module in model.modules() if isinstance(module, SqueezeExcite)]
    layers = [layer for block in blocks for layer in block.modules()]
    for layer in layers:
        if isinstance(layer, _WEIGHTED):
            layer.weight *= 0.5
    return layers


@contextmanager
def _standardising(model: nn.Module, exempt: list[nn.Module]) -> Iterator[None]:
    """Standardises every layer that no normalisation follows, in the order they run."""
    layers = [module for module in model.modules() if isinstance(module, _WEIGHTED)]
    handles = []
    for layer in layers:
        if layer.bias is not None and layer not in exempt:
            mean = 0.0 if layer is layers[-1] else _POSITIVE_SHIFT
            handles.append(layer.register_forward_hook(partial(_standardise, mean)))
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def _measuring(norms: list[BatchNorm]) -> Iterator[None]:
    """Lets batch normalisations replace their statistics by those of the batches they see."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _calibrate(model: nn.Module, batch: Tensor) -> None:
    """Fits normalisations and biased layers to `batch`, then moves the statistics slightly."""
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
    with _measuring(norms), _standardising(model, exempt=_damp_gates(model)):
        model(batch)
    for norm in norms:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        mean += 0.05 * variance.sqrt() * torch.randn_like(mean)
        variance *= torch.empty_like(variance).uniform_(0.9, 1.1)


def perturbed(architecture: Architecture, seed: int = 0) -> nn.Module:
    """Builds a model that behaves like a trained one, without training it.

    Activations keep their scale from layer to layer, different inputs give different outputs,
    similar inputs give similar ones, and the normalisations are far from the identity.  The result
    depends on the arguments only.

    Args:
        architecture: The architecture to build.
        seed: Seed of the weights.

    Returns:
        The model, in evaluation mode and without gradients.
    """
    batch = torch.from_numpy(samples(architecture, 16, seed=seed + 1))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = architecture.build().eval().requires_grad_(False)
        _initialise(model)
        _calibrate(model, batch)
    return model
