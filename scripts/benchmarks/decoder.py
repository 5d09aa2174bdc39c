"""`scripts/bench decoder`: a decoder in GPT-2's shape with caches, greedy, held to the float model.

The weights are random, of GPT-2's sizes: the embedding's rows are the last layer's, and matrices
that write the stream are smaller the deeper it is. Tokens are forced: at each place both models
have read what the float model has said by then.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

DEPTH, WIDTH, HEADS, WORDS = 4, 256, 4, 4000
PROMPT, TOKENS, PROMPTS = 16, 64, 12
"""Tokens of a prompt and behind it, and prompts that are judged."""

PLACES = PROMPT + TOKENS
SEQUENCES = 16
"""Sequences to calibrate with."""

STATES = {"keys": "new_keys", "values": "new_values"}
CACHE = (DEPTH, HEADS, PLACES, WIDTH // HEADS)

Array = npt.NDArray[Any]


def run(recipe: str) -> dict[str, Any]:
    """Exports and judges the decoder in a process of its own; plain values for JSON."""
    from benchmarks.memory import BENCH, watched

    output, readings = watched([sys.executable, str(BENCH), "decoder-of", recipe])
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    within = [r.family for r in readings if found["began"] <= r.at <= found["ended"]]
    return {**found, "peak_mb": max(within)}


def measure(recipe: str) -> dict[str, Any]:
    """Job of the child: what the export took, and how often the greedy tokens are the same."""
    import edgeq

    decoder = _decoder()
    prompts = np.random.default_rng(0).integers(0, WORDS, (SEQUENCES + PROMPTS, 1, PROMPT), "i4")
    said = [_said(decoder, prompt) for prompt in prompts]
    start = {name: np.zeros(CACHE, np.float32) for name in STATES}
    prefill = [{"token": p, "position": np.zeros(1, np.int32), **start} for p in prompts]
    steps = [_steps(prompt, tokens) for prompt, tokens in zip(prompts, said, strict=True)]
    data = {
        "prefill": prefill[:SEQUENCES],
        "decode": edgeq.Sequences(steps[:SEQUENCES], STATES, start),
    }
    began = time.time()
    made = edgeq.export(dict.fromkeys(data, decoder), data, recipe=recipe, progress=False)
    ended = time.time()
    same = 0
    with made.session("prefill", threads=1) as first, made.session("decode", threads=1) as later:
        for i in range(SEQUENCES, SEQUENCES + PROMPTS):
            seen = first.run(prefill[i])
            stream = later.stream(
                STATES, start={name: seen[given] for name, given in STATES.items()}
            )
            found = [int(seen["scores"].argmax())]
            found += [int(stream.run(s)["scores"].argmax()) for s in steps[i][PROMPT:]]
            same += sum(a == b for a, b in zip(found, said[i], strict=True))
    reports = {key: each.report for key, each in made.signatures.items()}
    return {
        "recipe": recipe, "positions": PROMPTS * TOKENS, "same": same, "began": began,
        "ended": ended, "bytes": len(made.tflite),
        "float_bytes": max(report.float_bytes for report in reports.values()),
        "time_over_float": {key: report.latency_ratio for key, report in reports.items()},
        "linked": [link.is_alike for link in made.links],
    }  # fmt: skip


def _steps(prompt: Array, tokens: list[int]) -> list[dict[str, Array]]:
    """Each token of a prompt and of all but the last that was said behind it, one by one."""
    read = [*prompt[0].tolist(), *tokens[:-1]]
    return [
        {"token": np.array([[token]], np.int32), "position": np.array([place], np.int32)}
        for place, token in enumerate(read)
    ]


def _said(decoder: Any, prompt: Array) -> list[int]:
    """The likeliest token each time, by the float model."""
    import torch

    caches = [torch.zeros(CACHE), torch.zeros(CACHE)]
    token, place, found = prompt, 0, list[int]()
    with torch.no_grad():
        while len(found) < TOKENS:
            position = torch.tensor([place], dtype=torch.int32)
            made = decoder(torch.from_numpy(token), position, *caches)
            caches = [made[given] for given in STATES.values()]
            place += token.shape[1]
            found.append(int(made["scores"].argmax()))
            token = np.array([[found[-1]]], np.int32)
    return found


def _decoder() -> Any:
    """Tokens `(1, T)` from `(1,)` on and caches `CACHE` to scores `(1, WORDS)` and caches."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.wide_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(PLACES, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
            self.norm = nn.LayerNorm(WIDTH)

        def forward(self, token: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Any:
            places = position + torch.arange(token.shape[1], dtype=position.dtype)
            past = torch.arange(PLACES)[None, None, None] <= places[:, None]
            x = self.embedding(token) + self.places(places)
            new: tuple[list[Tensor], list[Tensor]] = ([], [])
            for i, block in enumerate(self.blocks):
                parts = block.qkv(block.norm(x)).chunk(3, -1)
                query, *own = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in parts)
                for caches, whole, part in zip(new, (keys, values), own, strict=True):
                    caches.append(whole[i : i + 1].index_copy(2, places.long(), part))
                read = functional.scaled_dot_product_attention(
                    query, new[0][-1], new[1][-1], attn_mask=past
                )
                x = x + block.out(read.transpose(1, 2).flatten(2))
                x = x + block.narrow(functional.gelu(block.widen(block.wide_norm(x))))
            scores = functional.linear(self.norm(x)[:, -1], self.embedding.weight)
            return {
                "scores": scores,
                "new_keys": torch.cat(new[0]),
                "new_values": torch.cat(new[1]),
            }

    torch.manual_seed(0)
    made = Decoder().eval()
    for name, weight in made.named_parameters():
        if weight.ndim == 2:
            is_written = name.endswith(("out.weight", "narrow.weight"))
            nn.init.normal_(weight, std=0.02 / ((2 * DEPTH) ** 0.5 if is_written else 1.0))
    return made


def told(found: dict[str, Any]) -> str:
    """A line of what was found."""
    times = ", ".join(f"{key} {ratio:.2f}" for key, ratio in found["time_over_float"].items())
    return (
        f"{found['recipe']}: {found['same']} of {found['positions']} greedy tokens are float's "
        f"({found['same'] / found['positions']:.1%}); {found['bytes'] / 1e6:.1f} MB, "
        f"{found['bytes'] / found['float_bytes']:.2f} of one float signature; time over float: "
        f"{times}; export {found['ended'] - found['began']:.0f} s, peak {found['peak_mb']:.0f} MB "
        f"of all processes"
    )
