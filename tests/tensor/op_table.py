"""One table of everything that has a forward and a backward: the tests of operations walk over it.

A row gives an operation as a function of tensors, the shapes to try it on, the same thing written
with torch (its twin), and, where that is easy, in plain NumPy. Integer arguments (indices, ids,
targets) are part of the row. A new operation needs a row, in one of the two files, and no new test.

torch is passed into the twins, so that the table imports without it.
"""

from __future__ import annotations

from tests.tensor import op_rows_basic as basic
from tests.tensor import op_rows_fused as fused
from tests.tensor.op_row import Case, Op

OPS: list[Op] = [
    *basic.ARITHMETIC,
    *basic.COMPARISONS,
    *basic.FUNCTIONS,
    *basic.CHOICES,
    *basic.REDUCTIONS,
    *basic.SHAPES,
    *fused.INDEXING,
    *fused.PRODUCTS,
    *fused.NORMS,
    *fused.GELUS,
    *fused.ATTENTION,
    *fused.LOSSES,
]
CASES = [Case(op, shapes) for op in OPS for shapes in op.calls]
