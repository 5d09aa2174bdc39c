"""TensorFlow models beside the common network, traced with one child; see `frameworks`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeq
from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import EdgeqError
from edgeq.export import frontends
from edgeq.export.frontends.tensorflow import checked_folder
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _trace(model: Any, sample: Any, worker: Worker) -> LiteModel:
    return frontends.trace(model, None, RepDataset([sample]), worker)


def right() -> dict[str, tuple[LiteModel, dict[str, Array], dict[str, Array]]]:
    """By name, the traced model, what it computes, and what TensorFlow computes."""
    import keras
    import tensorflow as tf
    from keras import layers

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.table = tf.Variable(normal(5, 8))

        @tf.function
        def __call__(self, ids: Any, scale: Any) -> Any:
            with tf.name_scope("lookup"):
                return tf.gather(self.table, ids) * scale

    class Wide(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((1, 2), tf.int64, "ids")])
        def __call__(self, ids: Any) -> Any:
            return tf.gather(tf.reshape(tf.range(10.0), (5, 2)), ids)

    class Stateful(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.last = tf.Variable(tf.zeros((1, 4)))

        @tf.function
        def __call__(self, x: Any) -> Any:
            self.last.assign(tf.tanh(x))
            return self.last.read_value() * 2.0

    @tf.function
    def function(left: Any, right: Any) -> Any:
        return {"sum": tf.nn.gelu(left + right), "difference": left - right}

    @tf.function
    def nested(x: Any) -> Any:
        return {"states": (tf.tanh(x), {"last": x * 2.0, "none": None}), "made": [x + 1.0]}

    class Subclassed(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="subclassed")
            self.inner = layers.Dense(4, name="inner")
            self.drop = layers.Dropout(0.5)

        def call(self, left: Any, right: Any, training: bool = False) -> Any:
            return self.drop(self.inner(left), training=training) * right, left

    subclassed = Subclassed()
    subclassed(normal(1, 4), normal(1, 4))
    recurrent = keras.Sequential(
        [
            keras.Input((3, 4), name="steps"),
            layers.LSTM(4, name="lstm"),
            layers.Dense(2, name="output_0"),
        ]
    )
    joined = [keras.Input((3,), name="words"), keras.Input((2,), name="speaker")]
    functional = keras.Model(joined, layers.Concatenate(name="output_0")(joined), name="functional")
    models: dict[str, tuple[Any, dict[str, Array], Callable[..., Any]]] = {}
    module, ids = Module(), np.array([[1, 4]], np.int32)
    models["tf.Module"] = module, {"ids": ids, "scale": normal(1, 2, 1)}, module
    wide = Wide()

    def of_wide(ids: Array) -> Any:
        return wide(tf.constant(ids, tf.int64))

    models["int64"] = wide, {"ids": ids}, of_wide

    class Inside(tf.Module):  # type: ignore[misc]
        def __call__(self, ids: Any) -> Any:
            return wide(ids)

    class Branching(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.scale = tf.Variable(3.0)

        @tf.function
        def __call__(self, x: Any) -> Any:
            tf.print("sum", tf.reduce_sum(x))
            return _of_branches(x, self.scale)

    branching = Branching()
    models["branches"] = branching, {"x": normal(1, 40)}, branching
    models["int64 inside"] = Inside(), {"ids": ids}, of_wide
    models["by position"] = wide.__call__.get_concrete_function(), {"ids": ids}, of_wide
    stateful = Stateful()
    models["state"] = stateful, {"x": normal(1, 4)}, stateful
    pair = {"right": normal(1, 4, seed=1), "left": normal(1, 4)}
    models["tf.function"] = function, pair, function
    flat = {"states_0": np.tanh(pair["left"]), "states_1_last": 2 * pair["left"]}
    flat["made_0"] = pair["left"] + 1
    models["nested"] = nested, {"x": pair["left"]}, lambda x: flat
    models["subclassed"] = subclassed, pair, subclassed
    named = {"words": normal(1, 3), "speaker": normal(1, 2, seed=1)}
    models["functional"] = functional, named, lambda words, speaker: functional([words, speaker])
    models["LSTM"] = recurrent, {"steps": normal(1, 3, 4)}, lambda steps: recurrent(steps)
    found = {}
    with start_converter() as worker:
        for name, (model, sample, call) in models.items():
            traced = _trace(model, sample, worker)
            expected = call(**sample)
            with Session(traced.tflite) as session:
                found[name] = traced, session.run(sample), _by_name(expected)
    return found


def _of_tensors(x: Any) -> dict[str, Any]:
    """What TensorFlow makes of `(1, 40)` by ops of whole tensors."""
    import tensorflow as tf

    rows, ids = tf.reshape(x, (8, 5)), (0, 0, 1, 1, 1, 3, 3, 4)
    made = {name: getattr(tf.math, f"segment_{name}")(rows, ids) for name in ("max", "mean", "min")}
    made["products"] = tf.math.cumprod(rows, 1)
    made["products before"] = tf.math.cumprod(rows, 0, exclusive=True, reverse=True)
    made["length"] = tf.math.reduce_euclidean_norm(rows, 1)
    at = tf.cast(tf.abs(rows[:, :2]) * 9, tf.int32) % (4, 5)  # some of them twice
    for name in ("max", "min", "sub"):
        scattered = getattr(tf, f"tensor_scatter_nd_{name}")
        made[f"scattered {name}"] = scattered(tf.zeros((4, 5)), at, rows[:, 0])
        made[f"scattered rows {name}"] = scattered(tf.zeros((4, 5)), at[:, :1], rows)
    made["clipped"] = tf.clip_by_value(at * 3, 0, 6)
    made["counts"] = tf.math.bincount(at[:, 0], minlength=3, maxlength=3)
    made["marks"] = tf.math.bincount(at, minlength=5, maxlength=5, axis=-1, binary_output=True)
    weights = tf.reshape(rows[:, :2], (8, 2))
    made["sums"] = tf.math.bincount(at, weights, minlength=5, maxlength=5, axis=-1)
    edges = tf.sparse.SparseTensor([(0, 1), (0, 7), (2, 3)], (0.5, -1.0, 2.0), (3, 8))
    made["sparse product"] = tf.sparse.sparse_dense_matmul(edges, rows)
    parts = tf.signal.stft(rows[:1], 4, 2)
    made["transformed back"] = tf.signal.inverse_stft(parts, 4, 2)
    return made


def _of_images(x: Any) -> dict[str, Any]:
    """What TensorFlow makes of `(1, 40)` by ops of images and volumes."""
    import tensorflow as tf

    image, volume = tf.reshape(x, (1, 4, 5, 2)), tf.reshape(x, (1, 5, 2, 4, 1))
    colours = tf.sigmoid(tf.reshape(x[:, :36], (1, 4, 3, 3)))
    kernel, boxes = tf.ones((2, 3, 3, 2)) * (0.1, 0.7), [[0.1, -0.2, 0.7, 0.9], [0.8, 0.1, 0, 0.5]]
    transposed, resize = tf.nn.conv2d_transpose, tf.image.resize
    return {
        "highest of volumes": tf.nn.max_pool3d(volume, (2, 1, 3), (2, 1, 1), "SAME"),
        "mean of volumes": tf.nn.avg_pool3d(volume, 2, 2, "SAME"),
        "dilated": transposed(image, kernel, (1, 6, 9, 3), 1, "VALID", dilations=2),
        "undilated": transposed(image, kernel, (1, 4, 5, 3), 1, "SAME"),
        "bicubic": resize(image, (7, 4), "bicubic"),
        "area": resize(image, (3, 2), "area"),
        "smoothed": resize(image, (3, 9), "lanczos3", antialias=True),
        "crops": tf.image.crop_and_resize(image, boxes, [0, 0], (3, 4)),
        "nearest crops": tf.image.crop_and_resize(image, boxes, [0, 0], (3, 4), "nearest"),
        "patches": tf.image.extract_patches(
            image, (1, 2, 3, 1), (1, 1, 2, 1), (1, 2, 1, 1), "SAME"
        ),
        "grown": tf.nn.dilation2d(image, kernel[:, :, 0], (1, 2, 1, 1), "SAME", "NHWC", [1] * 4),
        "hue": tf.image.adjust_hue(colours, 0.3),
        "saturation": tf.image.adjust_saturation(colours, 1.7),
        "contrast": tf.image.adjust_contrast(colours, 1.7),
        "hsv": tf.image.rgb_to_hsv(colours),
        "rgb": tf.image.hsv_to_rgb(colours),
    }


def _of_spectra(x: Any) -> dict[str, Any]:
    """What TensorFlow makes of `(1, 40)` by complex numbers."""
    import tensorflow as tf

    rows = tf.reshape(x, (5, 8))
    parts = tf.signal.fft(tf.complex(rows, rows[::-1]))
    turned = tf.exp(tf.complex(0.0 * rows, rows)) * parts / (tf.math.conj(parts) + 3.0)
    return {
        "cosines": tf.signal.dct(rows),
        "cosines of frames": tf.signal.mdct(rows, 4),
        "cepstrum": tf.signal.mfccs_from_log_mel_spectrograms(rows),
        "real parts": tf.math.real(parts @ tf.transpose(parts)),
        "sizes": tf.abs(turned),
        "angles": tf.math.angle(tf.signal.ifft(turned)),
        "pictures": tf.signal.irfft2d(tf.signal.rfft2d(rows)[..., :3], (4, 6)),
    }


def _of_matrices(x: Any) -> dict[str, Any]:
    """What TensorFlow makes of `(1, 40)` by factors of matrices."""
    import tensorflow as tf

    square = tf.reshape(x[:, :18], (2, 3, 3)) + 0.5 * tf.eye(3)
    tall, right = tf.reshape(x[:, :12], (2, 3, 2)), tf.reshape(x[:, 28:], (2, 3, 2))
    whole = square @ tf.transpose(square, (0, 2, 1)) + tf.eye(3)
    q, r = tf.linalg.qr(tall)
    sign, size = tf.linalg.slogdet(square)
    large = np.eye(40, dtype=np.float32) + 0.1 * np.sin(np.arange(1600.0)).reshape(40, 40)
    large, column = large.astype(np.float32), tf.transpose(x)
    return {
        "of a constant": tf.linalg.solve(large, column),
        "of a constant triangle": tf.linalg.triangular_solve(large, column, adjoint=True),
        "root": tf.linalg.cholesky(whole),
        "inverse": tf.linalg.inv(square),
        "solved": tf.linalg.solve(square, right, adjoint=True),
        "solved by a triangle": tf.linalg.triangular_solve(whole, right, lower=False),
        "determinant": tf.linalg.det(square),
        "sign": sign,
        "logarithm": size + tf.linalg.logdet(whole),
        "q": q,
        "r": r,
        "full q": tf.linalg.qr(tall, full_matrices=True)[0],
        "fitted": tf.linalg.lstsq(tall, right),
    }


def _of_choices(x: Any) -> dict[str, Any]:
    """What TensorFlow makes of `(1, 40)` by ops that say which places they chose."""
    import tensorflow as tf

    image, boxes = tf.reshape(x, (1, 4, 5, 2)), tf.sigmoid(tf.reshape(x, (1, 5, 2, 4)))
    scores = tf.sigmoid(tf.reshape(x[:, :10], (1, 5, 2)))
    highest, places = tf.nn.max_pool_with_argmax(image, 2, 2, "SAME")
    kept = tf.image.combined_non_max_suppression(boxes, scores, 3, 7, 0.4, 0.3)
    rows = tf.sort(tf.reshape(x[:, :20], (4, 5)))
    made = {
        "sides": tf.searchsorted(rows, rows[:, ::-1] + 0.1, "right", tf.int64),
        "left sides": tf.searchsorted(rows, rows[:, ::-1]),
        "among best": tf.cast(tf.math.in_top_k([0, 3, 2, 1], rows, 2), tf.int32),
        "across": tf.linalg.cross(tf.reshape(x[:, :12], (4, 3)), tf.reshape(x[:, 12:24], (4, 3))),
    }
    names = ("boxes that stay", "their scores", "their classes", "their number")
    return {**made, "highest": highest, "places": places, **dict(zip(names, kept, strict=True))}


def _of_lists(x: Any) -> dict[str, Any]:
    """What lists that no loop of TensorFlow's writes hold."""
    import tensorflow as tf

    rows = tf.reshape(x, (4, 10))
    sized, growing = (
        tf.TensorArray(tf.float32, size, dynamic_size=not size, clear_after_read=False)
        for size in (4, 0)
    )
    for place in range(4):
        sized = sized.write(3 - place, rows[place] * place)
        growing = growing.write(place, rows[place : place + 1])
    whole = tf.TensorArray(tf.float32, 4).unstack(rows)
    return {
        "stacked": sized.stack(),
        "joined": growing.concat(),
        "entries": sized.read(1) + whole.write(2, rows[0]).read(3),
    }


