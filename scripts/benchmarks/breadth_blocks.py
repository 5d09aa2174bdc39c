"""Small networks of kinds that model packages have not: sound, tables, graphs, text, detectors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.breadth_models import Built, normal, torch_built


class GatedConvolutions(nn.Module):
    """WaveNet's stack: dilated, gated, with sums that skip."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, channels, 1)
        gates = [
            nn.Conv1d(channels, 2 * channels, 3, padding=2**n, dilation=2**n) for n in range(4)
        ]
        self.gates = nn.ModuleList(gates)
        self.last = nn.Conv1d(channels, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total = torch.zeros_like(x)
        for gate in self.gates:
            left, right = gate(x).chunk(2, 1)
            part = torch.tanh(left) * torch.sigmoid(right)
            x, total = x + part, total + part
        return self.last(functional.relu(total))


class Rotary(nn.Module):
    """A causal decoder block with rotary positions and RMS norms."""

    def __init__(self, width: int = 64, heads: int = 4, length: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(100, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        half = width // heads // 2
        angles = torch.outer(torch.arange(length).float(), 1e4 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def _turned(self, x: Tensor) -> Tensor:
        a, b = x[..., ::2], x[..., 1::2]
        pairs = [a * self.cos - b * self.sin, a * self.sin + b * self.cos]
        return torch.stack(pairs, -1).flatten(-2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(self.norms[0](x)).view(shape).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(
            self._turned(q), self._turned(k), v, is_causal=True
        )
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.silu(self.up(self.norms[1](x))))


class Detector(nn.Module):
    """Boxes in pixels beside scores in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 32]
        layers = [
            (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.SiLU()) for a, b in pairwise(widths)
        ]
        self.body = nn.Sequential(*(layer for three in layers for layer in three))
        self.boxes, self.scores = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        boxes = functional.softplus(self.boxes(x)).flatten(2) * 64
        return torch.cat([boxes, torch.sigmoid(self.scores(x)).flatten(2)], 1).transpose(1, 2)


class Crossed(nn.Module):
    """A recommender: embeddings of ids and numbers, crossed in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, 16) for _ in range(4))
        self.numbers = nn.Linear(6, 16)
        self.top = nn.Sequential(nn.Linear(10 + 16, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        dense = functional.relu(self.numbers(numbers))
        rows = [table(ids[:, n]) for n, table in enumerate(self.tables)]
        fields = torch.stack([dense, *rows], 1)
        products = fields @ fields.transpose(1, 2)
        left, right = torch.triu_indices(5, 5, 1)
        return torch.sigmoid(self.top(torch.cat([products[:, left, right], dense], 1)))


class Graph(nn.Module):
    """Two graph convolutions over a fixed graph."""

    def __init__(self, nodes: int = 20) -> None:
        super().__init__()
        links = (torch.rand(nodes, nodes) < 0.2).float() + torch.eye(nodes)
        self.register_buffer("links", links / links.sum(1, keepdim=True))
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(self.links @ x))
        return functional.log_softmax(self.second(self.links @ (self.links @ x)), -1)


class Conformer(nn.Module):
    """A conformer block: half steps, attention, gated depthwise convolution."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 96), nn.SiLU(), nn.Linear(96, width)
            )
            for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.gate = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 15, padding=7, groups=width)
        self.batch, self.out = nn.BatchNorm1d(width), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.steps[0](x)
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = functional.glu(self.gate(self.norms[1](x).transpose(1, 2)), 1)
        y = self.out(functional.silu(self.batch(self.depthwise(y))))
        x = x + y.transpose(1, 2)
        return self.norms[2](x + 0.5 * self.steps[1](x))


class Recurrent(nn.Module):
    """A recurrent layer of PyTorch and a head on its last step."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Segmenter(nn.Module):
    """A small U-Net that upsamples by nearest neighbours to odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 16), (16, 32)))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in ((48, 16), (19, 4)))

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.down:
            seen.append(functional.leaky_relu(layer(seen[-1]), 0.1))
        x = seen.pop()
        for layer in self.up:
            skip = seen.pop()
            x = layer(torch.cat([functional.interpolate(x, size=skip.shape[2:]), skip], 1))
        return x


class Siamese(nn.Module):
    """Two pictures, one network, the cosine of their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2), nn.PReLU(16), nn.Conv2d(16, 32, 3, 2), nn.PReLU(32),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(288, 32),
        )  # fmt: skip

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = (functional.normalize(self.body(x), dim=1) for x in (left, right))
        return (a * b).sum(1)


class Queries(nn.Module):
    """DETR's decoder: learned queries look at a feature map."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, width, 8, 8)
        self.queries = nn.Parameter(torch.randn(1, 10, width))
        layer = nn.TransformerDecoderLayer(width, 4, 64, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.classes, self.boxes = nn.Linear(width, 6), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.features(x).flatten(2).transpose(1, 2)
        found = self.decoder(self.queries.expand(x.shape[0], -1, -1), memory)
        return self.classes(found), torch.sigmoid(self.boxes(found))


class Upscaler(nn.Module):
    """ESPCN with a bicubic skip."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 5, padding=2), nn.Tanh(), nn.Conv2d(24, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        skip = functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
        return torch.clamp(self.body(x) + skip, 0, 1)


class Encoder(nn.Module):
    """PyTorch's transformer encoder with a padding mask that is an input."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=keep < 0.5)


class Generator(nn.Module):
    """DCGAN: transposed convolutions from noise."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ConvTranspose2d(32, 32, 4), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 3, 2, 1, output_padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise: Tensor) -> Tensor:
        return self.body(noise[:, :, None, None])


class Autoencoder(nn.Module):
    """A variational one that uses the mean, with instance and group norms."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.InstanceNorm2d(16, affine=True), nn.ELU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.Mish(), nn.Flatten(),
        )  # fmt: skip
        self.mean = nn.Linear(32 * 49, 8)
        self.decode = nn.Sequential(nn.Linear(8, 784), nn.Unflatten(1, (1, 28, 28)), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.mean(self.encode(x))
        return self.decode(code), code


class Forecast(nn.Module):
    """N-BEATS: residual stacks of dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
                          nn.Linear(64, 40)) for _ in range(3)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(x.shape[0], 8)
        for stack in self.stacks:
            back, ahead = stack(x).split([32, 8], 1)
            x, total = x - back, total + ahead
        return total


