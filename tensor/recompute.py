"""Memory for time: what a function computes inside is dropped, and computed again in backward.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". A graph keeps what every
operation in it saved until the walk back has passed. For a stack of blocks, keeping only each
block's input and running the block a second time costs one more forward pass, and leaves one
block's arrays in memory at a time instead of all of them.

The second run gives the same bits as the first: dropout's masks are a function of the generator's
state, which is set back for it, and both record a graph, without which an operation may take
another kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tensor.apply import apply
from tensor.backend import Array
from tensor.graph import enable_grad, walk
from tensor.ops.function import Function
from tensor.random import default_generator
from tensor.tensor import Tensor


class Recompute(Function):
    """y = body(*inputs), for any function of tensors; its graph is dropped, and made again in
    backward.

    The arrays are those of the inputs and, after them, of the parameters that the function uses.
    The parameters' gradients are added by the walk through the second run, so that backward has
    none left to return for them.
    """

    def forward(self, *arrays: Array, body: Callable[..., Tensor], inputs: int) -> Array:
        self.body, self.arrays = body, arrays[:inputs]
        self.random_state = default_generator().get_state()
        return body(*self._inputs()).data

    def _inputs(self) -> list[Tensor]:
        inputs = [Tensor.wrap(array, self.backend) for array in self.arrays]
        for tensor, needed in zip(inputs, self.needs_grad):
            tensor.requires_grad = needed
        return inputs

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        inputs = self._inputs()
        generator = default_generator()
        now = generator.get_state()
        generator.set_state(self.random_state)
        try:
            with enable_grad():
                y = self.body(*inputs)
        finally:
            generator.set_state(now)
        if y.creator is not None:
            walk(y.creator, y.output, dy, retain_graph=False)
        elif y.requires_grad:  # one of the inputs or parameters itself
            y.accumulate_grad(dy, fresh=False)
        gradients = [None if t.grad is None else t.grad.data for t in inputs]
        return (*gradients, *[None] * (len(self.needs_grad) - len(inputs)))


def recompute(
    function: Callable[..., Tensor], *inputs: Tensor | None, parameters: Iterable[Tensor] = ()
) -> Tensor:
    """function(*inputs), a tensor; what it computes on the way is computed again in backward.

    inputs: tensors, or None where the function takes that.
    parameters: the leaves that the function uses besides; their gradients are added to as ever.
        Apart from these it must not use a tensor that needs a gradient: that one's gradient would
        be incomplete.
    """
    present = [t for t in inputs if t is not None]

    def with_nones(*tensors: Tensor) -> Any:
        given = iter(tensors)
        return function(*[None if t is None else next(given) for t in inputs])

    return apply(Recompute, *present, *parameters, body=with_nones, inputs=len(present))