def _of_branches(x: Any, scale: Any) -> dict[str, Any]:
    """What TensorFlow makes by ops that a graph has for the machine, or for whole numbers alone."""
    import tensorflow as tf

    branch, whole = tf.cast(tf.clip_by_value(x[0, 0], 0, 2), tf.int32), tf.cast(x * 9, tf.int32)
    return {
        "branch": tf.switch_case(branch, [lambda: -x, lambda: x * scale, lambda: x + 1]),
        "seeded": x + tf.random.stateless_uniform((1, 40), (1, 2)),
        "whole above zero": tf.nn.relu(whole),
        "whole up to six": tf.nn.relu6(whole - 1),
        "above zero": tf.nn.relu(x),
    }


def own_forms() -> dict[str, tuple[Array, Array]]:
    """By op, what a folder computes without it, and what TensorFlow does with it."""
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable(3.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 40), tf.float32, "x")])
        def __call__(self, x: Any) -> Any:
            wide, unit, whole = x * self.scale, tf.tanh(x) * 0.99, tf.cast(x * 9e8, tf.int32)
            other = tf.reverse(whole, [1])
            any_number = (
                "asinh", "atan", "cosh", "digamma", "erf", "erfc", "lgamma", "sinh", "tan",
            )  # fmt: skip
            made = {name: getattr(tf.math, name)(wide) for name in any_number}
            for name in ("acos", "asin", "atanh", "erfinv"):
                made[name] = getattr(tf.math, name)(unit)
            made["acosh"] = tf.math.acosh(1 + tf.abs(wide))
            made["ndtri"] = tf.math.ndtri(0.5 + unit / 2)
            made["remainder"] = tf.truncatemod(wide, 0.7)
            made["and"] = tf.bitwise.bitwise_and(whole, other)
            made["or"] = tf.bitwise.bitwise_or(whole, other)
            made["not"] = tf.bitwise.invert(whole)
            made["shifted"] = tf.bitwise.left_shift(whole, tf.abs(other) % 32)
            made |= {**_of_tensors(x), **_of_images(x), **_of_spectra(x)}
            return {**made, **_of_matrices(x), **_of_choices(x), **_of_lists(x)}

    module, x, other = Module(), normal(1, 40), normal(1, 40, seed=1)
    with tempfile.TemporaryDirectory() as folder, start_converter() as worker:
        tf.saved_model.save(module, folder)
        traced = _trace(folder, {"x": x}, worker)
    with Session(traced.tflite) as session:
        found = session.run(other)
    return {name: (found[name], array.numpy()) for name, array in module(other).items()}


