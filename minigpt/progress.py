"""What a run shows while it works, and how it is asked to stop."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from tqdm import tqdm

Report = Callable[[str], None]
"""Takes a line meant for the user: ``print``, say."""


def tell(report: Report | None, text: str) -> None:
    """Report ``text``, if there is anyone to report to."""
    if report is not None:
        report(text)


class Progress:
    """A tqdm bar where stderr is a terminal, lines through ``report`` elsewhere, nothing without a
    ``report``. A context manager.
    """

    def __init__(self, step: int, max_steps: int, report: Report | None):
        """Begin at ``step`` of ``max_steps``."""
        self.report = report
        self.max_steps = max_steps
        self._first_step, self._started = step, time.monotonic()
        self._bar = _open_bar(report, total=max_steps, initial=step, unit="step")

    def step(self, loss: float, tokens_per_second: float) -> None:
        """Count one step."""
        if self._bar is not None:
            shown = f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s"
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update()

    def line(self, step: int, text: str, keep: bool = False) -> None:
        """Tell the figures of a step. Where there is a bar, which shows them, too, only those to
        ``keep`` get a line of their own.
        """
        if self._bar is not None:
            if not keep:
                return
            self._bar.clear()
        tell(self.report, f"step {step:>{len(str(self.max_steps))}}/{self.max_steps}  {text}")
        if self._bar is not None:
            self._bar.refresh()

    def time_left(self, step: int) -> str:
        """Minutes and seconds until the last step, at the average pace so far."""
        done = step - self._first_step
        if done == 0:
            return "?"
        pace = (time.monotonic() - self._started) / done
        return _clock(pace * (self.max_steps - step))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


class Meter:
    """How far long work is, counted in ``unit``: a tqdm bar where stderr is a terminal, elsewhere a
    line through ``report`` every ten seconds, nothing without a ``report``. A context manager.
    """

    def __init__(
        self, what: str, total: int, unit: str, report: Report | None, scaled: bool = False,
        done: int = 0,
    ):
        """Begin at ``done`` of ``total``; ``scaled`` shows 12.3M instead of 12345678 in the bar."""
        self.report = report
        self._what, self._total, self._unit = what, total, unit
        self._done, self._first = done, done
        self._started = self._told = time.monotonic()
        self._bar = _open_bar(
            report, total=total, initial=done, desc=what, unit=unit, unit_scale=scaled
        )

    def advance(self, amount: int) -> None:
        """Count ``amount`` more."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() - self._told >= 10:
            self._told = time.monotonic()
            share = self._done / max(self._total, 1)
            pace = (self._done - self._first) / (self._told - self._started)
            left = _clock((self._total - self._done) / pace) if pace > 0 else "?"
            tell(
                self.report,
                f"{self._what}: {self._done:,} of {self._total:,} {self._unit} ({share:.0%}), "
                f"{pace:,.0f} a second, {left} left",
            )

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _open_bar(report: Report | None, **options: Any) -> tqdm | None:
    if report is None or not sys.stderr.isatty():
        return None
    # tqdm shows nothing on a terminal that gives its size as 0 x 0; this gives 80 x 24.
    size = shutil.get_terminal_size()
    return tqdm(ncols=size.columns, nrows=size.lines, **options)


class StopOnSignal:
    """Turns the first Ctrl-C (SIGINT) or SIGTERM into ``requested = True``, and the second into a
    KeyboardInterrupt. A context manager; outside of the main thread, where Python allows no signal
    handlers, it does nothing.
    """

    def __init__(self) -> None:
        """Nothing was requested yet."""
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if sys.stderr.isatty():  # os.write, because a print may be interrupted by this very handler
            os.write(2, b"\nstopping after this step (Ctrl-C again: at once, without saving)\n")
