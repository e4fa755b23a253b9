"""What an exercise is, and how an answer to it is judged.

A learner's function is called on small inputs and on larger ones. What it returns is compared with
what the library computes, and every gradient with finite differences besides. The first thing that
is wrong is told in words, then in numbers; see `diagnosis.py`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutorials.tools.diagnosis import compare, numbers, shapes

Inputs = dict[str, Any]  # arguments by name, in order: arrays, and numbers where an array is none
Results = dict[str, np.ndarray]
Slip = tuple[str, Any, str]  # result's name, a wrong value of it, what went wrong


class Wrong(Exception):  # noqa: N818 - an answer is wrong, nothing failed
    """What is wrong with an answer, in words; a learner sees the text alone."""


def call_with_arrays(exercise: Exercise, function: Callable[..., Any], inputs: Inputs) -> Any:
    """Call the answer as most exercises have it: arrays in, a tuple of arrays out."""
    return function(*inputs.values())


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    title: what is computed.
    signature: "my_multiply(a, b, dy) -> y, da, db": what the answer takes and returns.
    cases: gives the inputs of each call, smallest first, so that what is shown is small.
    library: the right results for some inputs, computed by the library.
    slips: gives typical wrong results for some inputs, each with its name.
    forward, gradients: for finite differences: a plain function of the inputs, and of which input
        each gradient among the results is: {"da": "a"}; "dy" weighs forward's outputs.
    order: the results in the order they are looked at, where it is not that of the signature.
    call: how the answer is called with inputs; `also` names results that this adds to its own.
    """

    title: str
    signature: str
    cases: Callable[[], Iterator[Inputs]]
    library: Callable[[Inputs], Results]
    slips: Callable[[Inputs], Iterator[Slip]]
    forward: Callable[[Inputs], np.ndarray] | None = None
    gradients: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    call: Callable[[Exercise, Callable[..., Any], Inputs], Any] = call_with_arrays
    also: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The names of what the answer takes."""
        return self.signature.partition("(")[2].partition(")")[0].split(", ")

    @property
    def results(self) -> list[str]:
        """The names of what the answer returns, and of what `call` adds."""
        return [*self.signature.partition(" -> ")[2].split(", "), *self.also]

    # --- finite differences

    def loss(self, inputs: Inputs) -> float:
        """The number whose gradients are asked for: the sum of dy times what forward gives."""
        assert self.forward is not None
        return float((inputs["dy"] * self.forward(inputs)).sum())

    def slope(self, inputs: Inputs, name: str, direction: np.ndarray, step: float = 1e-5) -> float:
        """How fast the loss changes as the input `name` moves along a direction."""
        ahead, behind = (
            self.loss({**inputs, name: inputs[name] + h * direction}) for h in (step, -step)
        )
        return (ahead - behind) / (2 * step)

    def differences(self, inputs: Inputs, name: str) -> np.ndarray:
        """The gradient of the loss, each number nudged on its own."""
        result = np.zeros(np.shape(inputs[name]))
        for index in np.ndindex(result.shape):
            direction = np.zeros(result.shape)
            direction[index] = 1.0
            result[index] = self.slope(inputs, name, direction)
        return result


def judge(exercise: Exercise, function: Any) -> str:
    """Call an answer on every case. Returns what can be said of a right one; Wrong otherwise."""
    _require_signature(exercise, function)
    names = exercise.order or tuple(exercise.results)
    count = 0
    for inputs in exercise.cases():
        answer = _run(exercise, function, inputs)
        right = exercise.library(inputs)
        for name in names:
            _judge_result(exercise, inputs, name, answer[name], right[name])
        count += 1
    if not exercise.gradients:
        return f"equal to the library's on {count} inputs"
    return f"values and gradients equal the library's, and finite differences, on {count} inputs"


def _require_signature(exercise: Exercise, function: Any) -> None:
    name = exercise.signature.partition("(")[0]
    if not callable(function):
        raise Wrong(f"give check the function itself: {name}, without parentheses after it")
    try:
        inspect.signature(function).bind(*exercise.arguments)
    except TypeError as error:
        raise Wrong(f"the function should be {exercise.signature}: {error}") from None
    except ValueError:
        pass  # a built-in function tells no signature


def _run(exercise: Exercise, function: Callable[..., Any], inputs: Inputs) -> dict[str, Any]:
    """The answer's results by name. Wrong where there is none that could be compared."""
    given = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
    try:
        with np.errstate(all="ignore"):
            returned = exercise.call(exercise, function, given)
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(_told(error, function, inputs)) from None
    for name, value in inputs.items():
        if isinstance(value, np.ndarray) and not np.array_equal(value, given[name]):
            raise Wrong(
                f"the function changed its input {name} in place. The caller still needs it, so "
                f"make a new array: write `{name} = {name} - …` in place of `{name} -= …`"
            )
    names = exercise.results
    if returned is None:
        raise Wrong("the function returns None: is there a `return` at its end?")
    values = returned if isinstance(returned, tuple | list) else (returned,)
    if len(values) != len(names):
        raise Wrong(
            f"the function should return {len(names)} results, {', '.join(names)}; it returned "
            f"{len(values)}"
        )
    return dict(zip(names, values))


def _told(error: Exception, function: Any, inputs: Inputs) -> str:
    """An error that the answer raised: where, and with which inputs."""
    code = getattr(function, "__code__", None)
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if code is not None and frame.filename == code.co_filename and frame.line:
            place = f" at `{frame.line.strip()}`"
    if "Ellipsis" in str(error) or "ellipsis" in str(error):
        return f"there is still a `...`{place}: that is where your formula goes"
    hint = ""
    if isinstance(error, ValueError) and "reshape" in str(error):
        hint = "\nA reshape only rearranges numbers. To make fewer of them, sum first."
    elif isinstance(error, ValueError) and ("matmul" in str(error) or "broadcast" in str(error)):
        hint = "\nSizes that do not fit: is there a transpose (.T) or keepdims=True missing?"
    return (
        f"the function stopped with {type(error).__name__}{place}: {error}\n"
        f"It was called with {shapes(inputs)}.{hint}"
    )


def _judge_result(
    exercise: Exercise, inputs: Inputs, name: str, got: Any, want: np.ndarray
) -> None:
    """Wrong if one result is not the library's, or the library's is not the true one."""
    source = exercise.gradients.get(name)
    with np.errstate(all="ignore"):
        slips = [(wrong, words) for result, wrong, words in exercise.slips(inputs)
                 if result == name]
    problem = compare(name, got, want, source, slips)
    if problem is None:
        if source is not None:
            _confirm(exercise, inputs, name, source, np.asarray(got, float))
        return
    if got is ... or got is None:
        raise Wrong(problem)
    rows = {"yours": got, "the library": want}
    if source is not None and np.size(want) <= 12:
        rows["finite differences"] = exercise.differences(inputs, source)
    raise Wrong(f"{problem}\n\n{numbers(exercise.arguments, inputs, name, rows)}")


def _confirm(
    exercise: Exercise, inputs: Inputs, name: str, source: str, gradient: np.ndarray
) -> None:
    """A gradient that equals the library's, against the slope along a random direction."""
    direction = np.random.default_rng(0).standard_normal(gradient.shape)
    predicted, measured = (
        float((gradient * direction).sum()),
        exercise.slope(inputs, source, direction),
    )
    if not abs(predicted - measured) <= 1e-5 * (1 + abs(measured)):
        raise Wrong(
            f"{name} equals the library's, but finite differences say otherwise (a slope of "
            f"{predicted:.6g} against {measured:.6g}): then the library is wrong. Please report it!"
        )
