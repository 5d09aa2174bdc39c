"""onnxruntime's own ops of transformers: embeddings, attention, and positions that turn vectors."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from edgeq.export.frontends.onnx.op_table import MICROSOFT, Known, Node, op
from edgeq.export.frontends.onnx.operators.integer_ops import Gridded, without_offset
from edgeq.export.frontends.onnx.operators.network_layers import layer_norm

_PAST = "takes the keys and values of earlier calls; export the model without a cache"


@op("EmbedLayerNormalization", domain=MICROSOFT)
def embeddings(
    node: Node,
    ids: Tensor,
    segments: Tensor | None,
    words: Tensor,
    positions: Tensor,
    of_segments: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Sums of embeddings, normalised; also how many ids of each row count, and the sums."""
    found = positions[: ids.shape[1]] if places is None else functional.embedding(places, positions)
    total = functional.embedding(ids, words) + found
    if segments is not None and of_segments is not None:
        total = total + functional.embedding(segments, of_segments)
    attributes = {"epsilon": 1e-12, **node.attributes}
    made = layer_norm(replace(node, attributes=attributes, outputs=("made",)), total, gamma, beta)
    counts = ids.new_zeros(ids.shape[0]) if mask is None else mask.sum(1)
    assert isinstance(made, Tensor)
    return made, counts.int(), total


@op("Attention", domain=MICROSOFT)
def attention(
    node: Node,
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *_: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Of `(B, S, C)`, with one product for queries, keys and values."""
    if past is not None or node.get("do_rotary"):
        raise node.refused(_PAST if past is not None else "turns its vectors by position inside")
    products = functional.linear(values, weight.T, bias)
    sizes = node.get("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    count = node.get("num_heads")
    query, key, value = (_heads(part, count) for part in products.split(list(sizes), -1))
    return _attended(node, query, key, value, mask, added), torch.stack([key, value])


@op("QAttention", domain=MICROSOFT, takes_grid=True, known=(6, 7))
def quantized_attention(
    node: Node,
    values: Tensor | Gridded,
    weight: Tensor | Gridded,
    bias: Tensor,
    scale: Tensor,
    weight_scale: Tensor,
    mask: Tensor | None = None,
    zero: Known | None = None,
    weight_zero: Known | None = None,
    past: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    real = without_offset(values, zero, -1) * scale
    weight = without_offset(weight, weight_zero, -1) * weight_scale
    made: tuple[Tensor, Tensor] = attention(node, real, weight, bias, mask, past)
    return made


@op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    node: Node,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    *past: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `(B, S, C)` each, of `(B, S, N, 3, H)` together, or keys and values `(B, N, S, H)`."""
    if any(one is not None for one in past):
        raise node.refused(_PAST)
    heads = _separate(node, query, key, value)
    if bias is not None:
        parts = bias.split([one.shape[1] * one.shape[3] for one in heads])
        heads = [
            one + part.reshape(one.shape[1], 1, one.shape[3])
            for one, part in zip(heads, parts, strict=True)
        ]
    query, key, value = heads
    return _attended(node, query, key, value, mask, added), key, value


def _separate(node: Node, query: Tensor, key: Tensor | None, value: Tensor | None) -> list[Tensor]:
    """Queries, keys and values `(B, N, S, H)`."""
    count = node.get("num_heads")
    if query.ndim == 5:
        return [one.transpose(1, 2) for one in query.unbind(3)]
    if key is not None and key.ndim == 5:
        return [_heads(query, count), *(one.transpose(1, 2) for one in key.unbind(3))]
    if key is None or value is None:
        raise node.refused("has neither keys nor values")
    return [_heads(one, count) if one.ndim == 3 else one for one in (query, key, value)]


def _heads(values: Tensor, count: int) -> Tensor:
    """`(B, N, S, H)` of `(B, S, N * H)`."""
    batch, steps, width = values.shape
    return values.reshape(batch, steps, count, width // count).transpose(1, 2)


def _attended(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    added: Tensor | None,
) -> Tensor:
    """`(B, S, N * H)`: values weighed by how well keys fit the queries."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores * (node.get("scale") or 1 / math.sqrt(query.shape[-1]))
    steps, keys = scores.shape[-2:]
    least = node.get("mask_filter_value", -10000.0)
    if mask is not None:
        scores = scores + (1.0 - _of_keys(node, mask, query.shape[0], steps, keys)) * least
    if node.get("unidirectional"):
        scores = scores + torch.full((steps, keys), least).triu(1 + keys - steps)
    if added is not None:
        scores = scores + added
    made = torch.matmul(torch.softmax(scores, -1), value).transpose(1, 2)
    return made.reshape(made.shape[0], made.shape[1], -1)


def _of_keys(node: Node, mask: Tensor, batch: int, steps: int, keys: int) -> Tensor:
    """1 for each key that counts and 0 for others, as scores `(B, N, S, T)` take it."""
    if mask.ndim == 1 and mask.shape[0] in (batch, 2 * batch):
        places = torch.arange(keys)
        counts = places < mask[:batch, None]
        if mask.shape[0] > batch:
            counts = counts & (places >= mask[batch:, None])
        return counts.float()[:, None, None]
    if mask.ndim not in (2, 3, 4):
        raise node.refused(f"has a mask of shape {tuple(mask.shape)}")
    counts = (mask != 0).float()
    if mask.ndim == 4:
        return counts[..., keys - steps : keys, :keys]
    return counts[:, None, None] if mask.ndim == 2 else counts[:, None]


@op("RotaryEmbedding", domain=MICROSOFT)
def turned_by_position(
    node: Node, values: Tensor, places: Tensor, cosines: Tensor, sines: Tensor
) -> Tensor:
    """Of `(B, S, N * H)` or `(B, N, S, H)`: pairs of numbers turned by an angle a place."""
    flat = values.ndim == 3
    width = node.get("rotary_embedding_dim", 0) or 2 * cosines.shape[1]
    heads = values
    if flat:
        heads = _heads(values, node.get("num_heads", 0) or values.shape[-1] // width)
    if places.numel() == 1:
        places = places.reshape(1, 1) + torch.arange(heads.shape[2])
    cosines, sines = (functional.embedding(places, t).unsqueeze(1) for t in (cosines, sines))
    turned, rest = heads[..., :width], heads[..., width:]
    if node.get("interleaved"):
        one, other = turned[..., ::2], turned[..., 1::2]
    else:
        one, other = turned.chunk(2, -1)
    parts = cosines * one - sines * other, sines * one + cosines * other
    made = torch.stack(parts, -1).flatten(-2) if node.get("interleaved") else torch.cat(parts, -1)
    made = torch.cat([made, rest], -1) if rest.shape[-1] else made
    return made.transpose(1, 2).reshape(values.shape) if flat else made
