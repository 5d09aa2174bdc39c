"""Ops that litert-torch lacks or lowers wrongly, each against PyTorch's own result.

The cases of a kind are branches of one model, which is lowered once and run on other values than it
was traced with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from edgeq.converter import start_converter
from edgeq.fidelity.sqnr import Fidelity
from edgeq.isolation import Worker
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from edgeq.export.frontends import torch as frontend  # noqa: E402  # only where torch is
from edgeq.export.frontends.decompositions import lookups  # noqa: E402

nn, functional = torch.nn, torch.nn.functional
Array = npt.NDArray[Any]
Make = Callable[[np.random.Generator], Array]

SQNR_FLOOR_DB = 90.0


class Case(NamedTuple):
    """A module, or a function of tensors, and what makes its inputs."""

    make: Callable[[], Any]
    inputs: tuple[Make, ...]


def floats(*shape: int) -> Make:
    return lambda rng: rng.normal(size=shape).astype(np.float32)


def ints(high: int, *shape: int) -> Make:
    return lambda rng: rng.integers(0, high, shape).astype(np.int32)


def bits(*shape: int) -> Make:
    limits = np.iinfo(np.int32)
    return lambda rng: rng.integers(limits.min, limits.max, shape, np.int32, endpoint=True)


def flags(*shape: int) -> Make:
    return lambda rng: rng.random(shape) < 0.5


class Weighed(nn.Module):
    """A linear attention over a map, whose channels come last in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        return self.last(x.relu() * (x * x.softmax(-1)).sum(-1, keepdim=True).expand_as(x))


