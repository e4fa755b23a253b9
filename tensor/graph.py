"""The walk back through the graph, and the switch that keeps a graph from being recorded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tensor.backend import Array, Backend
from tensor.ops.function import Function, sum_to_shape
from tensor.profiling import timed


class _GradMode(threading.local):
    enabled = True


_mode = _GradMode()


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return _mode.enabled


@contextmanager
def _recording(enabled: bool) -> Iterator[None]:
    before = _mode.enabled
    _mode.enabled = enabled
    try:
        yield
    finally:
        _mode.enabled = before


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing inside: `with no_grad(): …`, or as a decorator, `@no_grad()`."""
    with _recording(False):
        yield


@contextmanager
def enable_grad() -> Iterator[None]:
    """Record inside, even where `no_grad` is in force around it."""
    with _recording(True):
        yield


class _Sum:
    """The gradient of one output while its parts still arrive.

    The first part is only referred to, since others may hold it, too; the second makes a fresh
    array, which those that follow are added into.
    """

    __slots__ = ("array", "owned")

    def __init__(self, array: Array) -> None:
        self.array = array
        self.owned = False

    def add(self, backend: Backend, part: Array) -> None:
        if self.owned:
            backend.accumulate(self.array, part)
        else:
            self.array = backend.add(self.array, part)
            self.owned = True


def _count_uses(root: Function) -> dict[Function, int]:
    """How many edges lead into each Function below root. RuntimeError if a part was freed."""
    uses = {root: 0}
    stack = [root]
    while stack:
        function = stack.pop()
        if function.freed:
            raise RuntimeError(
                "backward: this graph, or a part of it, was already walked and its saved arrays "
                "were freed. Compute the result again, or call the first backward with "
                "retain_graph=True"
            )
        for edge in function.edges:
            if edge is None or not isinstance(edge[0], Function):
                continue
            source = edge[0]
            if source not in uses:
                uses[source] = 0
                stack.append(source)
            uses[source] += 1
    return uses


def walk(root: Function, output: int, grad: Array, retain_graph: bool) -> None:
    """Carry `grad`, the gradient of one of root's outputs, back to every leaf below root.

    A Function runs once all of its users have: Kahn's topological order, without recursion, so
    depth is no limit. Each gradient is dropped as soon as it was used, and each Function's saved
    arrays, unless `retain_graph`, as soon as its backward has run.
    """
    uses = _count_uses(root)
    sums: dict[Function, dict[int, _Sum]] = {root: {output: _Sum(grad)}}
    ready = [root]
    while ready:
        function = ready.pop()
        arrived = sums.pop(function, {})
        grads = [arrived[i].array if i in arrived else None for i in range(function.outputs)]
        del arrived
        for i, tensor in function.retained:
            if grads[i] is not None:
                tensor.accumulate_grad(grads[i], fresh=False)
        if all(g is None for g in grads):
            parts: tuple[Array | None, ...] = (None,) * len(function.edges)
        else:
            result = timed(f"{type(function).__name__}.backward", function.backward, *grads)
            parts = result if isinstance(result, tuple) else (result,)
        _hand_on(function, grads, parts, sums)
        for edge in function.edges:
            if edge is not None and isinstance(edge[0], Function):
                uses[edge[0]] -= 1
                if uses[edge[0]] == 0:
                    ready.append(edge[0])
        if not retain_graph:
            function.free()


def _hand_on(
    function: Function,
    grads: list[Array | None],
    parts: tuple[Array | None, ...],
    sums: dict[Function, dict[int, _Sum]],
) -> None:
    """Add the gradients of a Function's inputs to what their makers, or leaves, have got so far."""
    backend = function.backend
    for number, (edge, part, shape) in enumerate(
        zip(function.edges, parts, function.input_shapes, strict=True)
    ):
        if edge is None or part is None:
            continue
        summed = sum_to_shape(backend, part, shape)  # the one place where broadcasting is undone
        source, output = edge
        if not isinstance(source, Function):
            others = (*grads, *parts[:number], *parts[number + 1 :])
            shared = backend.is_view(summed) or any(summed is other for other in others)
            source.accumulate_grad(summed, fresh=not shared)
            continue
        waiting = sums.setdefault(source, {})
        if output in waiting:
            waiting[output].add(backend, summed)
        else:
            waiting[output] = _Sum(summed)
