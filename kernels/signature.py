"""The kernels of a `.cu` file and their parameters, read from the source itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

# The C types a parameter may have, and the NumPy type of an element.
TYPES = {"float": np.float32, "double": np.float64, "int": np.int32, "unsigned": np.uint32,
         "long long": np.int64}

_COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_KERNEL = re.compile(
    r'(?P<extern>extern\s+"C"\s+)?__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?'
    r"(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)"
)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: `type` is the C type of the value or of what it points to."""

    name: str
    type: str
    pointer: bool

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(TYPES[self.type])

    def __str__(self) -> str:
        return f"{self.type}{'*' if self.pointer else ''} {self.name}"


def without_comments(source: str) -> str:
    """The source with each comment made blank; line numbers stay."""
    return _COMMENTS.sub(lambda match: " " + "\n" * match[0].count("\n"), source)


def read_signatures(source: str, file: str) -> dict[str, tuple[Parameter, ...]]:
    """{kernel name: its parameters} of CUDA source; `file` is for messages.

    Raises ValueError for a kernel that is not `extern "C"` or has a parameter whose type is not
    in TYPES.
    """
    signatures = {}
    for match in _KERNEL.finditer(without_comments(source)):
        name = match["name"]
        if not match["extern"]:
            raise ValueError(f'{file}: declare the kernel {name} extern "C" __global__ void')
        texts = [text.strip() for text in match["parameters"].split(",")]
        signatures[name] = tuple(_parameter(t, f"{file}: {name}") for t in texts if t)
    return signatures


def _parameter(text: str, where: str) -> Parameter:
    words = re.sub(r"\b(const|__restrict__)\b|\*", " ", text).split()
    parameter = Parameter(words[-1], " ".join(words[:-1]), text.count("*") == 1)
    if parameter.type not in TYPES or text.count("*") > 1:
        raise ValueError(
            f"{where}: cannot pass the parameter '{text}': use one of {', '.join(TYPES)}, or a "
            "pointer to one"
        )
    return parameter
