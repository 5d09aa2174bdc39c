"""The architectures that latencies are compared on, at the sizes that they are used at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from architectures import ARCHITECTURES, Architecture, perturbed, samples
from torch import Tensor, nn

from benchmarks.workshop import Sample

COUNT, UNSEEN = 40, 24
"""Representative samples of each model, and those that no contestant sees."""


@dataclass(frozen=True)
class Model:
    """A float model and its samples, of which a longer draw starts with the shorter one."""

    build: Callable[[], nn.Module]
    samples: Callable[[int], list[Sample]]


def _image(architecture: Architecture, size: int) -> Model:
    chosen = dataclasses.replace(architecture, input_shape=(1, 3, size, size))
    return Model(
        lambda: perturbed(chosen),
        lambda count: [(image[np.newaxis],) for image in samples(chosen, count)],
    )


class Attention(nn.Module):
    """Multi-head attention with its matrix products written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, states: Tensor) -> Tensor:
        """Maps `(N, length, width)` to the same shape."""
        count, length, width = states.shape
        split = (count, length, self.heads, width // self.heads)
        query, key, value = (
            part(states).view(split).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        shares = (query @ key.transpose(2, 3) / (width // self.heads) ** 0.5).softmax(dim=-1)
        outputs: Tensor = self.out((shares @ value).transpose(1, 2).reshape(count, length, width))
        return outputs


class Block(nn.Module):
    """A transformer block, normalised before (as ViT) or after (as BERT) each of its halves."""

    def __init__(self, width: int, heads: int, before: bool) -> None:
        super().__init__()
        self.before = before
        self.attention = Attention(width, heads)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, states: Tensor) -> Tensor:
        """Maps `(N, length, width)` to the same shape."""
        outputs: Tensor
        if self.before:
            states = states + self.attention(self.first(states))
            outputs = states + self._perceptron(self.second(states))
        else:
            states = self.first(states + self.attention(states))
            outputs = self.second(states + self._perceptron(states))
        return outputs

    def _perceptron(self, states: Tensor) -> Tensor:
        outputs: Tensor = self.narrow(functional.gelu(self.widen(states)))
        return outputs


class ViT(nn.Module):
    """ViT-tiny: 12 blocks of width 192 over patches of 16 x 16, and a class token."""

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 16, 16)
        self.token = nn.Parameter(0.5 * torch.randn(1, 1, 192))
        self.positions = nn.Parameter(0.5 * torch.randn(1, 197, 192))
        self.blocks = nn.Sequential(*(Block(192, 3, before=True) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Maps `(N, 3, 224, 224)` to `(N, num_classes)`."""
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(image), -1, -1), patches], dim=1)
        outputs: Tensor = self.head(self.norm(self.blocks(tokens + self.positions))[:, 0])
        return outputs


class BertMini(nn.Module):
    """BERT of four layers, width 256 and four heads over 128 ids of 30,522."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(30522, 256), nn.Embedding(128, 256)
        self.norm = nn.LayerNorm(256)
        self.layers = nn.Sequential(*(Block(256, 4, before=False) for _ in range(4)))

    def forward(self, ids: Tensor) -> Tensor:
        """Maps `(1, 128)` int32 to last hidden states `(1, 128, 256)`."""
        outputs: Tensor = self.layers(self.norm(self.words(ids) + self.positions.weight))
        return outputs


class TwoLayerLSTM(nn.Module):
    """Two layers of width 128 over 32 steps of 40 values, and a classifier of the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(40, 128, 2, batch_first=True), nn.Linear(128, 100)

    def forward(self, steps: Tensor) -> Tensor:
        """Maps `(1, 32, 40)` to `(1, 100)`."""
        _, (states, _) = self.lstm(steps)
        outputs: Tensor = self.head(states[-1])
        return outputs


def _seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The module with weights and normalisations of a trained one's spread, in eval mode."""

    def made() -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = build().eval().requires_grad_(False)
            for part in model.modules():
                if isinstance(part, nn.LayerNorm):
                    nn.init.uniform_(part.weight, 0.6, 1.4)
                    nn.init.normal_(part.bias, std=0.2)
                if isinstance(part, nn.Linear):
                    nn.init.normal_(part.weight, std=part.in_features**-0.5)
        return model

    return made


def _ids(count: int) -> list[Sample]:
    random = np.random.default_rng(0)
    return [(random.integers(0, 30522, (1, 128), np.int32),) for _ in range(count)]


def _walks(count: int) -> list[Sample]:
    """Random walks `(1, 32, 40)` of deviation 1."""
    walks = np.random.default_rng(0).normal(size=(count, 1, 32, 40)).cumsum(axis=2)
    return [((walk / walk.std()).astype(np.float32),) for walk in walks]


MODELS: dict[str, Model] = {
    "mobilenet_v2": _image(ARCHITECTURES["mobilenet_v2"], 224),
    "mobilenet_v3_large": _image(ARCHITECTURES["mobilenet_v3_large"], 224),
    "efficientnet_b0": _image(ARCHITECTURES["efficientnet_b0"], 224),
    "resnet50": _image(ARCHITECTURES["resnet50"], 224),
    "convnext_tiny": _image(ARCHITECTURES["convnext_tiny"], 224),
    "ghostnet": _image(ARCHITECTURES["ghostnet"], 224),
    "vit_tiny": _image(Architecture("vit_tiny", ViT, (1, 3, 224, 224)), 224),
    "bert_mini": Model(_seeded(BertMini), _ids),
    "lstm": Model(_seeded(TwoLayerLSTM), _walks),
    "unet": _image(ARCHITECTURES["unet"], 128),
}
"""Models by name."""
