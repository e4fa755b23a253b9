"""The processes that share a training step, of which there is usually one.

The micro-batches of a step are numbered from 0 to ``grad_accumulation - 1`` whoever computes them:
process ``rank`` of ``size`` takes the numbers ``rank``, ``rank + size``, … Each divides its losses
by what the whole step counts, so that summed gradients are those of the step, in one process or
many.
"""

from collections.abc import Iterable

from tensor import Tensor


class OneProcess:
    """A process that trains alone; what several have to agree on is overridden by their class."""

    rank = 0
    size = 1

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each ``.grad`` by the sum of all processes' gradients."""

    def sum(self, value: float) -> float:
        """The sum of a number over all processes, the same in each."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one process at least."""
        return flag

    def wait(self) -> None:
        """Go on when all processes have come here."""
