"""One trained network in every framework: the first third of the demo's.

Each of its functions builds and exports it. Keras' backend is fixed for a process, so that others
take a process of their own.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import lent_workers
import numpy as np
import numpy.typing as npt

import edgeq
from edgeq import demo
from edgeq.export.edge_model import EdgeModel

Array = npt.NDArray[Any]

KEPT_BLOCKS = (0, 1)
EPSILON = 1e-5
SAMPLES = 20


@dataclass(frozen=True)
class Unit:
    """A convolution, its batch normalisation, and a ReLU6 unless it projects.

    Attributes:
        name: Of its layer.
        kernel: `(C_out, C_in / groups, kH, kW)`.
        norm: gamma, beta, mean and variance, `(C_out,)` each.
        stride: In both directions.
        depthwise: Whether each channel has a filter of its own.
        active: Whether a ReLU6 follows.
    """

    name: str
    kernel: Array
    norm: tuple[Array, Array, Array, Array]
    stride: int = 1
    depthwise: bool = False
    active: bool = True

    @property
    def hwio(self) -> Array:
        """The kernel as `(kH, kW, C_in / groups, C_out)`."""
        return np.ascontiguousarray(self.kernel.transpose(2, 3, 1, 0))

    @property
    def pad(self) -> int:
        """Zeros at each side."""
        return int(self.kernel.shape[-1]) // 2


def _trained() -> tuple[list[tuple[list[Unit], bool]], Array, Array]:
    """`(units, whether their input is added)` of each stage, then the head's weight and bias."""
    with (files("edgeq.demo") / "assets" / "weights.npz").open("rb") as stream:
        weights = dict(np.load(stream))

    def unit(name: str, conv: str, norm: str, **options: Any) -> Unit:
        keys = ("weight", "bias", "running_mean", "running_var")
        a, b, c, d = (weights[f"{norm}.{key}"] for key in keys)
        return Unit(name, weights[f"{conv}.weight"], (a, b, c, d), **options)

    stages = [([unit("stem", "features.0", "features.1", stride=2)], False)]
    for index in KEPT_BLOCKS:
        key = f"features.{3 + index}.layers"
        units = [
            unit(f"block{index}_expand", f"{key}.0", f"{key}.1"),
            unit(f"block{index}_filter", f"{key}.3", f"{key}.4", depthwise=True),
            unit(f"block{index}_project", f"{key}.6", f"{key}.7", active=False),
        ]
        stages.append((units, index == 1))
    channels = stages[-1][0][-1].kernel.shape[0]
    return stages, weights["classifier.weight"][:, :channels], weights["classifier.bias"]


STAGES, HEAD, HEAD_BIAS = _trained()
UNITS = [unit for units, _ in STAGES for unit in units]


def images() -> npt.NDArray[np.float32]:
    """`(20, 28, 28, 1)` of the demo's calibration images."""
    return np.ascontiguousarray(demo.load_data().calibration[:SAMPLES].transpose(0, 2, 3, 1))


def forward(apply: Callable[[Unit, Any], Any], add: Callable[[Any, Any], Any], image: Any) -> Any:
    """The network up to the mean over height and width, with a framework's own functions."""
    x = image
    for units, adds in STAGES:
        y = x
        for unit in units:
            y = apply(unit, y)
        x = add(x, y) if adds else y
    return x


@dataclass(frozen=True)
class Exported:
    """What came of one framework's model.

    Attributes:
        edge_model: The export.
        expected: The framework's own outputs, `(20, 10)`.
        data: What was exported with.
    """

    edge_model: EdgeModel
    expected: Array
    data: Array


def _export(model: Any, run: Callable[[Array], Any], data: Array, **options: Any) -> Exported:
    return Exported(
        edgeq.export(model, data, recipe="int8", **options), np.asarray(run(data)), data
    )


