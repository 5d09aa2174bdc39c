"""Owns the PyTorch definition of the demo classifier and the loading of its weights.

This is the only module of the demo that imports torch, so nothing else in the package may import
it at module level.
"""

from importlib.resources import files
from typing import IO

import numpy as np
import torch
from torch import Tensor, nn

STEM_CHANNELS = 16
HEAD_CHANNELS = 256
EXPANSION = 4
CLASSES = 10
DROPOUT = 0.1
# (output channels, stride) of each inverted residual.
BLOCKS: tuple[tuple[int, int], ...] = ((24, 1), (24, 1), (40, 2), (40, 1), (64, 2), (64, 1))


def _convolution(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Returns a same-padded convolution without bias, followed by its batch normalisation."""
    return [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
    ]


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """Expands, filters each channel, projects back; adds the input when the shapes allow it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Builds the block.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            stride: Stride of the depthwise convolution.
        """
        super().__init__()
        hidden = in_channels * EXPANSION
        self.adds_input = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            *_convolution(in_channels, hidden),
            nn.ReLU6(),
            *_convolution(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.ReLU6(),
            *_convolution(hidden, out_channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps `(n, in_channels, h, w)` to `(n, out_channels, h / stride, w / stride)`."""
        output: Tensor = self.layers(features)
        return features + output if self.adds_input else output


class DemoNetwork(nn.Module):  # type: ignore[misc]
    """A small classifier of 28 x 28 grey images in the manner of MobileNetV2."""

    def __init__(self) -> None:
        """Builds the network with random weights."""
        super().__init__()
        layers: list[nn.Module] = [
            *_convolution(1, STEM_CHANNELS, kernel=3, stride=2),
            nn.ReLU6(),
        ]
        channels = STEM_CHANNELS
        for out_channels, stride in BLOCKS:
            layers.append(InvertedResidual(channels, out_channels, stride))
            channels = out_channels
        layers += [*_convolution(channels, HEAD_CHANNELS, kernel=3), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(HEAD_CHANNELS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Classifies images.

        Args:
            images: `(n, 1, 28, 28)` float32 in [-1, 1].

        Returns:
            Logits `(n, 10)`.
        """
        pooled = self.pool(self.features(images)).flatten(1)
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


def network_from_weights(weights: IO[bytes]) -> nn.Module:
    """Builds the network in eval mode with the float32 arrays of an `.npz` file.

    Args:
        weights: The open file, one array per entry of the state dictionary.

    Returns:
        The network: `(n, 1, 28, 28)` in [-1, 1] to logits `(n, 10)`.
    """
    with np.load(weights, allow_pickle=False) as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    network = DemoNetwork()
    network.load_state_dict(state)
    return network.eval()


def load_network() -> nn.Module:
    """Returns the trained network in eval mode, with the packaged weights.

    Returns:
        The network: `(n, 1, 28, 28)` in [-1, 1] to logits `(n, 10)`.
    """
    weights = files("edgeq.demo") / "assets" / "weights.npz"
    with weights.open("rb") as stream:
        return network_from_weights(stream)
