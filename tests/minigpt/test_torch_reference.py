"""Random state dicts, with views, strides and shared storages, as torch saves and loads them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt.checkpoints.formats import open_checkpoint

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip
KINDS = ["slice", "permute", "select", "unsqueeze", "flatten", "expand"]


@st.composite
def views(draw, base):
    """A tensor that shows a part of another, in any order."""
    view = base
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(KINDS))
        if kind == "unsqueeze":
            view = view.unsqueeze(draw(st.integers(0, view.ndim)))
        elif view.ndim == 0:
            continue
        elif kind == "slice":
            axis = draw(st.integers(0, view.ndim - 1))
            start = draw(st.integers(0, view.shape[axis]))
            stop = draw(st.integers(start, view.shape[axis]))
            view = view[(slice(None),) * axis + (slice(start, stop, draw(st.integers(1, 3))),)]
        elif kind == "permute":
            view = view.permute(draw(st.permutations(range(view.ndim))))
        elif kind == "select" and min(view.shape) > 0:
            view = view.select(0, draw(st.integers(0, view.shape[0] - 1)))
        elif kind == "expand" and view.shape[0] == 1:
            view = view.expand(2, *view.shape[1:])  # twice the same elements
        elif kind == "flatten":
            view = view.flatten()
    return view


@st.composite
def state_dicts(draw):
    state = {}
    for number in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        base = torch.randint(0, 100, shape).to(draw(st.sampled_from(DTYPES)))
        for view in range(draw(st.integers(1, 3))):
            name = f"{number}.{view}{draw(st.text(max_size=3))}"
            state[name] = draw(views(base))
    return state


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(state_dicts(), st.booleans(), st.sampled_from([2, 3, 4, 5]))
def test_as_torch_saved_it(tmp_path_factory, state, new, protocol):
    file = tmp_path_factory.getbasetemp() / "random.bin"
    torch.save(state, file, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    if any(t.numel() > t.untyped_storage().nbytes() // t.itemsize for t in state.values()):
        with pytest.raises(ValueError, match="more than the .* of its storage"):
            open_checkpoint(file)
        return
    with open_checkpoint(file) as reader:
        assert list(reader.header()) == list(state)
        for name, tensor in state.items():
            found = reader.read(name)
            assert found.shape == tensor.shape
            assert reader.header()[name].dtype == str(tensor.dtype).removeprefix("torch.")
            np.testing.assert_array_equal(found, tensor.double().numpy())
