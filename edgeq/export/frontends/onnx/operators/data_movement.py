"""ONNX ops that move, pick, repeat or make elements."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import MICROSOFT, Known, Node, axes_of, op
from edgeq.export.frontends.onnx.operators.elementwise import torch_dtype
from edgeq.export.frontends.torch_program.packed.packed_layers import turned


@op("Constant")
def constant(node: Node) -> Tensor:
    for name, value in node.attributes.items():
        if name in ("value", "sparse_value"):
            return value
        if name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
    raise node.refused(f"holds {', '.join(node.attributes) or 'nothing'}, which is no dense tensor")


@op("ConstantOfShape", known=(0,))
def constant_of_shape(node: Node, shape: Known) -> Tensor:
    value = node.get("value")
    value = torch.zeros(1) if value is None else value
    return value.reshape(()).expand([int(size) for size in shape]).clone()


@op("Shape", fixed=(0,))
def shape(node: Node, values: Tensor) -> Tensor:
    sizes = list(values.shape)[slice(node.get("start", 0), node.get("end"))]
    return torch.tensor(sizes, dtype=torch.int64)


@op("Size", fixed=(0,))
def size(node: Node, values: Tensor) -> Tensor:
    return torch.tensor(values.numel(), dtype=torch.int64)


@op("Range", known=(0, 1, 2), sampled=(1,))
def value_range(node: Node, start: Known, limit: Known, delta: Known) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(math.ceil((last - first) / step), 0)
    return torch.from_numpy((first + step * np.arange(count)).astype(start.dtype))


@op("EyeLike", fixed=(0,))
def eye_like(node: Node, values: Tensor) -> Tensor:
    rows, columns = values.shape
    dtype = values.dtype if node.get("dtype") is None else torch_dtype(node, node.get("dtype"))
    offset = node.get("k", 0)
    return torch.from_numpy(np.eye(rows, columns, offset)).to(dtype)


@op("Reshape", known=(1,), keeps_grid=True)
def reshape(node: Node, values: Tensor, shape: Known | None = None) -> Tensor:
    sizes = [int(n) for n in (node.get("shape") if shape is None else shape)]
    if not node.get("allowzero"):
        sizes = [values.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return values.reshape(sizes)


@op("Flatten", keeps_grid=True)
def flatten(node: Node, values: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    rows = math.prod(values.shape[: axis + values.ndim if axis < 0 else axis])
    return values.reshape(rows, values.numel() // rows if rows else 0)


@op("Squeeze", known=(1,), keeps_grid=True)
def squeeze(node: Node, values: Tensor, given: Known | None = None) -> Tensor:
    axes = axes_of(node, given)
    if axes is None:
        return values.reshape([n for n in values.shape if n != 1])
    kept = {axis % values.ndim for axis in axes} if values.ndim else set()
    return values.reshape([n for i, n in enumerate(values.shape) if i not in kept])


@op("Unsqueeze", known=(1,), keeps_grid=True)
def unsqueeze(node: Node, values: Tensor, given: Known | None = None) -> Tensor:
    axes = axes_of(node, given) or []
    rank = values.ndim + len(axes)
    new, sizes = {axis % rank for axis in axes}, list(values.shape)
    return values.reshape([1 if i in new else sizes.pop(0) for i in range(rank)])


@op("Transpose", keeps_grid=True)
def transpose(node: Node, values: Tensor) -> Tensor:
    return values.permute(node.get("perm") or list(range(values.ndim))[::-1])


@op("Concat")
def concat(node: Node, *values: Tensor) -> Tensor:
    return torch.cat(values, node.get("axis", 1))


@op("Split", known=(1,), keeps_grid=True)
def split(node: Node, values: Tensor, given: Known | None = None) -> tuple[Tensor, ...]:
    axis, sizes = node.get("axis", 0), node.get("split") if given is None else given
    if sizes is None:
        count = node.get("num_outputs") or len(node.outputs)
        step = math.ceil(values.shape[axis] / count)
        sizes = [step] * (count - 1) + [values.shape[axis] - step * (count - 1)]
    made: tuple[Tensor, ...] = torch.split(values, [int(n) for n in sizes], axis)
    return made


@op("Slice", known=(1, 2, 3, 4), keeps_grid=True)
def slice_(
    node: Node,
    values: Tensor,
    starts: Known | None = None,
    ends: Known | None = None,
    axes: Known | None = None,
    steps: Known | None = None,
) -> Tensor:
    first = node.get("starts") if starts is None else starts
    last = node.get("ends") if ends is None else ends
    along = axes_of(node, axes) or list(range(len(first)))
    step = [1] * len(first) if steps is None else [int(n) for n in steps]
    for start, end, axis, by in zip(first, last, along, step, strict=True):
        values = _sliced(values, int(start), int(end), axis % values.ndim, by)
    return values


def _sliced(values: Tensor, start: int, end: int, axis: int, step: int) -> Tensor:
    picked = range(values.shape[axis])[slice(start, _stop(end, values.shape[axis], step), step)]
    if step < 0:
        values = values.flip(axis)
        count = values.shape[axis]
        picked = range(count - 1 - picked.start, count - 1 - picked.stop, -picked.step)
    index = [slice(None)] * axis + [slice(picked.start, max(picked.stop, 0), picked.step)]
    return values[tuple(index)]


def _stop(end: int, size: int, step: int) -> int | None:
    """The end of a slice; going backwards, one before the first element has no number."""
    return None if step < 0 and end < -size else end


@op("Gather", keeps_grid=True)
def gather(node: Node, values: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % values.ndim
    wanted = _positive(node, indices, values.shape[axis])
    if axis == 0 and values.ndim == 2 and values.is_floating_point() and indices.ndim:
        return functional.embedding(wanted, values)
    found = torch.index_select(values, axis, wanted.reshape(-1))
    return found.reshape([*values.shape[:axis], *indices.shape, *values.shape[axis + 1 :]])


@op("GatherElements", keeps_grid=True)
def gather_elements(node: Node, values: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return torch.gather(values, axis, _positive(node, indices, values.shape[axis]).long())


def _positive(node: Node, indices: Tensor, size: int) -> Tensor:
    """Indices counted from the front, and none beyond the end where a size was cut."""
    found = torch.where(indices < 0, indices + size, indices)
    return found.clamp(0, size - 1) if node.is_cut else found


@op("GatherND", keeps_grid=True)
def gather_nd(node: Node, values: Tensor, indices: Tensor) -> Tensor:
    batch, depth = node.get("batch_dims", 0), indices.shape[-1]
    flat = _flat_indices(node, indices, values.shape[batch : batch + depth])
    rest = values.shape[batch + depth :]
    leading = values.shape[:batch]
    if not batch:
        found = values.reshape(-1, *rest)[flat.reshape(-1)]
        return found.reshape([*indices.shape[:-1], *rest])
    groups = math.prod(leading)
    rows = values.reshape(groups, -1, *rest)
    wanted = flat.reshape(groups, -1)
    found = torch.stack([rows[i][wanted[i]] for i in range(groups)])
    return found.reshape([*indices.shape[:-1], *rest])


def _flat_indices(node: Node, indices: Tensor, shape: torch.Size) -> Tensor:
    """One number for each index tuple, counted through the axes that it addresses."""
    flat = torch.zeros_like(indices[..., 0])
    for axis, size_ in enumerate(shape):
        flat = flat * size_ + _positive(node, indices[..., axis], size_).long()
    return flat


@op("Scatter", "ScatterElements")
def scatter_elements(node: Node, values: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, how = node.get("axis", 0), node.get("reduction", "none")
    where = _positive(node, indices, values.shape[axis]).long()
    if how == "none":
        return torch.scatter(values, axis, where, updates)
    return torch.scatter_reduce(values, axis, where, updates, _REDUCTIONS[how])


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@op("ScatterND")
def scatter_nd(node: Node, values: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth, how = indices.shape[-1], node.get("reduction", "none")
    flat = _flat_indices(node, indices, values.shape[:depth]).reshape(-1)
    rest = values.shape[depth:]
    rows = values.reshape(-1, *rest)
    new = updates.reshape(-1, *rest)
    if how == "none":
        made = torch.index_put(rows, (flat,), new)
    else:
        wide = flat.reshape(-1, *([1] * len(rest))).expand(new.shape)
        made = torch.scatter_reduce(rows, 0, wide, new, _REDUCTIONS[how])
    return made.reshape(values.shape)


@op("Expand", known=(1,), keeps_grid=True)
def expand(node: Node, values: Tensor, shape: Known) -> Tensor:
    sizes = np.broadcast_shapes(tuple(values.shape), tuple(int(n) for n in shape))
    return values.expand(sizes)


@op("Tile", known=(1,), keeps_grid=True)
def tile(node: Node, values: Tensor, repeats: Known) -> Tensor:
    return values.repeat([int(n) for n in repeats])


@op("OneHot", known=(1,))
def one_hot(node: Node, indices: Tensor, depth: Known, values: Tensor) -> Tensor:
    count, axis = int(depth.item()), node.get("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    classes = torch.arange(count).reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    found = torch.where(indices < 0, indices + count, indices).unsqueeze(axis) == classes
    return torch.where(found, values[1], values[0])


@op("DepthToSpace", keeps_grid=True)
def depth_to_space(node: Node, values: Tensor) -> Tensor:
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(values, block)
    n, c, h, w = values.shape
    parts = values.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


@op("SpaceToDepth", keeps_grid=True)
def space_to_depth(node: Node, values: Tensor) -> Tensor:
    block = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return functional.pixel_unshuffle(values, block)
    n, c, h, w = values.shape
    parts = values.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


@op("ReverseSequence", either=(1,), keeps_grid=True)
def reverse_sequence(node: Node, values: Tensor, lengths: Known | Tensor) -> Tensor:
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    if isinstance(lengths, Tensor):
        steps = values.movedim((time, batch), (0, 1))
        return turned(steps, lengths.long()).movedim((0, 1), (time, batch))
    rows = []
    for row, length in enumerate(lengths):
        index = np.arange(values.shape[time])
        index[: int(length)] = index[: int(length)][::-1]
        one = values.narrow(batch, row, 1)
        whole = int(length) == values.shape[time]
        rows.append(one.flip(time) if whole else one.index_select(time, torch.from_numpy(index)))
    return torch.cat(rows, batch) if len(rows) > 1 else rows[0]


@op("Trilu", known=(1,))
@op("Trilu", known=(1,), domain=MICROSOFT)
def triangle(node: Node, values: Tensor, offset: Known | None = None) -> Tensor:
    diagonal = 0 if offset is None else int(offset.item())
    rows, columns = values.shape[-2:]
    kept = np.tri(rows, columns, diagonal - 1 if node.get("upper", 1) else diagonal, dtype=bool)
    mask = torch.from_numpy(~kept if node.get("upper", 1) else kept)
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype))


@op("Compress", either=(1,), keeps_grid=True)
def compress(node: Node, values: Tensor, condition: Known | Tensor) -> Tensor:
    if isinstance(condition, Tensor):
        raise node.refused(_OPEN.format(node.inputs[0]))
    axis = node.get("axis")
    index = torch.from_numpy(np.flatnonzero(condition))
    return torch.index_select(values.reshape(-1) if axis is None else values, axis or 0, index)


_OPEN = (
    "gives as many values as the input decides, and a file has fixed sizes: keep all and mask them "
    "(Where, or a product with 0 and 1), take a fixed number (TopK), or end the model at {!r} "
    "(onnx.utils.extract_model cuts a file)"
)


@op(
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
def random_numbers(node: Node, *values: Tensor) -> Tensor:
    raise node.refused(
        "draws random numbers, which no file can be compared or calibrated with: let the model "
        "take them as an input"
    )


@op("NonZero", "Unique", either=(0,))
def non_zero(node: Node, values: Known | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        raise node.refused(_OPEN.format(node.inputs[0]))
    if node.op == "Unique":
        raise node.refused("has no form here; store its result as a constant")
    return torch.from_numpy(np.asarray(np.nonzero(values), np.int64))


@op("Col2Im", known=(1, 2))
def column_to_image(node: Node, values: Tensor, image: Known, block: Known) -> Tensor:
    rank = len(block)
    pads = node.get("pads") or [0] * (2 * rank)
    if rank != 2:
        raise node.refused(f"has {rank} spatial axes, where a form has 2")
    sizes = [int(n) + pads[i] + pads[rank + i] for i, n in enumerate(image)]
    made = functional.fold(
        values, sizes, [int(n) for n in block], node.get("dilations") or 1, 0,
        node.get("strides") or 1,
    )  # fmt: skip
    widths = [-n for i in reversed(range(rank)) for n in (pads[i], pads[rank + i])]
    return functional.pad(made, widths) if any(widths) else made
