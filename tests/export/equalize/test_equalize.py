"""Channels with scales: the float numbers stay, and int8 loses less where channels differ."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.calibrate.channel_statistics import ChannelStatistics, channels_of
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import ModelError
from edgeq.export.deploy.scales_entry import ENTRY, read_scales
from edgeq.export.edge_model import EdgeModel
from edgeq.export.equalize import equalize
from edgeq.export.equalize.absorb import absorb, scaled_as
from edgeq.export.equalize.channel_groups import channel_groups
from edgeq.export.equalize.whole_weights import WholeWeight
from edgeq.export.frontends import trace
from edgeq.export.rewrite import rewrite
from edgeq.flatbuffer import Operator
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import outputs_of

equalizing = sys.modules[equalize.__module__]
torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


class Wired(nn.Module):  # type: ignore[misc]
    """A convolution, something with its channels, and a convolution that reads them."""

    def __init__(self, between: Any, channels: int = 8, *parts: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(channels, 4, 1)
        self.parts, self.between = nn.ModuleList(parts), between

    def forward(self, image: Any) -> Any:
        return self.last(self.between(functional.relu(self.first(image)), *self.parts))


def _grouped(x: Any, conv: Any) -> Any:
    return functional.relu(conv(x))


torch.manual_seed(0)
WIRED = {
    "nothing": Wired(lambda x: x),
    "residual": Wired(lambda x, conv: x + conv(x), 8, nn.Conv2d(8, 8, 1)),
    "grouped": Wired(_grouped, 12, nn.Conv2d(8, 12, 3, groups=4)),
    "depthwise": Wired(_grouped, 8, nn.Conv2d(8, 8, 3, groups=8)),
    "depthwise, two outputs a channel": Wired(_grouped, 16, nn.Conv2d(8, 16, 3, groups=8)),
    "transposed": Wired(_grouped, 6, nn.ConvTranspose2d(8, 6, 2, 2)),
    "concatenated": Wired(lambda x, conv: torch.cat([x, conv(x)], 1), 14, nn.Conv2d(8, 6, 1)),
    "split": Wired(lambda x: torch.cat(torch.split(x, [3, 5], 1)[::-1], 1)),
    "sliced": Wired(lambda x: x[:, 2:7], 5),
    "padded": Wired(lambda x: functional.pad(x, (1, 2, 2, 1))),
    "pooled": Wired(lambda x: functional.max_pool2d(x, 2) + functional.avg_pool2d(x, 2)),
    "resized": Wired(lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest")),
    "leaked": Wired(
        lambda x: functional.leaky_relu(x - torch.linspace(0.5, 1, 8)[:, None, None], 0.2)
    ),
    "gated": Wired(
        lambda x, conv: x * torch.sigmoid(conv(x.mean((2, 3), keepdim=True))), 8, nn.Conv2d(8, 8, 1)
    ),
    "scaled and moved": Wired(
        lambda x: x * torch.linspace(1, 2, 8)[:, None, None] + torch.ones(8)[:, None, None]
    ),
    "hard swish": Wired(lambda x, conv: functional.hardswish(conv(x)), 8, nn.Conv2d(8, 8, 1)),
    "one factor for all": Wired(lambda x: 0.5 * x),
    "flattened": Wired(
        lambda x, dense: dense(x.permute(0, 2, 3, 1).flatten(1))[..., None, None],
        8,
        nn.Linear(8 * 36, 8),
    ),
}


STAYING = {
    "sigmoid": Wired(torch.sigmoid),
    "gelu": Wired(functional.gelu),
    "a mean over channels": Wired(lambda x: x.mean(1, keepdim=True) + x),
    "relu6 that is not static": Wired(functional.relu6),
}


class Beside(nn.Module):  # type: ignore[misc]
    """Several networks of the same input, traced at once."""

    def __init__(self, networks: dict[str, Any]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks.values())

    def forward(self, image: Any) -> Any:
        return tuple(network(image) for network in self.networks)


def _images(count: int) -> Any:
    return np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32)


def _traced(networks: dict[str, Any], converter: Worker) -> LiteModel:
    data = _images(1)
    return rewrite(trace(Beside(networks).eval(), data, RepDataset(data), converter))


@pytest.fixture(scope="module")
def wired(converter: Worker) -> LiteModel:
    return _traced(WIRED, converter)


def test_any_scales_leave_the_numbers(wired: LiteModel) -> None:
    groups = channel_groups(wired.graph, (), lambda _: False)
    some = np.random.default_rng(1).uniform(0.3, 3.0, len(groups.is_free))
    scaled = absorb(wired, groups, np.where(groups.is_free, some, 1.0))
    before, after = (outputs_of(m.tflite, [_images(1)]) for m in (wired, scaled))
    for name, key in zip(WIRED, before, strict=True):
        np.testing.assert_allclose(after[key], before[key], rtol=1e-4, atol=1e-5, err_msg=name)


def _first_convolutions(model: LiteModel) -> list[Operator]:
    (image,) = model.graph.inputs
    read = {image}
    for op in model.graph.operators:
        if op.name == "TRANSPOSE" and op.inputs[0] in read:
            read.add(op.outputs[0])
    return [o for o in model.graph.operators if o.name == "CONV_2D" and o.inputs[0] in read]


def test_every_network_has_channels_to_scale(wired: LiteModel) -> None:
    groups = channel_groups(wired.graph, (), lambda _: False)
    first = _first_convolutions(wired)
    assert len(first) == len(WIRED)
    free = {wired.layer(op) for op in first if groups.is_free[groups.of(op.outputs[0])].any()}
    assert len(free) == len(WIRED)


def test_channels_stay_where_an_op_would_see_the_scale(converter: Worker) -> None:
    model = _traced(STAYING, converter)
    groups = channel_groups(model.graph, (), lambda _: False)
    first = _first_convolutions(model)
    assert len(first) == len(STAYING)
    assert not any(groups.is_free[groups.of(op.outputs[0])].any() for op in first)


def test_ops_that_are_kept_keep_their_constants(wired: LiteModel) -> None:
    everything = {op.index for op in wired.graph.operators}
    assert not channel_groups(wired.graph, everything, lambda _: False).free_tensors()


class Uneven(nn.Module):  # type: ignore[misc]
    """Separable convolutions whose hidden channels can be of very different ranges."""

    def __init__(self, ratio: float, activation: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.deep = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16)
        self.last, self.activation = nn.Conv2d(16, 8, 1), activation
        with torch.no_grad():
            factor = torch.logspace(0, -1, 16, ratio)
            self.first.weight *= factor[:, None, None, None]
            self.first.bias *= factor
            self.deep.weight /= factor[:, None, None, None]

    def forward(self, image: Any) -> Any:
        hidden = self.activation(self.first(image))
        return self.last(functional.relu(self.deep(hidden))).mean((2, 3))


def _int8(
    module: Any, equalize: bool = True, rounding: str = "gptq", per_channel: bool = True
) -> EdgeModel:
    recipe = edgeq.Recipe("scaled", equalize=equalize, rounding=rounding, per_channel=per_channel)
    return edgeq.export(module.eval(), _images(61), recipe=recipe, progress=False)


@pytest.fixture(scope="module")
def uneven_edge() -> EdgeModel:
    return _int8(Uneven(50.0, functional.relu))


def test_a_file_says_its_scales_to_who_looks_at_layers(uneven_edge: EdgeModel) -> None:
    by_itself, by_file = (
        edgeq.debug(uneven_edge.float_model, edge, _images(4), progress=False).layers
        for edge in (uneven_edge, uneven_edge.tflite)
    )
    assert by_file == by_itself
    assert min(layer.added_db for layer in by_file) > 30


def test_scales_of_another_model_are_left_out_and_damaged_ones_refused(
    uneven_edge: EdgeModel,
) -> None:
    model = rewrite(uneven_edge.float_model)
    scales = read_scales(uneven_edge.rewritten.tree)
    name = next(iter(scales))
    assert scaled_as(model, scales).digest == uneven_edge.rewritten.digest
    assert scaled_as(uneven_edge.rewritten, scales) is uneven_edge.rewritten
    input_name = model.graph.tensors[model.graph.inputs[0]].name
    for other in (
        {"another": scales[name]},
        {**scales, name: scales[name][1:]},
        {**scales, input_name: np.full(8, 0.5)},
    ):
        assert scaled_as(model, other) is model
    tree = copy.copy(uneven_edge.rewritten.tree)
    tree.buffers = [copy.copy(buffer) for buffer in tree.buffers]
    (place,) = (entry.buffer for entry in tree.metadata if entry.name == ENTRY)
    for content in (b"no JSON", b"[1]", b'{"x": 1}', b'{"x": "~"}', b"\xff"):
        tree.buffers[place].data = np.frombuffer(content, np.uint8)
        with pytest.raises(ModelError, match=r"edgeq_channel_scales\) cannot be read: .* again"):
            read_scales(tree)


def test_quiet_channels_cost_nothing(uneven_edge: EdgeModel) -> None:
    even = _int8(Uneven(1.0, functional.relu)).report
    uneven = uneven_edge.report
    as_it_is = _int8(Uneven(50.0, functional.relu), equalize=False).report
    assert any("channels of" in note for note in uneven.notes)
    assert not any("channels of" in note for note in as_it_is.notes)
    nearest = _int8(Uneven(50.0, functional.relu), rounding="nearest").report
    assert not any("channels of" in note for note in nearest.notes)
    assert uneven.sqnr_db > as_it_is.sqnr_db + 6
    assert uneven.sqnr_db > even.sqnr_db - 3


def test_channels_are_scaled_through_a_hard_swish() -> None:
    scaled, as_it_is = (
        _int8(Uneven(50.0, functional.hardswish), equalize=on).report.sqnr_db
        for on in (True, False)
    )
    assert scaled > as_it_is + 3


def test_a_static_relu6_cuts_scaled_channels_off_beyond_the_samples() -> None:
    uneven = _int8(Uneven(50.0, functional.relu6)).report
    as_it_is = _int8(Uneven(50.0, functional.relu6), equalize=False).report
    assert uneven.sqnr_db > as_it_is.sqnr_db + 6


def test_what_samples_to_come_lose_falls_with_the_limit() -> None:
    seen = ChannelStatistics(
        np.zeros((2, 1)), np.asarray([[5.0], [4.0]]), np.zeros(1), np.ones(1), np.ones(1), 9, 100
    )
    at_the_end, beyond = (seen.cut_off(np.zeros(1), np.asarray([most]))[0] for most in (5.0, 7.0))
    assert at_the_end == pytest.approx(2 * 1.0**2 / (10 * 100))
    assert beyond == pytest.approx(at_the_end * np.exp(-2))


def test_what_is_the_same_everywhere_has_power_and_no_variance() -> None:
    one, other = (channels_of(np.asarray([[3.0, level], [3.0, -level]])) for level in (1.0, 2.0))
    seen = one.merge(other)
    assert seen.power.tolist() == [9.0, 2.5]
    assert seen.variance.tolist() == [0.0, 2.5]


def test_a_dead_layer_in_a_group_stays_dead() -> None:
    network = copy.deepcopy(WIRED["residual"])
    network.between = lambda x, conv: x + functional.relu(conv(x))
    with torch.no_grad():
        network.first.weight.mul_(torch.logspace(0, 2, 8)[:, None, None, None])
        network.parts[0].bias.fill_(-1e4)
    edge = edgeq.export(network.eval(), _images(40), recipe="int8", progress=False)
    assert any("channels" in note for note in edge.report.notes)
    assert edge.report.outputs[0].sqnr_db > 25


def _whole(is_depthwise: bool) -> WholeWeight:
    largest = np.array([[1.0, 8.0], [2.0, 4.0]])
    largest = largest[:, :1] if is_depthwise else largest
    return WholeWeight(0, 1, largest, np.array([3.0, 5.0]), 9, is_depthwise)


@pytest.mark.parametrize("is_depthwise", [False, True])
def test_a_weight_with_one_scale_is_rounded_by_its_largest_number(is_depthwise: bool) -> None:
    source, output = np.array([0.5, 0.25]), np.array([1.0, 0.5])
    step = (1.0 if is_depthwise else 2.0) / 127
    read = 9 * np.array([3.0 / 0.5**2, 5.0 / 0.25**2])
    written = (step * output) ** 2 / 12
    expected = (read * written).sum() if is_depthwise else read.sum() * written.sum()
    assert _whole(is_depthwise).noise(source, output) == pytest.approx(expected)


def test_rows_and_columns_of_weights_with_one_scale_are_made_even(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = Uneven(50.0, functional.relu)
    even_db = _int8(module, rounding="gptq_once", per_channel=False).report.sqnr_db
    monkeypatch.setattr(equalizing, "whole_weights", lambda *_: ())
    before_db = _int8(module, rounding="gptq_once", per_channel=False).report.sqnr_db
    assert even_db > before_db + 1
