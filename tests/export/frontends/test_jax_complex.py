"""Complex numbers of JAX, which the runtime has no type for, against JAX' own results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import UnsupportedOpError
from edgeq.export import frontends
from edgeq.fidelity.sqnr import Fidelity
from edgeq.isolation import Worker
from edgeq.runtime.session import Session

jax = pytest.importorskip("jax")
jnp = jax.numpy
fft = jnp.fft

SQNR_FLOOR_DB = 90.0


def low_frequencies(x: Any) -> Any:
    """As a Fourier neural operator keeps them."""
    spectrum = fft.rfft(x)
    weights = jnp.arange(5) * (1 + 2j)
    return fft.irfft(jnp.zeros((2, 33), jnp.complex64).at[:, :5].set(spectrum[:, :5] * weights))


def image_spectrum(x: Any) -> Any:
    made = fft.fft2(x.reshape(2, 8, 8), norm="ortho")
    return jnp.stack([made.real, made.imag])


def arithmetic(x: Any) -> Any:
    z = fft.rfft(x[:, :9])
    product = (z / (z + 2j) - jnp.conj(z)) ** 2 @ jnp.exp(1j * jnp.ones((5, 3)))
    return jnp.abs(product) + jnp.angle(product)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "magnitudes": lambda x: jnp.abs(fft.rfft(x)),
    "low frequencies": low_frequencies,
    "there and back": lambda x: fft.ifft(fft.fft(x)).real,
    "an odd number": lambda x: fft.irfft(fft.rfft(x[:, :63]) * fft.rfft(x[:, 62::-1]), n=63),
    "image": image_spectrum,
    "arithmetic": arithmetic,
    "windows": lambda x: jnp.abs(jax.scipy.signal.stft(x, nperseg=16)[2]),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_complex_numbers_are_pairs(function: Callable[[Any], Any], converter: Worker) -> None:
    fidelity_of(function, converter, floats(2, 64))


def test_places_in_a_sorted_row_are_signed(converter: Worker) -> None:
    borders = jnp.asarray([-1.0, 0.0, 0.5, 1.0])
    fidelity_of(lambda x: jnp.searchsorted(borders, x) + x, converter, floats(2, 64))


def test_what_has_no_form_is_named(converter: Worker) -> None:
    def model(x: Any) -> Any:
        return jnp.tan(fft.fft(x)).real

    with pytest.raises(UnsupportedOpError, match=r"tan of complex numbers at \w+ has no form"):
        frontends.trace(model, None, RepDataset([floats(1, 8)]), converter)


def floats(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def fidelity_of(function: Callable[[Any], Any], worker: Worker, x: npt.NDArray[Any]) -> None:
    traced = frontends.trace(function, None, RepDataset([x]), worker)
    other = x[:, ::-1].copy()
    with Session(traced.tflite, threads=1) as session:
        (found,) = session.run(other).values()
    assert Fidelity.of(np.asarray(function(other)), found).sqnr_db > SQNR_FLOOR_DB