def pytorch() -> Exported:
    """NCHW, `stem.0` and so on."""
    import torch
    from torch import nn

    def layer(unit: Unit) -> nn.Module:
        out, per_group = unit.kernel.shape[:2]
        groups = out if unit.depthwise else 1
        conv = nn.Conv2d(
            per_group * groups, out, unit.kernel.shape[-1], unit.stride, unit.pad,
            groups=groups, bias=False,
        )  # fmt: skip
        norm = nn.BatchNorm2d(out, eps=EPSILON)
        tensors = [torch.from_numpy(a) for a in (unit.kernel, *unit.norm)]
        conv.weight.data = tensors[0]
        norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var = tensors[1:]
        return nn.Sequential(conv, norm, nn.ReLU6() if unit.active else nn.Identity())

    class Network(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for unit in UNITS:
                self.add_module(unit.name, layer(unit))
            self.head = nn.Linear(HEAD.shape[1], HEAD.shape[0])
            self.head.weight.data = torch.from_numpy(HEAD)
            self.head.bias.data = torch.from_numpy(HEAD_BIAS)

        def forward(self, image: Any) -> Any:
            x = forward(lambda u, y: getattr(self, u.name)(y), torch.add, image)
            return self.head(x.mean((2, 3)))

    network = Network().eval()
    with torch.no_grad():
        data = np.ascontiguousarray(images().transpose(0, 3, 1, 2))
        return _export(network, lambda batch: network(torch.from_numpy(batch)), data)


def jax() -> Exported:
    """Layers are called as the parameters."""
    import jax as framework
    from jax import lax, nn

    names = ("gamma", "beta", "mean", "variance")
    params: dict[str, dict[str, Array]] = {
        u.name: {"kernel": u.hwio, **dict(zip(names, u.norm, strict=True))} for u in UNITS
    }
    params["head"] = {"kernel": HEAD.T.copy(), "bias": HEAD_BIAS}

    def network(params: Any, image: Any) -> Any:
        def apply(unit: Unit, x: Any) -> Any:
            p = params[unit.name]
            x = lax.conv_general_dilated(
                x, p["kernel"], (unit.stride,) * 2, ((unit.pad,) * 2,) * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=x.shape[-1] if unit.depthwise else 1,
            )  # fmt: skip
            scale = p["gamma"] * lax.rsqrt(p["variance"] + EPSILON)
            x = (x - p["mean"]) * scale + p["beta"]
            return nn.relu6(x) if unit.active else x

        x = forward(apply, lambda a, b: a + b, image).mean((1, 2))
        return x @ params["head"]["kernel"] + params["head"]["bias"]

    jitted = framework.jit(network)
    return _export(network, lambda batch: jitted(params, batch), images(), params=params)


def linen() -> Exported:
    """`stem/conv` and so on."""
    import jax as framework
    from flax import linen as nn

    class Layer(nn.Module):  # type: ignore[misc]
        unit: Any

        @nn.compact
        def __call__(self, x: Any) -> Any:
            unit, size = self.unit, self.unit.kernel.shape
            x = nn.Conv(
                size[0], size[2:], unit.stride, ((unit.pad,) * 2,) * 2, use_bias=False, name="conv",
                feature_group_count=size[0] if unit.depthwise else 1,
            )(x)  # fmt: skip
            x = nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name="norm")(x)
            return nn.relu6(x) if unit.active else x

    class Network(nn.Module):  # type: ignore[misc]
        @nn.compact
        def __call__(self, image: Any) -> Any:
            x = forward(lambda u, y: Layer(u, name=u.name)(y), lambda a, b: a + b, image)
            return nn.Dense(HEAD.shape[0], name="head")(x.mean((1, 2)))

    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for u in UNITS:
        norm = {"scale": u.norm[0], "bias": u.norm[1]}
        variables["params"][u.name] = {"conv": {"kernel": u.hwio}, "norm": norm}
        variables["batch_stats"][u.name] = {"norm": {"mean": u.norm[2], "var": u.norm[3]}}
    variables["params"]["head"] = {"kernel": HEAD.T.copy(), "bias": HEAD_BIAS}
    jitted = framework.jit(Network().apply)
    return _export(Network(), lambda batch: jitted(variables, batch), images(), params=variables)