class Outer(nn.Module):
    """Rows of a slice through a layer, times others: nothing is summed."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return torch.einsum("b n d, b n s -> b n s d", self.inner(x[:, :, 0]), x[:, :, 1])


class Calling(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def layer(make: Callable[[], Any], *inputs: Make) -> Case:
    return Case(make, inputs)


def of(function: Callable[..., Any], *inputs: Make) -> Case:
    return Case(lambda: Calling(function), inputs)


SEVEN = (1, 2, 2, 3, 2, 4, 5)
IMAGE, ROW, CUBE, MATRIX, MATRIX_3 = (
    floats(1, 2, 5, 7),
    floats(1, 2, 9),
    floats(1, 2, 3, 4, 4),
    floats(1, 4, 6),
    floats(1, 3, 3),
)


def positive(x: Any) -> Any:
    """A positive definite matrix."""
    return x @ x.mT + torch.eye(x.shape[-1])


def low_frequencies(x: Any) -> Any:
    """As a Fourier neural operator keeps them: written into zeros of complex type."""
    spectrum = torch.fft.rfft(x)
    kept = torch.zeros(spectrum.shape, dtype=torch.complex64)
    kept[..., :3] = spectrum[..., :3] * 2
    return torch.fft.irfft(kept, n=x.shape[-1])


def correlated(x: Any, template: Any, **options: Any) -> Any:
    """An image searched for another, both of which were pooled."""
    return functional.conv2d(
        functional.max_pool2d(x, 2, 1), functional.max_pool2d(template, 3, 2), **options
    )


def resized(**options: Any) -> Case:
    return of(functools.partial(functional.interpolate, **options), IMAGE)


def transposed(*sizes: Any, **options: Any) -> Case:
    return layer(lambda: nn.ConvTranspose2d(4, 6, *sizes, **options), floats(1, 4, 5, 7))


def unpooled(x: Any) -> Any:
    pooled, places = functional.max_pool2d(x, 2, return_indices=True)
    return functional.max_unpool2d(pooled * 2, places, 2)


def masked(x: Any) -> Any:
    changed = x.clone()
    changed[changed < 0] = 0.5
    return changed


def wherever(x: Any) -> Any:
    changed = x.clone()
    changed[torch.where(x > 0)] = 0.5
    return changed


def written(x: Any, index: Any) -> Any:
    changed = x.clone()
    changed[:, index.long()] = 1.5
    return changed


EVEN = torch.tensor([True, False] * 3)


def written_where_known(x: Any) -> Any:
    changed = x.clone()
    changed[..., EVEN] = x[..., :3] * 2
    return changed


def diagonals(x: Any) -> Any:
    changed = x.clone()
    changed.diagonal(1, -2, -1).add_(0.5)
    changed.diagonal(-2, 1, 2).mul_(x[..., 0, :2])
    changed[0].fill_diagonal_(3.0)
    return changed


def slices_written(x: Any, source: Any) -> Any:
    made = x * 2
    made[:, :, :, 1:] = source
    made[..., 1:3] = made[..., :2] + source[..., :2]
    made[:, :, -1] = source[:, :, 0]
    return made


def sampled(**options: Any) -> Case:
    def sample(x: Any, grid: Any) -> Any:
        return functional.grid_sample(x, grid.tanh() * 1.3, **options)

    return of(sample, IMAGE, floats(1, 3, 4, 2))


def bag(**options: Any) -> Case:
    return layer(lambda: nn.EmbeddingBag(7, 3, **options), ints(7, 2, 4))


KINDS: dict[str, dict[str, Case]] = {
    "resampling": {
        "nearest to any size": resized(size=(8, 16)),
        "nearest by 1.5": resized(scale_factor=1.5),
        "nearest, a row by 2": of(lambda x: functional.interpolate(x, scale_factor=2), ROW),
        "nearest, a row by 1.5": of(lambda x: functional.interpolate(x, scale_factor=1.5), ROW),
        "nearest exact": resized(size=(8, 10), mode="nearest-exact"),
        "bilinear by 1.5": resized(scale_factor=1.5, mode="bilinear"),
        "bilinear antialiased": resized(size=(3, 4), mode="bilinear", antialias=True),
    },
    "convolution_forms": {
        "one axis, even kernel, same": layer(lambda: nn.Conv1d(2, 3, 4, padding="same"), ROW),
        "three axes, groups": layer(
            lambda: nn.Conv3d(2, 4, (1, 3, 3), (1, 2, 2), (0, 1, 1), groups=2), CUBE
        ),
        "transposed, padded": transposed(3, 2, 1),
        "transposed, output padding": transposed(3, 2, 1, output_padding=1),
        "transposed, groups": transposed(3, 2, 1, groups=2),
        "transposed, dilated": transposed(3, 2, 1, dilation=2),
        "transposed, one axis": layer(
            lambda: nn.ConvTranspose1d(2, 3, 5, 3, 2, output_padding=1), ROW
        ),
        "weight computed": of(correlated, floats(1, 2, 9, 8), floats(1, 2, 6, 7)),
        "weight computed, each channel alone": of(
            lambda x, template: correlated(x, template.transpose(0, 1), groups=2),
            floats(1, 2, 9, 8),
            floats(1, 2, 6, 7),
        ),
    },
    "pools": {
        "average, rounded up, without padding": layer(
            lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGE
        ),
        "average by a divisor": layer(lambda: nn.AvgPool2d(2, 2, divisor_override=3), IMAGE),
        "average, three axes": layer(lambda: nn.AvgPool3d(2), CUBE),
        "maximum, dilated": layer(lambda: nn.MaxPool2d(2, 1, 1, dilation=2), IMAGE),
        "maximum, three axes": layer(lambda: nn.MaxPool3d(2), CUBE),
        "maximum, adaptive": layer(lambda: nn.AdaptiveMaxPool2d((2, 3)), IMAGE),
        "maximum and back": of(unpooled, floats(1, 2, 4, 4)),
    },
    "ordering": {
        "sort": of(lambda x: torch.sort(x, -1), MATRIX),
        "one alone in order": of(
            lambda x: (y := x[:, :1], (y.topk(1, 1)[0], y.sort(1)[0], y.kthvalue(1, 1)[0]))[1],
            MATRIX,
        ),
        "median": of(lambda x: x.median(-1).values, MATRIX),
        "places of the first": of(
            lambda x: (
                torch.nonzero_static(x > 0.5, size=20),
                torch.bucketize(0.3, x[0, 0].sort().values),
            ),
            MATRIX,
        ),
        "median of numbers": of(
            lambda x: (
                *torch.where(x > 1, float("nan"), x).nanmedian(1),
                torch.where(x > 0, float("nan"), x).nanmedian(),
            ),
            MATRIX,
        ),
        "most common": of(
            lambda x, i: (x.round().mode(0).values, *i.long().mode(-1, keepdim=True)),
            floats(9, 4),
            ints(3, 2, 5),
        ),
        "quantile": of(lambda x: x.quantile(0.3, dim=-1), MATRIX),
        "product so far": of(lambda x: x.cumprod(-1), MATRIX),
        "extremes so far of whole numbers": of(
            lambda i: (*i.long().cummax(-1), *i.long().cummin(1)), ints(9, 1, 4, 6)
        ),
        "highest whole number": of(
            lambda x: (x.argmax(-1), (x % 7).argmin(0)), ints(20, 3, 6)
        ),
        "bucket": of(lambda x: torch.bucketize(x, torch.linspace(-1, 1, 5)), MATRIX),
    },
    "indexing": {
        "scatter": of(lambda x, i: x.scatter(1, i.long(), 2.0), MATRIX, ints(4, 1, 1, 6)),
        "scatter_add": of(
            lambda x, i: torch.zeros_like(x).scatter_add(2, i.long(), x[..., :3]),
            MATRIX, ints(6, 1, 4, 3),
        ),
        "scatter_reduce": of(
            lambda x, i: torch.zeros(1, 3, 6).scatter_reduce(
                1, i.long()[..., None].expand(1, 4, 6), x, "amax", include_self=False
            ),
            MATRIX, ints(3, 1, 4),
        ),
        "index_add": of(
            lambda x, i: torch.zeros(1, 3, 6).index_add(1, i.long(), x), MATRIX, ints(3, 4)
        ),
        "written under a mask": of(masked, MATRIX),
        "written where a mask holds": of(wherever, MATRIX),
        "written by an index": of(written, MATRIX, ints(4, 2)),
        "one slice": of(
            lambda x, i: x.index_copy(2, i.long(), x[:, :, :1] * 3), MATRIX, ints(6, 1)
        ),
        "one slice by an index from the end": of(
            lambda x, i: written(x, i - 4), MATRIX, ints(4, 1)
        ),
        "one slice of whole numbers": of(
            lambda x, i: x.index_copy(1, i.long(), x[:, :1] * 3), ints(9, 1, 4, 6), ints(4, 1)
        ),
        "one slice at a place that is known": of(
            lambda x: x.index_copy(1, torch.tensor([2]), x[:, :1] * 3), MATRIX
        ),
        "written where a constant says": of(written_where_known, MATRIX),
        "joined with what is there": of(
            lambda x, i: (
                x.scatter(1, i.long(), x[:, :2] * 2, reduce="add"),
                x.scatter(1, i.long(), 3.0, reduce="multiply"),
                x.index_reduce(1, i[0, :, 0].long(), x[:, :2], "mean", include_self=False),
                x.put(i[0, :, :3].long(), x[0, :2, :3], accumulate=True),
            ),
            MATRIX, ints(4, 1, 2, 6),
        ),
        "masked_scatter": of(
            lambda x, m: x.masked_scatter(m, x * 2), MATRIX, flags(1, 4, 6)
        ),
    },
    "grids": {
        "zeros outside": sampled(align_corners=False),
        "nearest, mirrored": sampled(align_corners=True, padding_mode="reflection", mode="nearest"),
    },
    "lookups": {
        "bag, mean": bag(),
        "bag, padding": bag(padding_idx=0),
        "shortened rows": layer(lambda: nn.Embedding(7, 3, max_norm=1.0), ints(7, 1, 4)),
        "each row by its group's matrix": of(
            lambda x, w, i: lookups.grouped_product(x, w, i.cumsum(0)),
            floats(6, 4), floats(3, 4, 5), lambda rng: np.array([2, 0, 4]),
        ),
        "read as constants say": of(
            lambda x: (
                x[..., EVEN],
                x.masked_select(EVEN),
                x.repeat_interleave(torch.tensor([1, 0, 2, 1]), 1) @ torch.ones(6, 2),
                x.repeat_interleave(torch.tensor([2])),
            ),
            MATRIX,
        ),
        "bilinear": layer(lambda: nn.Bilinear(3, 4, 2), floats(1, 3), floats(1, 4)),
    },
    "overlaps": {
        "unfold of both axes": of(
            lambda x: x.unfold(2, 5, 3).unfold(3, 5, 3).flatten(4), floats(1, 4, 11, 14)
        ),
        "fold": layer(lambda: nn.Fold((4, 5), 3, padding=1, stride=2), floats(1, 18, 6)),
        "rows of the memory": of(
            lambda x: (
                x.as_strided((3, 8, 6), (24, 6, 1)),
                (x * 2).transpose(0, 1).as_strided((2, 5, 3), (48, 6, 2), 2),
            ),
            floats(16, 6),
        ),
        "diagonal by einsum": of(lambda x: torch.einsum("bii->bi", x), floats(1, 4, 4)),
    },
    "linear_algebra": {
        "rows one by one": layer(lambda: nn.Linear(6, 5), floats(1, 4, 1, 6)),
        "rows one by one, without a bias": layer(
            lambda: nn.Sequential(
                nn.Flatten(1, 2), nn.Linear(6, 5, bias=False), nn.Unflatten(1, (4, 1))
            ),
            floats(1, 4, 1, 6),
        ),
        "rows one by one, times others": layer(
            lambda: Outer(nn.Linear(8, 6, bias=False)), floats(1, 4, 2, 8)
        ),
        "outer product in another order": of(
            lambda x, y: torch.einsum("n...,em->...mne", x, y), floats(3, 1, 4), floats(2, 5)
        ),
        "determinant": of(torch.linalg.det, floats(1, 3, 3)),
        "dense layer of seven axes": layer(
            lambda: nn.Sequential(nn.Linear(6, 3), nn.Flatten()), floats(1, 2, 1, 2, 1, 2, 6)
        ),
        "dense layer of one row": layer(lambda: nn.Linear(6, 3), floats(1, 1, 1, 6)),
        "distances": of(lambda x: functional.pdist(x[0]), MATRIX),
        "solved": of(lambda x, y: torch.linalg.solve(positive(x), y), MATRIX_3, MATRIX_3),
        "inverse": of(lambda x: torch.linalg.inv(x + 3 * torch.eye(4)), floats(2, 4, 4)),
        "logarithm": of(lambda x: torch.linalg.slogdet(x)[1], MATRIX_3),
        "Cholesky factor": of(lambda x: torch.linalg.cholesky(positive(x)), MATRIX_3),
        "solved by a factor": of(
            lambda x, y: torch.cholesky_solve(y, torch.linalg.cholesky(positive(x))),
            MATRIX_3,
            floats(1, 3, 2),
        ),
        "solved by an upper triangle": of(
            lambda x, y: torch.linalg.solve_triangular(x.triu() + 5 * torch.eye(4), y, upper=True),
            floats(1, 4, 4),
            floats(1, 4, 2),
        ),
    },
    "factorizations": {
        "determinant of four rows": of(
            lambda x: (torch.linalg.det(x), torch.linalg.slogdet(x)[1]), floats(1, 4, 4)
        ),
        "exchanged rows": of(torch.linalg.lu_factor, floats(2, 4, 4)),
        "orthogonal columns": of(torch.linalg.qr, floats(2, 5, 3)),
        "orthogonal rows": of(lambda x: torch.linalg.qr(x, "complete"), floats(3, 5)),
        "pseudoinverse": of(torch.linalg.pinv, floats(3, 5)),
    },
    "padding": {
        "diagonals": of(diagonals, floats(2, 4, 6)),
        "numbers of several types joined": of(
            lambda x, i: (torch.cat([i, x], 1), torch.stack([i, i.long()]), torch.cat([i, i > 4])),
            MATRIX, ints(9, 1, 4, 6),
        ),
        "slices and an entry of six axes written": of(
            slices_written, floats(1, 2, 3, 2, 4, 5), floats(1, 2, 3, 1, 4, 5)
        ),
        "sums along seven axes": of(
            lambda x: (
                x.sum(3), x.sum((2, 4), keepdim=True), x.mean((-1, 0)), x.amax(4), x.max(4)[0],
                x.std((1, 3)), x.norm(dim=2),
            ), floats(*SEVEN),
        ),
        "shares along seven axes": of(
            lambda x: (x.softmax(3), x.log_softmax(-1), x.logsumexp(2)), floats(*SEVEN)
        ),
        "numbers along seven axes": of(
            lambda x: (
                functional.relu(x), functional.leaky_relu(x, 0.1), functional.silu(x),
                functional.elu(x), functional.softplus(x), x.sigmoid() - x, x.roll((1, -2), (3, 5)),
            ), floats(*SEVEN),
        ),
        "dense layer that seven axes are read of": layer(
            lambda: nn.Sequential(nn.Linear(5, 3), nn.Flatten(3, 4)), floats(*SEVEN)
        ),
        "joined along one of seven axes": of(
            lambda x: torch.cat([x, x * 2], 3), floats(1, 2, 1, 3, 2, 2, 4)
        ),
        "one part of a split": of(
            lambda x: (*(x.sin() for x in x.chunk(1, 0)), x.split([0, 6], -1)[1] * 2), MATRIX
        ),
    },
    "pointwise": {
        "sign of another": of(
            lambda x, y: (x.copysign(y), x.copysign(-1), torch.copysign(torch.tensor(2.0), y)),
            MATRIX, MATRIX,
        ),
        "a factor of what is added": of(
            lambda x, i: (
                x.add(x.mean(0), alpha=0.1),
                torch.sub(x, 3, alpha=2),
                torch.rsub(x, x[..., :1], alpha=0.5),
                i.add(i[:1], alpha=3),
            ),
            MATRIX,
            ints(9, 2, 3),
        ),
        "bits": of(
            lambda x, y: (x & y, x | y, x ^ y, ~x, y & 7, x << (y % 5), x >> (y % 5)),
            bits(4, 6), bits(4, 6),
        ),
        "one of two flags": of(
            lambda x, y: (((x > 0) ^ (y > 0)).float(), torch.logical_xor(x > 0, y).float()),
            MATRIX, MATRIX,
        ),
        "to whole numbers": of(lambda i: (2.5**i.long(), 2**i, i**3), ints(9, 4, 6)),
        "bits of 64": of(lambda x, y: x.long() & y.long() | 6, bits(4, 6), bits(4, 6)),
        "powers of rank 5": of(lambda x: (x**2, 2.5**x), CUBE),
        "a number over floats": of(lambda x: (5 // (x.abs() + 1), 5 % (x.abs() + 1)), MATRIX),
        "the larger of rank 6": of(
            lambda x: (x.clamp(-0.5, 0.5), torch.maximum(x, x.flip(0)[..., :1]), x.clamp_min(0.1)),
            floats(2, 3, 2, 2, 2, 3),
        ),
        "arithmetic of rank 7": of(
            lambda x, y: (x + y, x * y[..., :1, :], 2 / (x * x + 1), 1 - x),
            floats(1, 2, 2, 3, 2, 2, 3), floats(1, 2, 1, 3, 1, 2, 3),
        ),
        "six axes padded, repeated and reversed": of(
            lambda x: (
                torch.nn.functional.pad(x, (1, 2, 0, 1), value=0.5),
                x.repeat(1, 2, 1, 1, 2, 1), x.flip(2, 4),
            ),
            floats(1, 2, 2, 3, 2, 3),
        ),
        "norms by other powers": of(
            lambda x: (x.norm(1), x.norm(3, -1), torch.nn.functional.normalize(x, 1.5)), CUBE
        ),
        "error function": of(lambda x: (x.erfc(), x.expm1(), x.sinh()), MATRIX),
        "powers and distance": of(
            lambda x, y: (x.exp2(), torch.dist(x, y), torch.signbit(x).float()), MATRIX, MATRIX
        ),
        "logarithm of a density": of(
            lambda x, y: torch.distributions.Normal(x, y.exp()).log_prob(torch.tensor(0.3)),
            MATRIX, MATRIX,
        ),
        "gamma function": of(
            lambda x: (x.exp().lgamma(), (x.sigmoid() / 3).lgamma(), x.exp().digamma()), MATRIX
        ),
        "arc sine": of(lambda x: (x.tanh() * 0.9).asin(), MATRIX),
    },
    "spectra": {
        "stft and back": of(
            lambda x: torch.istft(
                torch.stft(x, 8, 2, window=torch.hann_window(8), return_complex=True) * 0.5,
                8, 2, window=torch.hann_window(8),
            ),
            floats(1, 32),
        ),
        "sizes and angles of a spectrum": of(
            lambda x: (
                z := torch.stft(x, 8, 2, window=torch.hann_window(8), return_complex=True),
                (z.abs(), z.abs().pow(2).sum(1), z.angle().cos()),
            )[1],
            floats(1, 32),
        ),
        "product of spectra": of(
            lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(x.flip(-1)), n=9),
            floats(1, 9),
        ),
        "low frequencies": of(low_frequencies, floats(1, 2, 10)),
        "complex numbers": of(
            lambda x: (z := torch.complex(x, x.flip(1)), (z / (1 + 2j)).real + z.exp().imag)[1],
            MATRIX,
        ),
        "functions of complex numbers": of(
            lambda x: (
                z := torch.complex(x, 2 * x.flip(1)),
                *map(torch.view_as_real, (z.sin(), z.cos(), z.sinh(), z.cosh(), z.tanh())),
                torch.view_as_real((9 * z).sigmoid()),
            )[1:],
            MATRIX,
        ),
    },
    "branches_and_loops": {
        "cond": of(
            lambda x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y.relu() - 1, (x,)), MATRIX
        ),
        "while_loop": of(
            lambda x: torch.while_loop(
                lambda i, y: i < 3, lambda i, y: (i + 1, y * 0.5 + 1), (torch.tensor(0), x)
            )[1],
            MATRIX,
        ),
        "item": of(lambda x: x * x.max().item(), MATRIX),
    },
    "passes": {
        "channels put last behind an expansion": layer(Weighed, IMAGE),
        "axes ordered behind an expansion": of(
            lambda x: (
                (x * 2).unsqueeze(2).expand(-1, -1, 5, -1).permute(0, 3, 1, 2),
                x.sum(2, keepdim=True).expand(1, 4, 3).mT + x[:, :3, :4],
            ),
            MATRIX,
        ),
    },
    "number_types": {
        "whole numbers and a float": of(
            lambda i: (i != 0.0, 2.0 / (i.long() + 1), i.clamp(0.5, 2.5), i % 2.5, i.exp()),
            ints(5, 4, 6),
        ),
        "a number above all others": of(
            lambda i: torch.where(i > 2, i.long(), torch.iinfo(torch.int64).max).amin(-1),
            lambda rng: np.array([[1, 5, 3], [0, 1, 7]], np.int32),
        ),
        "float64": of(
            lambda x: (x * torch.linspace(1, 2, 6, dtype=torch.float64), (x.double() - 0.5).exp()),
            MATRIX,
        ),
    },
    "program_constants": {
        "eye": of(lambda x: x @ torch.eye(6), MATRIX),
        "windows": of(lambda x: x * torch.hamming_window(6), MATRIX),
        "one_hot": of(lambda i: functional.one_hot(i.long(), 5) * 2, ints(5, 1, 4)),
        "orthogonal weight": layer(
            lambda: nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), MATRIX
        ),
    },
}  # fmt: skip
"""By the module that owns them."""


class Branches(nn.Module):
    """The cases of a kind side by side; an input and an output have the name `<case>_<i>`."""

    def __init__(self, cases: list[Case]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([case.make() for case in cases])
        self.counts = [len(case.inputs) for case in cases]

    def forward(self, **inputs: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        for i, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
            made = part(*(inputs[f"case{i}_{j}"] for j in range(count)))
            made = made if isinstance(made, tuple) else (made,)
            outputs.update({f"case{i}_{j}": value for j, value in enumerate(made)})
        return outputs


def values(cases: list[Case], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        f"case{i}_{j}": make(rng)
        for i, case in enumerate(cases)
        for j, make in enumerate(case.inputs)
    }


@pytest.fixture(scope="module")
def converter() -> Iterator[Worker]:
    with start_converter() as worker:
        yield worker


@pytest.fixture(scope="module")
def outputs(converter: Worker) -> Callable[[str], tuple[dict[str, Array], dict[str, Array]]]:
    """Outputs of PyTorch and of the float model, by kind, on values that it was not traced with."""

    @functools.cache
    def run(kind: str) -> tuple[dict[str, Array], dict[str, Array]]:
        cases = list(KINDS[kind].values())
        torch.manual_seed(0)
        model = Branches(cases).eval()
        traced = frontend.trace_module(model, values(cases, 1), converter)
        assert traced.notes == (), "a decomposition failed and was left out"
        fed = values(cases, 2)
        with torch.no_grad():
            wanted = model(**{name: torch.from_numpy(array) for name, array in fed.items()})
        with Session(traced.tflite) as session:
            found = session.run(fed)
        return {name: tensor.numpy() for name, tensor in wanted.items()}, found

    return run


@pytest.mark.parametrize(
    ("kind", "case"),
    [(kind, case) for kind, cases in KINDS.items() for case in cases],
)
def test_an_op_computes_what_pytorch_does(
    kind: str, case: str, outputs: Callable[[str], tuple[dict[str, Array], dict[str, Array]]]
) -> None:
    wanted, found = outputs(kind)
    number = list(KINDS[kind]).index(case)
    names = [name for name in wanted if name.startswith(f"case{number}_")]
    assert names
    for name in names:
        assert found[name].shape == wanted[name].shape
        if wanted[name].dtype.kind == "f":
            assert Fidelity.of(wanted[name], found[name]).sqnr_db >= SQNR_FLOOR_DB
        else:
            assert np.array_equal(found[name], wanted[name])