def _pair(draw: Callable[[np.random.Generator], Any], other: Any) -> Any:
    return lambda random: (*draw(random), *other(random))


def _keep(random: np.random.Generator) -> tuple[Any]:
    return ((np.arange(16) < random.integers(8, 17)).astype(np.float32)[None],)


def _ids(random: np.random.Generator) -> tuple[Any]:
    return (random.integers(0, 50, (1, 4)),)


def _block(make: Callable[[], nn.Module], draw: Any) -> Callable[[], Built]:
    def built() -> Built:
        torch.manual_seed(0)
        return torch_built(make(), draw)

    return built


BLOCKS: dict[str, Callable[[], Built]] = {
    "gated_convolutions": _block(GatedConvolutions, normal(1, 1, 128)),
    "rotary_decoder": _block(Rotary, lambda random: (random.integers(0, 100, (1, 32)),)),
    "detector": _block(Detector, normal(1, 3, 64, 64)),
    "recommender": _block(Crossed, _pair(_ids, normal(1, 6))),
    "graph": _block(Graph, normal(1, 20, 8)),
    "conformer": _block(Conformer, normal(1, 40, 48)),
    "lstm": _block(lambda: Recurrent(nn.LSTM(8, 24, batch_first=True), 24), normal(1, 12, 8)),
    "gru": _block(lambda: Recurrent(nn.GRU(8, 24, batch_first=True), 24), normal(1, 12, 8)),
    "bilstm": _block(
        lambda: Recurrent(nn.LSTM(8, 16, batch_first=True, bidirectional=True), 32),
        normal(1, 12, 8),
    ),
    "rnn": _block(lambda: Recurrent(nn.RNN(8, 24, batch_first=True), 24), normal(1, 12, 8)),
    "segmenter": _block(Segmenter, normal(1, 3, 45, 37)),
    "siamese": _block(Siamese, _pair(normal(1, 1, 32, 32), normal(1, 1, 32, 32))),
    "queries": _block(Queries, normal(1, 3, 48, 48)),
    "upscaler": _block(Upscaler, normal(1, 3, 24, 24)),
    "padded_encoder": _block(Encoder, _pair(normal(1, 16, 32), _keep)),
    "generator": _block(Generator, normal(1, 32)),
    "autoencoder": _block(Autoencoder, normal(1, 1, 28, 28)),
    "forecast": _block(Forecast, normal(1, 32)),
}
