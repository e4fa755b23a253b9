"""Warnings that point at the user's line, however deep in minigpt they arise."""

import sys
import warnings
from types import FrameType


def warn_user(message: str) -> None:
    """A UserWarning at the line outside of minigpt that led here."""
    level = 1
    frame: FrameType | None = sys._getframe(0)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "minigpt":
        level += 1
        frame = frame.f_back
    warnings.warn(message, stacklevel=level if frame is not None else 2)
