"""The bench's families: that none of the versions is left out, and that torch does the same."""

import re

import numpy as np
import pytest

from kernels import bench_attention, bench_cases, bench_elements, bench_products, bench_rows
from kernels.bench_families import FAMILIES
from kernels.launch import HERE
from kernels.signature import read_signatures

PREFIX = {"gelu": "gelu_tanh"}
# Goes with others; copies without a transpose.
NO_VERSIONS = {"layer_norm_backward_columns", "copy_strided_float4"}


def kernels_of(family):
    """{name: the types that it takes} of the kernels in the files of a family."""
    sources = {file: (HERE / file).read_text(encoding="utf-8") for file in FAMILIES[family].files}
    return {name: [(p.type, p.pointer) for p in parameters] for file, source in sources.items()
            for name, parameters in read_signatures(source, file).items()}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "attention_backward"])
def test_no_version_is_left_out(family):
    """Whatever has the family's name and takes what one of its versions takes is one, too."""
    versions, kernels = set(FAMILIES[family].versions), kernels_of(family)
    assert versions <= set(kernels)
    takes, prefix = [kernels[version] for version in versions], PREFIX.get(family, family)
    own = {name for name, types in kernels.items() if name.startswith(f"{prefix}_")
           and types in takes and (family.endswith("backward") or "_backward_" not in name)}
    assert own - NO_VERSIONS == versions, "give it a row in the family's case, or take that away"


def test_no_version_of_attentions_gradient_is_left_out():
    """Each is two kernels for each size of a head; the plain ones are one."""
    names = {re.sub(r"_(queries|keys)_\d+$", "", name) for name in kernels_of("attention_backward")
             if "_backward_" in name}
    assert names == set(FAMILIES["attention_backward"].versions)


def test_each_case_says_what_it_is():
    for family, case in FAMILIES.items():
        assert case.family == family and len(case.small) == len(case.axes)
        assert all(len(shape) == len(case.axes) for shape in case.shapes)
        assert set(case.needs) | set(getattr(case, "columns", {})) <= set(case.versions)
        assert "bytes" in case.__doc__ and ("flops" in case.__doc__ or family == "copy")
        for sizes in (*case.shapes, case.small):        # each is of use for some version
            assert any(not case.why_not(version, sizes, block)
                       for version, blocks in case.versions.items() for block in blocks)


class Result:
    """In the place of a DeviceArray, for Case.compare."""

    def __init__(self, tensor):
        self.tensor = tensor

    def numpy(self):
        return self.tensor.detach().numpy()


SIZES = {"matmul": (9, 17, 5), "attention": (2, 3, 33, 16), "attention_backward": (2, 3, 33, 16),
         "gelu": (5, 68), "adamw": (101,), "copy": (33, 65)}
NAMES = {"matmul": ["c"], "attention": ["out"], "attention_backward": ["dq", "dk", "dv"],
         "layer_norm_backward": ["dx", "dw", "db"], "softmax_backward": ["dx"],
         "cross_entropy": ["losses"], "cross_entropy_backward": ["dlogits"]}


@pytest.mark.reference
@pytest.mark.parametrize("family", FAMILIES)
def test_torch_computes_the_same(family, monkeypatch):
    """The peer of each case, on torch's CPU: it is compared with what our versions are."""
    torch = pytest.importorskip("torch")
    for module in (bench_attention, bench_cases, bench_elements, bench_products, bench_rows):
        if hasattr(module, "on_gpu"):
            monkeypatch.setattr(module, "on_gpu", lambda torch, *arrays: [
                torch.from_numpy(np.array(x)) for x in arrays])
    case = FAMILIES[family](*SIZES.get(family, (5, 65)))
    with torch.no_grad():
        step = case.torch_step(torch)
        first = step()
    if family == "adamw":       # it steps in place, from moments of zero: only that it runs
        return
    outputs = first if isinstance(first, tuple) else (first,)
    if family.startswith("attention"):
        outputs = [x.reshape(case.q.shape) for x in outputs]
    arrays = {name: Result(x) for name, x in zip(NAMES.get(family, ["y"]), outputs, strict=True)}
    if family == "cross_entropy":
        arrays["lse"] = Result(torch.logsumexp(torch.from_numpy(case.logits), -1))
    assert case.error(arrays) <= 1e-6
