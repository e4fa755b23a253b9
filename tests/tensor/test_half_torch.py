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
    # torch adds up a layer norm's gradients of w and b over rows in bfloat16, in as many parts as
    # it has threads: with one thread and 300 rows that is off by more than the tolerance, and
    # ours, which adds in float32, is not. So of many rows torch's float32 is the reference.
    many = case.op.name.startswith("layer_norm") and values[0].size > 100 * values[0].shape[-1]
    dtype = torch.float32 if many else torch.bfloat16
    theirs_in = [to_torch(x).detach().to(dtype).requires_grad_() for x in values]
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
