"""Every row of the table of operations on a device in bfloat16, beside torch's own on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.devices import NAME, needs_device
from tests.tensor.halves import HALF_CASES, TOLERANCE, assert_near, rounded, run
from tests.tensor.op_row import Case
from tests.tensor.reference import reference_only, to_torch

pytestmark = reference_only


@pytest.mark.parametrize("case", HALF_CASES, ids=str)
def test_row(case: Case) -> None:
    needs_device()
    import torch

    values = [rounded(x, "bfloat16") for x in case.draw(np.float32)]
    ours = run(case, "bfloat16", NAME, values)
    theirs_in = [to_torch(x).detach().bfloat16().requires_grad_() for x in values]
    theirs = case.torch(torch, theirs_in)
    arrays = [y.detach() for y in theirs]
    if case.op.gradient:
        y = theirs[0] if len(theirs) == 1 else torch.cat([y.reshape(-1) for y in theirs])
        dy = torch.tensor(np.random.default_rng(0).standard_normal(tuple(y.shape)))
        y.backward(dy.bfloat16().to(y.dtype))
        arrays += [torch.zeros_like(x) if x.grad is None else x.grad for x in theirs_in]
    for got, wanted in zip(ours, arrays, strict=True):
        exact = wanted.float().numpy() if wanted.dtype.is_floating_point else wanted.numpy()
        assert_near(got, exact, TOLERANCE["bfloat16"])
