"""`check` an exercise, `show_solution`, `show_source`: what a lesson's reader calls."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutorials.solutions import lesson_01, lesson_02
from tutorials.tools import exercises_01, exercises_02
from tutorials.tools.exercise import Exercise, Wrong, judge

EXERCISES: dict[str, Exercise] = exercises_01.EXERCISES | exercises_02.EXERCISES
ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS: dict[str, Callable[..., Any]] = {
    "01.1": lesson_01.my_multiply,
    "01.2": lesson_01.my_add,
    "01.3": lesson_01.my_matmul,
    "01.4": lesson_01.my_softmax,
    "02.1": lesson_02.my_adamw,
    "02.2": lesson_02.my_causal_weights,
}


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what is said of it."""

    right: bool
    text: str


def verdict(name: str, function: Any) -> Verdict:
    """Judge an answer to an exercise, "01.2" say. ValueError if there is no such exercise."""
    exercise = _exercise(name)
    try:
        right, word, told = True, "right!", judge(exercise, function)
    except Wrong as wrong:
        right, word, told = False, "not yet.", str(wrong)
    return Verdict(right, _wrapped(f"{name}, {exercise.title}: {word}\n{told}"))


def _wrapped(text: str) -> str:
    """Prose at 88 columns; lines that begin with a space hold numbers and stay as they are."""
    lines = (s if s.startswith(" ") else textwrap.fill(s, 88) for s in text.splitlines())
    return "\n".join(lines)


def check(name: str, function: Any) -> None:
    """Say whether your function solves an exercise, and if not, what is wrong with it.

    >>> check("01.1", my_multiply)
    """
    print(verdict(name, function).text)


def show_solution(name: str) -> None:
    """Print one solution of an exercise."""
    _exercise(name)
    print(inspect.getsource(SOLUTIONS[name]))


def show_source(*things: Any) -> None:
    """Print the library's own source of classes and functions, and where it stands."""
    for thing in things:
        path = Path(inspect.getsourcefile(thing) or "").resolve()
        where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        print(f"# {where}, line {inspect.getsourcelines(thing)[1]}: {thing.__qualname__}")
        print(inspect.getsource(thing))


def _exercise(name: Any) -> Exercise:
    if not isinstance(name, str) or name not in EXERCISES:
        shown = repr(name) if isinstance(name, str) else f"{name!r} (write it as text)"
        raise ValueError(f"there is no exercise {shown}; there are {', '.join(EXERCISES)}")
    return EXERCISES[name]
