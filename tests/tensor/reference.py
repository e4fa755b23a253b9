"""What the tests beside torch share: the marker, and the way there and back.

torch is imported in the functions that use it, so that collecting the tests costs a quick run
nothing.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import pytest


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# For `pytestmark`: runs with `-m reference`, where torch is installed.
reference_only = [
    pytest.mark.reference,
    pytest.mark.skipif(not _installed("torch"), reason="compares with torch"),
]


def to_torch(x: np.ndarray, requires_grad: bool = True) -> Any:
    """A leaf of torch's with the same values."""
    import torch

    t = torch.tensor(np.asarray(x))
    return t.requires_grad_() if requires_grad else t
