"""Series of functions that the runtime has no op for, each with its error and source.

Front ends evaluate them with the ops of their own framework.
"""

from __future__ import annotations

ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
"""In `1 / (1 + ERF_SCALE |x|)`, to 1.5e-7. Source: Abramowitz and Stegun, 7.1.26."""

ERF_SCALE = 0.3275911

ERFINV_NEAR = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
ERFINV_FAR = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip
"""Polynomials in `-log(1 - x * x)`, below and above 5. Source: M. Giles, "Approximating the erfinv
function", GPU Computing Gems, 2012, the single-precision version."""

LANCZOS = (
    676.520368121885, -1259.1392167224, 771.323428777653, -176.61502916214,
    12.507343278687, -0.13857109526572, 9.98436957801957e-06, 1.50563273514931e-07,
)  # fmt: skip
"""Lanczos' series for g = 7, to 1e-15. Source: P. Godfrey, "A note on the computation of the
convergent Lanczos complex Gamma approximation", 2001."""

DIGAMMA_STEPS = 6
"""By how much the argument grows before its asymptotic series is taken, then to 1e-8."""
