"""One line of `minigpt verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """What was checked, how it ended, what was found; where it failed what was expected instead;
    and a note, such as the source of what is known.
    """

    name: str
    state: State
    found: str
    expected: str = ""
    note: str = ""

    def line(self, width: int) -> str:
        """A row of the table, names padded to `width`."""
        text = f"{self.state}  {self.name:<{width}}  {self.found}"
        if self.expected:
            text += f"; expected {self.expected}"
        return f"{text} ({self.note})" if self.note else text


def table(checks: Sequence[Check]) -> list[str]:
    """The checks as lines, and a last one that counts them."""
    width = max((len(check.name) for check in checks), default=0)
    counts = [sum(check.state == state for check in checks) for state in ("pass", "fail", "skip")]
    passed, failed, skipped = counts
    return [
        *(check.line(width) for check in checks),
        f"{passed} passed, {failed} failed, {skipped} skipped",
    ]
