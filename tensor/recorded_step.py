"""A step that launches the same kernels each time: recorded twice, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tensor.backend import Array
from tensor.devices import get_backend
from tensor.random import default_generator
from tensor.tensor import Tensor


class RecordedStep:
    """function(*inputs) on "cuda" or "emulator", without Python's work for each of its launches.

    The first two calls run the function, and record what it launches; from the third on that is
    launched again, on a GPU as one CUDA graph. The results have the same bits either way.

    function: takes tensors, may run backward, and returns what it made, which is returned each
        time. It must do the same in every call, and must not ask for numbers: no `.item()`, no
        `.numpy()`, no decision by a value.
    leaves: the tensors whose gradients it makes, from nothing in each call.
    inputs of a call: arrays of the shapes and dtypes of the first call. They take the place of
        those on the device, and their values are not looked at: ids are to be checked before.
    counters of a call: whole numbers that some arguments of launches move with
        (`kernels.recording`). The default generator's draws are one: masks of dropout are new.

    Each call overwrites the results and gradients of the one before. In the first two no other
    thread may use the device: its launches would be taken for the step's.

    ValueError on the CPU, for other shapes, and where leaves were moved or converted; RuntimeError
    (RecordingError) for a function that cannot be replayed.
    """

    def __init__(
        self, function: Callable[..., Any], device: str, leaves: Iterable[Tensor] = ()
    ) -> None:
        self._function, self._leaves = function, list(leaves)
        self._backend = get_backend(device)
        self._recording = self._backend.new_recording()
        self._inputs: list[Tensor] | None = None
        self._result: Any = None
        self._gradients: list[Tensor | None] = []
        self._places: list[Array] = []  # the leaves' memory, once a call was recorded
        self._draws = 0

    @property
    def launches(self) -> int:
        """Of the kernels that it records."""
        return self._recording.launches

    def __call__(self, *inputs: np.ndarray, **counters: int) -> Any:
        if any(leaf.data is not place for leaf, place in zip(self._leaves, self._places)):
            raise ValueError(
                "a leaf of a recorded step lies elsewhere now: make a new one after .to() and "
                ".astype()"
            )
        tensors = self._on_device(inputs)
        generator = default_generator()
        draws = generator.draws
        counters = {"seed": generator.seed, "draw": draws, **counters}
        if self._recording.is_ready:
            self._recording.replay(**counters)
            generator.set_state({"seed": generator.seed, "draws": draws + self._draws})
            for leaf, gradient in zip(self._leaves, self._gradients, strict=True):
                leaf.grad = gradient
            return self._result
        for leaf in self._leaves:
            leaf.grad = None
        with self._recording.take(**counters):
            self._result = self._function(*tensors)
        self._draws = generator.draws - draws
        self._gradients = [leaf.grad for leaf in self._leaves]
        self._places = [leaf.data for leaf in self._leaves]
        return self._result

    def _on_device(self, inputs: tuple[np.ndarray, ...]) -> list[Tensor]:
        """The inputs in their places."""
        arrays = [np.asarray(x) for x in inputs]
        arrays = [x.astype(np.int64, copy=False) if x.dtype.kind in "iu" else x for x in arrays]
        if self._inputs is None:
            self._inputs = [Tensor(x, device=self._backend.name) for x in arrays]
            return self._inputs
        given, recorded = ([(x.shape, str(x.dtype)) for x in xs] for xs in (arrays, self._inputs))
        if given != recorded:
            raise ValueError(f"a step recorded for {recorded} was given {given}")
        for tensor, array in zip(self._inputs, arrays, strict=True):
            self._backend.overwrite(tensor.data, array)
        return self._inputs
