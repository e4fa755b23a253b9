"""The error function for NumPy arrays, which NumPy itself does not have."""

from __future__ import annotations

import numpy as np

# Rational approximations of erf on four ranges of |x|, lowest power first: the method and the
# coefficients of Sun Microsystems' fdlibm (s_erf.c, 1993), whose error is below one unit in the
# last place.
_ERF_OF_1 = 8.45062911510467529297e-01  # the constant around which the second range is expanded
_SMALL = (  # |x| < 0.84375, in x^2
    (
        1.28379167095512558561e-01,
        -3.25042107247001499370e-01,
        -2.84817495755985104766e-02,
        -5.77027029648944159157e-03,
        -2.37630166566501626084e-05,
    ),
    (
        1.0,
        3.97917223959155352819e-01,
        6.50222499887672944485e-02,
        5.08130628187576562776e-03,
        1.32494738004321644526e-04,
        -3.96022827877536812320e-06,
    ),
)
_NEAR_1 = (  # 0.84375 <= |x| < 1.25, in |x| - 1
    (
        -2.36211856075265944077e-03,
        4.14856118683748331666e-01,
        -3.72207876035701323847e-01,
        3.18346619901161753674e-01,
        -1.10894694282396677476e-01,
        3.54783043256182359371e-02,
        -2.16637559486879084300e-03,
    ),
    (
        1.0,
        1.06420880400844228286e-01,
        5.40397917702171048937e-01,
        7.18286544141962662868e-02,
        1.26171219808761642112e-01,
        1.36370839120290507362e-02,
        1.19844998467991074170e-02,
    ),
)
_MIDDLE = (  # 1.25 <= |x| < 1 / 0.35, in 1 / x^2
    (
        -9.86494403484714822705e-03,
        -6.93858572707181764372e-01,
        -1.05586262253232909814e01,
        -6.23753324503260060396e01,
        -1.62396669462573470355e02,
        -1.84605092906711035994e02,
        -8.12874355063065934246e01,
        -9.81432934416914548592e00,
    ),
    (
        1.0,
        1.96512716674392571292e01,
        1.37657754143519042600e02,
        4.34565877475229228821e02,
        6.45387271733267880336e02,
        4.29008140027567833386e02,
        1.08635005541779435134e02,
        6.57024977031928170135e00,
        -6.04244152148580987438e-02,
    ),
)
_LARGE = (  # 1 / 0.35 <= |x| < 6, in 1 / x^2; from 6 on erf is 1 to the last digit
    (
        -9.86494292470009928597e-03,
        -7.99283237680523006574e-01,
        -1.77579549177547519889e01,
        -1.60636384855821916062e02,
        -6.37566443368389627722e02,
        -1.02509513161107724954e03,
        -4.83519191608651397019e02,
    ),
    (
        1.0,
        3.03380607434824582924e01,
        3.25792512996573918826e02,
        1.53672958608443695994e03,
        3.19985821950859553908e03,
        2.55305040643316442583e03,
        4.74528541206955367215e02,
        -2.24409524465858183362e01,
    ),
)


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Horner's rule; the lowest power's coefficient comes first."""
    total = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total *= x
        total += c
    return total


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: np.ndarray) -> np.ndarray:
    top, bottom = coefficients
    return _polynomial(top, x) / _polynomial(bottom, x)


def _tail(coefficients: tuple[tuple[float, ...], tuple[float, ...]], a: np.ndarray) -> np.ndarray:
    """1 - erfc(a) for a >= 1.25."""
    square = a * a
    return 1 - np.exp(-square - 0.5625 + _ratio(coefficients, 1 / square)) / a


def erf(x: np.ndarray) -> np.ndarray:
    """2/sqrt(pi) times the integral of exp(-t^2) from 0 to x. float32 or float64, any shape.

    Each element is computed by the formula of its range alone; NaN stays NaN.
    """
    flat = np.abs(x).ravel()
    out = np.where(np.isnan(flat), flat, flat.dtype.type(1))
    ranges = np.searchsorted([0.84375, 1.25, 1 / 0.35, 6.0], flat, side="right")
    for number in range(4):
        where = np.flatnonzero(ranges == number)
        if where.size == 0:
            continue
        a = flat[where]
        if number == 0:
            out[where] = a + a * _ratio(_SMALL, a * a)
        elif number == 1:
            out[where] = _ERF_OF_1 + _ratio(_NEAR_1, a - 1)
        else:
            out[where] = _tail(_MIDDLE if number == 2 else _LARGE, a)
    return np.copysign(out.reshape(x.shape), x)
