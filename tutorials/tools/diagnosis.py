"""What is wrong with an array, in words: shape, axis, sign, a factor, a transpose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tensor import Tensor

CLOSE = 1e-7  # relative to 1 + the largest number: float64 leaves less than a millionth of that


def compare(
    name: str,
    got: Any,
    want: np.ndarray,
    source: str | None,
    slips: Iterable[tuple[Any, str]],
) -> str | None:
    """None if `got` is `want`; else a sentence that names the mistake as well as it can be told.

    name: what the result is called; source: the input that it is the gradient of.
    slips: wrong values of this result that are often seen, and what to say of each.
    """
    problem = _not_an_array(name, got)
    if problem is not None:
        return problem
    got = np.asarray(got.numpy() if isinstance(got, Tensor) else got, dtype=float)
    if got.shape == want.shape and close(got, want):
        return None
    for wrong, words in slips:
        if np.shape(wrong) == got.shape and close(got, np.asarray(wrong)):
            return f"{name}: {words}"
    if got.shape != want.shape:
        return _wrong_shape(name, got, want, source)
    return _wrong_values(name, got, want)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to rounding; NaN equals NaN."""
    scale = 1 + float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    return bool(np.allclose(a, b, rtol=0, atol=CLOSE * scale, equal_nan=True))


def _not_an_array(name: str, got: Any) -> str | None:
    if got is ...:
        return f"{name} is still `...`: that is where your formula goes"
    if got is None:
        return f"{name} is None: it was never computed"
    try:
        np.asarray(got.numpy() if isinstance(got, Tensor) else got, dtype=float)
    except (TypeError, ValueError):
        return f"{name} is no array of numbers but {type(got).__name__}"
    return None


def _wrong_shape(name: str, got: np.ndarray, want: np.ndarray, source: str | None) -> str:
    owner = f"{source} has" if source is not None else "it should have"
    text = f"{name} has the wrong shape, {got.shape}: {owner} shape {want.shape}"
    if got.ndim == 2 and got.T.shape == want.shape:
        if close(got.T, want):
            return f"{name} is transposed: its numbers are right, but rows and columns are swapped"
        return f"{text}. Rows and columns look swapped: is a transpose (.T) missing?"
    if got.size == want.size and close(got.reshape(want.shape), want):
        return f"{text}. Its numbers are right: reshape it, or use keepdims=True in a sum"
    if got.ndim == 0:
        return f"{text}. It is a single number: was everything summed?"
    if source is not None:
        return f"{text}. There is one slope for each number of {source}, no more and no less"
    return text


def _wrong_values(name: str, got: np.ndarray, want: np.ndarray) -> str:
    if not np.isfinite(got).all():
        what = "NaN" if np.isnan(got).any() else "infinite"
        return (
            f"{name} is {what} in {int((~np.isfinite(got)).sum())} of {got.size} places: look for "
            "an exp of a large number, a division by 0, or a row that has nothing left to sum"
        )
    if close(got, -want):
        return f"{name} has the wrong sign: every number is minus what it should be"
    if got.ndim == 2 and got.T.shape == want.shape and close(got.T, want):
        return f"{name} is transposed: its numbers are right, but rows and columns are swapped"
    if not got.any():
        return f"{name} is 0 everywhere: does the result use the inputs at all?"
    factor = float((got * want).sum() / (want * want).sum()) if want.any() else 1.0
    if factor and close(got, factor * want):
        return f"{name} is {factor:.4g} times what it should be: a factor is missing or too much"
    wrong = np.abs(got - want) > CLOSE * (1 + np.abs(want).max())
    return (
        f"{name} has the right shape, and {int((~wrong).sum())} of its {got.size} numbers are "
        "right. The formula needs another look"
    )


def shapes(inputs: Mapping[str, Any]) -> str:
    """ "a (2, 3), b (3,)": the inputs as a message names them."""
    return ", ".join(
        f"{name} {value.shape}" if isinstance(value, np.ndarray) else f"{name} = {value}"
        for name, value in inputs.items()
    )


def numbers(
    arguments: list[str], inputs: Mapping[str, Any], name: str, rows: Mapping[str, Any]
) -> str:
    """The numbers behind a message: small inputs, and one result as several have it."""
    arrays = {k: v for k, v in inputs.items() if isinstance(v, np.ndarray)}
    lines = {f"{k} {v.shape}": v for k, v in arrays.items() if v.size <= 12}
    large = {k: v for k, v in inputs.items() if f"{k} {np.shape(v)}" not in lines}
    lines |= {f"{name}, {who}": value for who, value in rows.items() if np.size(value) <= 12}
    width = max(map(len, lines), default=0)
    told = [f"  for {shapes(large)}"] if large else []
    told += [f"  {label:<{width}}  {_array(value)}" for label, value in lines.items()]
    return "\n".join(told + _first_difference(name, rows))


def _first_difference(name: str, rows: Mapping[str, Any]) -> list[str]:
    """Of arrays that are too large to show, or read alike: the first place where they differ."""
    got, want = rows["yours"], rows["the library"]
    shown = np.size(want) <= 12 and _array(got) != _array(want)
    if shown or np.shape(got) != np.shape(want):
        return []
    got = np.asarray(got.numpy() if isinstance(got, Tensor) else got, dtype=float)
    index = tuple(int(i) for i in np.argwhere(~np.isclose(got, want, rtol=0, atol=CLOSE))[0])
    place = ", ".join(map(str, index))
    return [f"  {name}[{place}]: yours {got[index]:.9g}, the library {want[index]:.9g}"]


def _array(value: Any) -> str:
    """On one line, to four digits."""
    if isinstance(value, Tensor):
        value = value.numpy()
    if not isinstance(value, np.ndarray | np.generic | float | int | list | tuple):
        return repr(value)
    array = np.asarray(value)
    return " ".join(np.array2string(array, precision=4, separator=", ", floatmode="maxprec",
                                    suppress_small=True).split())