def open_sizes() -> dict[str, tuple[str, ...]]:
    """By kind of model, the notes on sizes that it leaves open."""
    import tensorflow as tf

    specs = [tf.TensorSpec((None, 4), tf.float32, "x"), tf.TensorSpec(None, tf.float32, "y")]

    class Module(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=specs)
        def __call__(self, x: Any, y: Any) -> Any:
            return x + y

    module, sample = Module(), {"x": normal(2, 4), "y": normal(1, 4)}
    with tempfile.TemporaryDirectory() as folder, start_converter() as worker:
        tf.saved_model.save(module, folder)
        both, one = f"{folder}/both", f"{folder}/one"
        call = module.__call__.get_concrete_function()
        tf.saved_model.save(module, both, {"serving_default": call, "encode": call})
        tf.saved_model.save(module, one, {"encode": call})
        models = {
            "tf.Module": module,
            "tf.function": tf.function(lambda x, y: x + y, input_signature=specs),
            "folder": folder,
            "one signature": one,
            "two signatures": both,
        }
        return {name: _trace(model, sample, worker).notes for name, model in models.items()}


def looped() -> tuple[dict[str, str], Array, Array]:
    """What stays float behind a loop without sizes, what int8 computes, and what it was before."""
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(normal(4, 4) / 4)

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, "x")])
        def __call__(self, x: Any) -> Any:
            x, step = tf.nn.relu(x @ self.weights), tf.constant(0)
            while step < 4:
                x, step = tf.tanh(x @ self.weights) + x / 2, step + 1
            return tf.nn.softmax(x)

    module, data = Module(), [{"x": normal(3, 4, seed=seed)} for seed in range(8)]
    edge = edgeq.export(module, data, recipe="int8", progress=False)
    with edge.session() as session:
        (found,) = session.run(data[0]).values()
    return edge.report.float_ops, found, np.asarray(module(**data[0]))


