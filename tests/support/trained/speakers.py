"""Owns a trained speaker encoder and recorded words of many speakers.

The encoder is a three-layer LSTM (L. Wan and others, "Generalized End-to-End Loss for Speaker
Verification", 2018) with the weights that the Python package Resemblyzer carries (Apache-2.0). The
words are those of the Debian package ktuberling-data (GPL-2+), one speaker for each language.
Knows nothing of quantization.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
import soundfile
import torch
from cases import Case, Outputs
from numpy.typing import NDArray
from packages import deb, wheel
from pitch import read_sound
from torch import Tensor, nn

ENCODER = wheel(
    "Resemblyzer-0.1.4-py3-none-any.whl",
    "resemblyzer",
    "0.1.4",
    "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
)
WORDS = deb(
    "ktuberling-data_4%3a22.12.3-1_all.deb",
    "ktuberling-data",
    "4:22.12.3-1",
    "fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed",
)
SPEAKERS = (
    "ca", "da", "de", "el", "es", "fi", "fr", "ga", "gl", "it", "lt", "nds", "nl", "nn", "pt", "ro",
    "ru", "sl", "sv", "uk", "wa", "sr",
)  # fmt: skip

RATE_HZ = 16_000
STEPS, BANDS = 160, 40
HOP, WINDOW = 160, 400
WIDTH, LAYERS = 256, 3
UTTERANCES, LEAST_UTTERANCES = 9, 4
TRIM = 480
LOUDNESS_DB = -30.0


class SpeakerEncoder(nn.Module):
    """An LSTM over a spectrogram; the last state becomes a vector of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Maps `(1, 160, 40)` to `(1, 256)`."""
        _, (states, _) = self.lstm(spectrogram)
        vector = torch.relu(self.linear(states[-1]))
        outputs: Tensor = vector / vector.norm(dim=1, keepdim=True)
        return outputs


def load(name: str = "resemblyzer") -> Case:
    """Reads the encoder and the words; fetches them if this machine has none yet.

    Raises:
        packages.Unavailable: They are neither here nor to be had.
    """
    representative, evaluation, labels = [], [], []
    for speaker, utterances in _utterances().items():
        kept = len(utterances) // 3
        representative += [(u[np.newaxis],) for u in utterances[:kept]]
        evaluation += [(u[np.newaxis],) for u in utterances[kept:]]
        labels += [speaker] * (len(utterances) - kept)

    def equal_error_rate(outputs: Sequence[Outputs]) -> float:
        return 100 * _equal_error_rate(np.concatenate([o for (o,) in outputs]), labels)

    return Case(
        name,
        load_encoder(),
        representative,
        evaluation,
        equal_error_rate,
        "EER %",
        higher_is_better=False,
    )


def load_encoder() -> SpeakerEncoder:
    """The trained encoder in eval mode."""
    stored = io.BytesIO(ENCODER.read_one("resemblyzer/pretrained.pt"))
    state = torch.load(stored, map_location="cpu", weights_only=True)["model_state"]
    encoder = SpeakerEncoder()
    needed = encoder.state_dict()
    encoder.load_state_dict({name: value for name, value in state.items() if name in needed})
    encoder.eval()
    return encoder


def _utterances() -> dict[str, list[NDArray[np.float32]]]:
    """Spectrograms `(160, 40)` of 1.6 s of each speaker who says enough."""
    sounds = "usr/share/ktuberling/sounds/"
    files = WORDS.read(lambda path: sounds in path and path.endswith((".ogg", ".wav", ".opus")))
    spoken: dict[str, dict[str, bytes]] = {speaker: {} for speaker in SPEAKERS}
    for path, content in sorted(files.items()):
        speaker = PurePosixPath(path.split(sounds)[1]).parts[0]
        if speaker in spoken:
            spoken[speaker][path] = content
    found = {speaker: _cut(list(words.values())) for speaker, words in spoken.items()}
    return {name: cut for name, cut in found.items() if len(cut) >= LEAST_UTTERANCES}


def _cut(words: Sequence[bytes]) -> list[NDArray[np.float32]]:
    """Words in random order, one after the other without silence, cut into utterances."""
    order = np.random.RandomState(1).permutation(len(words))
    enough = (UTTERANCES + 1) * STEPS * HOP
    speech = _joined((words[i] for i in order), enough)
    if len(speech) == 0:
        return []
    speech = speech * (10 ** (LOUDNESS_DB / 20) / np.sqrt(np.square(speech).mean()))
    length = STEPS * HOP
    count = min(UTTERANCES, len(speech) // length)
    return [_spectrogram(speech[i * length : (i + 1) * length]) for i in range(count)]


def _joined(words: Iterable[bytes], enough: int) -> NDArray[np.float32]:
    pieces: list[NDArray[np.float32]] = []
    for word in words:
        try:
            pieces.append(_without_silence(read_sound(word, RATE_HZ)))
        except soundfile.LibsndfileError:  # a few files of the package are no sound
            continue
        if sum(map(len, pieces)) > enough:
            break
    return np.concatenate([*pieces, np.zeros(0, np.float32)])


def _without_silence(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    starts = range(0, max(1, len(sound) - TRIM), TRIM)
    strength = np.array([np.sqrt(np.square(sound[i : i + TRIM]).mean()) for i in starts])
    if strength.max() < 1e-3:
        return sound[:0]
    loud = np.flatnonzero(strength > 0.05 * strength.max())
    return sound[loud[0] * TRIM : (loud[-1] + 1) * TRIM]


def _spectrogram(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Power in 40 mel bands of 160 windows around every hop, as librosa computes it."""
    padded = np.pad(sound, WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:STEPS]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    return np.asarray(power @ mel_filters(BANDS).T, np.float32)


def mel_filters(bands: int) -> NDArray[np.float64]:
    """Triangles on Slaney's mel scale, each of area 1: `(bands, 201)`."""
    edges = _hertz(np.linspace(0.0, _mel(np.float64(RATE_HZ / 2)), bands + 2))
    bins = np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.clip(np.minimum(rising, falling), 0.0, None)
    filters: NDArray[np.float64] = triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters


# Slaney's scale is linear up to 1 kHz, 200/3 Hz a mel, and logarithmic above.
_LINEAR_HZ, _KINK_HZ, _STEP = 200.0 / 3, 1000.0, np.log(6.4) / 27


def _mel(hertz: np.float64) -> np.float64:
    return np.float64(_KINK_HZ / _LINEAR_HZ + np.log(hertz / _KINK_HZ) / _STEP)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    kink = _KINK_HZ / _LINEAR_HZ
    above = _KINK_HZ * np.exp(_STEP * (mel - kink))
    hertz: NDArray[np.float64] = np.where(mel >= kink, above, mel * _LINEAR_HZ)
    return hertz


def _equal_error_rate(vectors: NDArray[np.float32], labels: Sequence[str]) -> float:
    """Where as many pairs of two speakers pass as pairs of one speaker fail, from 0 to 1."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    left, right = np.triu_indices(len(unit), 1)
    same = np.array(labels)[left] == np.array(labels)[right]
    same = same[np.argsort(-(unit[left] * unit[right]).sum(1), kind="stable")]
    misses = 1 - np.cumsum(same) / same.sum()
    false_alarms = np.cumsum(~same) / (~same).sum()
    nearest = np.abs(misses - false_alarms).argmin()
    return float((misses + false_alarms)[nearest] / 2)