def nnx() -> Exported:
    """`stem.conv` and so on."""
    from flax import nnx as nn

    rngs = nn.Rngs(0)

    def given(array: Array) -> Any:
        return lambda key, shape, dtype=None: np.broadcast_to(array, shape)

    class Layer(nn.Module):  # type: ignore[misc]
        def __init__(self, unit: Unit) -> None:
            out, per_group = unit.kernel.shape[:2]
            groups = out if unit.depthwise else 1
            self.active = unit.active
            self.conv = nn.Conv(
                per_group * groups, out, unit.kernel.shape[2:], unit.stride,
                padding=((unit.pad,) * 2,) * 2, feature_group_count=groups, use_bias=False,
                kernel_init=given(unit.hwio), rngs=rngs,
            )  # fmt: skip
            self.norm = nn.BatchNorm(
                out, epsilon=EPSILON, scale_init=given(unit.norm[0]), bias_init=given(unit.norm[1]),
                rngs=rngs,
            )  # fmt: skip
            self.norm.mean[...], self.norm.var[...] = unit.norm[2:]

        def __call__(self, x: Any) -> Any:
            x = self.norm(self.conv(x))
            return nn.relu6(x) if self.active else x

    class Network(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            for unit in UNITS:
                setattr(self, unit.name, Layer(unit))
            self.head = nn.Linear(
                *HEAD.T.shape, kernel_init=given(HEAD.T), bias_init=given(HEAD_BIAS), rngs=rngs
            )

        def __call__(self, image: Any) -> Any:
            x = forward(lambda u, y: getattr(self, u.name)(y), lambda a, b: a + b, image)
            return self.head(x.mean((1, 2)))

    network = Network()
    frozen = nn.merge(*nn.split(network))
    frozen.eval()
    jitted = nn.jit(lambda m, batch: m(batch))
    return _export(network, lambda batch: jitted(frozen, batch), images())


def keras() -> Exported:
    """`stem` and so on, on the backend that Keras was started with."""
    from keras import Input, Model, layers

    weights: list[Array] = []

    def apply(unit: Unit, x: Any) -> Any:
        size, name = unit.kernel.shape[-1], unit.name
        options = {"strides": unit.stride, "use_bias": False, "name": name}
        if unit.pad:
            x = layers.ZeroPadding2D(unit.pad, name=f"{name}_pad")(x)
        if unit.depthwise:
            x = layers.DepthwiseConv2D(size, depthwise_initializer="zeros", **options)(x)
            weights.append(unit.hwio.transpose(0, 1, 3, 2))
        else:
            x = layers.Conv2D(unit.kernel.shape[0], size, kernel_initializer="zeros", **options)(x)
            weights.append(unit.hwio)
        x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_norm")(x)
        weights.extend(unit.norm)
        return layers.ReLU(6.0, name=f"{name}_act")(x) if unit.active else x

    image = Input((28, 28, 1), name="image")
    x = forward(apply, lambda a, b: layers.Add(name="add")([a, b]), image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    network = Model(image, layers.Dense(HEAD.shape[0], name="head")(x), name="network")
    network.set_weights([*weights, HEAD.T, HEAD_BIAS])
    return _export(network, lambda batch: network.predict(batch, verbose=0), images())


def saved_model() -> Exported:
    """A SavedModel folder of plain TensorFlow ops in scopes."""
    import tensorflow as tf

    class Network(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.kernels = [
                tf.Variable(u.hwio.transpose(0, 1, 3, 2) if u.depthwise else u.hwio) for u in UNITS
            ]
            self.norms = [[tf.Variable(array) for array in u.norm] for u in UNITS]
            self.head = tf.Variable(HEAD.T), tf.Variable(HEAD_BIAS)

        def apply(self, unit: Unit, x: Any) -> Any:
            with tf.name_scope(unit.name):
                index = UNITS.index(unit)
                gamma, beta, mean, variance = self.norms[index]
                convolve = tf.nn.depthwise_conv2d if unit.depthwise else tf.nn.conv2d
                x = tf.pad(x, [[0, 0], *[[unit.pad] * 2] * 2, [0, 0]])
                x = convolve(x, self.kernels[index], [1, unit.stride, unit.stride, 1], "VALID")
                x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)
                return tf.nn.relu6(x) if unit.active else x

        @tf.function(input_signature=[tf.TensorSpec((None, 28, 28, 1), name="image")])
        def __call__(self, image: Any) -> Any:
            x = tf.reduce_mean(forward(self.apply, tf.add, image), (1, 2))
            with tf.name_scope("head"):
                return {"logits": x @ self.head[0] + self.head[1]}

    network = Network()
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(network, folder, signatures=network.__call__)
        return _export(folder, lambda batch: network(batch)["logits"], images())


def tflite() -> Exported:
    """The float file that `jax` makes, as another tool might have."""
    made = jax()
    tflite = made.edge_model.float_model.tflite
    return Exported(edgeq.export(tflite, made.data, recipe="int8"), made.expected, made.data)


def with_keras(folder: Path, backend: str, *functions: str) -> list[Any]:
    """What functions, of this module or `module:function`, return where Keras has a backend.

    Made once, by the first of the processes that share the tests and `folder`.
    """
    result = folder / f"keras_on_{backend}_{functions[0]}.pickle"
    with result.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            _run_with_keras(backend, functions, result)
    found: list[Any] = pickle.loads(result.read_bytes())
    return found


def _run_with_keras(backend: str, functions: Sequence[str], result: Path) -> None:
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Without it TensorFlow has no dilated transposed convolution on processors with AVX2 alone.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    program = "import frameworks; frameworks.write()"
    command = [sys.executable, "-c", program, *functions, str(result)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def write() -> None:
    """What the child of `with_keras` does."""
    *wanted, path = sys.argv[1:]
    found = []
    with lent_workers.in_use():  # so that TensorFlow is imported by one of them, once
        for name in wanted:
            module, _, function = name.rpartition(":")
            found.append(getattr(importlib.import_module(module or "frameworks"), function)())
    Path(path).write_bytes(pickle.dumps(found))