def near() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Doubts of a SavedModel's trace against the folder itself, and one that is a little other."""
    import tensorflow as tf

    sample, doubts = {"x": normal(1, 4)}, []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        for folder, factor in ((one, 1.0), (other, 1.01)):
            module = tf.Module()
            spec = tf.TensorSpec((1, 4), tf.float32, name="x")
            scaled = tf.function(lambda x, factor=factor: tf.tanh(x * factor))
            call = scaled.get_concrete_function(spec)
            tf.saved_model.save(module, folder, {"serving_default": call})
        with start_converter() as worker:
            traced = _trace(one, sample, worker)
            doubts = [traced.doubts, checked_folder(traced, other, sample, worker).doubts]
    return doubts[0], doubts[1]


def _by_name(result: Any) -> dict[str, Array]:
    if isinstance(result, dict):
        return {name: np.asarray(value) for name, value in result.items()}
    values = result if isinstance(result, tuple) else (result,)
    return {f"output_{i}": np.asarray(value) for i, value in enumerate(values)}


def wrong() -> dict[str, str]:
    """By name, what edgeq says of a model that it cannot export."""
    import keras
    import tensorflow as tf

    @tf.function
    def unsupported(x: Any) -> Any:
        with tf.name_scope("ranking"):
            return tf.raw_ops.Betainc(a=x, b=x, x=x)

    @tf.function
    def double(x: Any) -> Any:
        return tf.matmul(tf.cast(x, tf.float64), tf.ones((4, 2), tf.float64))

    class WithoutCall(tf.Module):  # type: ignore[misc]
        pass

    with tempfile.TemporaryDirectory() as folder, start_converter() as worker:
        module = tf.Module()
        module.double = tf.function(lambda x: 2 * x)
        spec = tf.TensorSpec((1, 4), tf.float32, name="x")
        double_it = module.double.get_concrete_function(spec)
        tf.saved_model.save(module, folder, {"double": double_it, "twice": double_it})
        models = {
            "unsupported op": unsupported,
            "float64": double,
            "no call": WithoutCall(),
            "no signature": folder,
            "not built": keras.Sequential([keras.layers.Dense(2)], name="classifier"),
            "wrong shape": tf.function(lambda x: x @ tf.ones((3, 2))),
            "not a model": Path(folder) / "variables",
        }
        return {name: _said(model, worker) for name, model in models.items()}


def _said(model: Any, worker: Worker) -> str:
    try:
        _trace(model, normal(1, 4), worker)
    except EdgeqError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
