"""The house's doors: who may import whom, read from the source; and that `import minigpt` is light.

The rules are in `faults`. That it finds what it should is itself tested, on planted trees.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each package may import itself and those listed.
PACKAGES = {"kernels": set(), "tensor": {"kernels"}, "minigpt": {"tensor"}}
KERNELS_DOOR = "tensor.cuda_"       # what the modules begin with that may import kernels

# Each module of tensor/ may import those on its own floor and below: backend, ops, tensor, nn.
FLOORS = [
    {"tensor.backend", "tensor.blas", "tensor.dtypes", "tensor.random", "tensor.special",
     "tensor.numpy_attention", "tensor.numpy_fused", "tensor.numpy_layer_norm",
     "tensor.numpy_backend", "tensor.cuda_backend",
     "tensor.cuda_launch", "tensor.cuda_matmul", "tensor.cuda_fused", "tensor.cuda_gelu",
     "tensor.cuda_attention", "tensor.cuda_optim", "tensor.cuda_layout", "tensor.cuda_moving",
     "tensor.cuda_elementwise", "tensor.cuda_reduce", "tensor.cuda_index",
     "tensor.cuda_half", "tensor.devices", "tensor.precision"},
    {"tensor.ops"},
    {"tensor.profiling", "tensor.graph", "tensor.convert", "tensor.apply", "tensor.reductions",
     "tensor.shaping", "tensor.tensor"},
    {"tensor.functional", "tensor.nn", "tensor.optim", "tensor.gradcheck", "tensor.recompute",
     "tensor.recorded_step"},
]

# What a module may import as it is loaded, beside the standard library and our own packages.
LIGHT = {"numpy", "regex", "safetensors", "tqdm"}
# What only tests may import at all.
TESTS_ONLY = {"transformers", "tiktoken", "tokenizers", "pytest", "hypothesis", "tests",
              "tutorials"}
# The one module that compares with another library on the user's behalf, where that is installed.
COMPARES = {"minigpt.verify_torch": "transformers"}


@dataclass(frozen=True)
class Import:
    """One imported module. when: "load" of its importer, "call" of a function in it, or never,
    because it is for "types" only.
    """

    importer: str
    target: str
    line: int
    when: str


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module in the three packages."""
    modules = {}
    for file in sorted(p for package in PACKAGES for p in (root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def imports_of(module: str, file: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """Every import of a module, those inside functions and under TYPE_CHECKING included."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, when: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, when)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(module, full if full in modules else base, node.lineno, when)
        else:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                when = "call"
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                when = "types"
            for child in ast.iter_child_nodes(node):
                yield from visit(child, when)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), "load")


def floor_of(module: str) -> int | None:
    for number, floor in enumerate(FLOORS):
        if module in floor or module.rpartition(".")[0] in floor:
            return number
    return None


def direction_faults(edge: Import) -> Iterator[str]:
    """What is wrong with one import, whatever else is imported."""
    mine, theirs = edge.importer.partition(".")[0], edge.target.partition(".")[0]
    if theirs in PACKAGES:
        if theirs != mine and theirs not in PACKAGES[mine]:
            yield f"{mine} must not import {theirs}"
        if theirs == "kernels" and mine == "tensor" and not edge.importer.startswith(KERNELS_DOOR):
            yield f"only {KERNELS_DOOR}* may import kernels"
        if mine == theirs == "tensor" and edge.importer != "tensor":
            here, there = floor_of(edge.importer), floor_of(edge.target)
            if here is None:
                yield f"{edge.importer} has no floor: give it one in tests/test_layout.py"
            elif edge.target == "tensor" or (there is not None and there > here):
                yield f"{edge.importer} must not import {edge.target}, which stands on it"
    elif theirs in TESTS_ONLY and (edge.when != "call" or COMPARES.get(edge.importer) != theirs):
        yield f"only tests may import {theirs}"
    elif edge.when == "load" and theirs not in LIGHT and theirs not in sys.stdlib_module_names:
        yield f"{theirs} must be imported in the function that uses it"
    if edge.when == "load" and edge.target.startswith(KERNELS_DOOR):
        if not edge.importer.startswith(KERNELS_DOOR):
            yield f"{edge.target} is imported only when that device is asked for"


def cycles(edges: list[Import], modules: dict[str, Path]) -> Iterator[str]:
    """Each module that can reach itself, with the way round; imports for types bring none."""
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for edge in edges:
        if edge.target in modules and edge.when != "types":
            graph[edge.importer].add(edge.target)
    for start in sorted(graph):
        came_from = {start: ""}
        queue = [start]
        for module in queue:
            for target in sorted(graph[module]):
                if target == start:
                    way = [module]
                    while way[0] != start:
                        way.insert(0, came_from[way[0]])
                    yield "import cycle: " + " -> ".join([*way, start])
                    queue.clear()
                    break
                if target not in came_from:
                    came_from[target] = module
                    queue.append(target)


def faults(root: Path) -> list[str]:
    """All that is wrong with the imports in a source tree, one line each."""
    modules = modules_of(root)
    edges = [edge for name, file in modules.items() for edge in imports_of(name, file, modules)]
    found = [
        f"{modules[edge.importer].relative_to(root).as_posix()}:{edge.line}: {fault}"
        for edge in edges for fault in direction_faults(edge)
    ]
    return found + list(cycles(edges, modules))


def test_imports_go_one_way():
    modules = modules_of(ROOT)
    assert {"kernels", "tensor.tensor", "minigpt.config"} <= set(modules)
    assert faults(ROOT) == []


PLANTED = [
    ({"kernels/a.py": "import tensor"}, "kernels/a.py:1: kernels must not import tensor"),
    ({"tensor/nn.py": "from minigpt import config"}, "tensor must not import minigpt"),
    ({"minigpt/a.py": "def f():\n    from kernels import x"}, "a.py:2: minigpt must not import k"),
    ({"tensor/devices.py": "import kernels.launch"}, "only tensor.cuda_* may import kernels"),
    ({"tensor/devices.py": "import tensor.cuda_backend", "tensor/cuda_backend.py": ""},
     "only when that device is asked for"),
    ({"tensor/ops/a.py": "from tensor.tensor import Tensor", "tensor/tensor.py": ""},
     "tensor.ops.a must not import tensor.tensor"),
    ({"tensor/ops/a.py": "from ..tensor import Tensor", "tensor/tensor.py": ""},
     "tensor.ops.a must not import tensor.tensor"),
    ({"tensor/ops/a.py": "def f():\n    from tensor import tensor", "tensor/tensor.py": ""},
     "tensor.ops.a must not import tensor.tensor"),
    ({"tensor/backend.py": "from .ops import a", "tensor/ops/a.py": ""},
     "tensor.backend must not import tensor.ops.a"),
    ({"tensor/tensor.py": "import tensor.nn", "tensor/nn.py": ""}, "must not import tensor.nn"),
    ({"tensor/nn.py": "from tensor import Tensor"}, "tensor.nn must not import tensor,"),
    ({"tensor/novel.py": "import tensor.nn", "tensor/nn.py": ""}, "tensor.novel has no floor"),
    ({"minigpt/a.py": "import matplotlib.pyplot as plt"}, "matplotlib must be imported in the fun"),
    ({"minigpt/a.py": "class A:\n    import torch"}, "a.py:2: torch must be imported in the fun"),
    ({"minigpt/a.py": "try:\n    import torch\nexcept ImportError:\n    pass"}, "torch must be"),
    ({"minigpt/a.py": "def f():\n    import transformers"}, "only tests may import transformers"),
    ({"minigpt/a.py": "from tests import x"}, "only tests may import tests"),
    ({"minigpt/a.py": "import minigpt.b", "minigpt/b.py": "def f():\n    from minigpt import a"},
     "import cycle: minigpt.a -> minigpt.b -> minigpt.a"),
    ({"tensor/ops/a.py": "if TYPE_CHECKING:\n    import tensor.nn", "tensor/nn.py": ""},
     "tensor.ops.a must not import tensor.nn"),
    ({"minigpt/a.py": "from . import b", "minigpt/b.py": "from .c import x",
      "minigpt/c.py": "from minigpt.a import y"},
     "import cycle: minigpt.a -> minigpt.b -> minigpt.c -> minigpt.a"),
]


def plant(root: Path, sources: dict[str, str]) -> None:
    for package in (*PACKAGES, "tensor/ops"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    for name, source in sources.items():
        (root / name).write_text(source)


@pytest.mark.parametrize(("sources", "fault"), PLANTED, ids=[fault[:40] for _, fault in PLANTED])
def test_a_planted_fault_is_found(tmp_path, sources, fault):
    plant(tmp_path, sources)
    assert any(fault in line for line in faults(tmp_path)), faults(tmp_path)


def test_what_is_allowed_is_not_found(tmp_path):
    plant(tmp_path, {
        "tensor/backend.py": "import numpy as np",
        "tensor/cuda_backend.py": "import kernels",
        "tensor/devices.py": "def f():\n    from tensor import cuda_backend",
        "tensor/ops/a.py": "from tensor.backend import x\nimport tensor.ops.b",
        "tensor/ops/b.py": "",
        "tensor/tensor.py": "from tensor.ops import a\nfrom tensor import backend",
        "tensor/__init__.py": "from tensor import tensor",
        "minigpt/a.py": "import json, regex\nimport tqdm.auto\nfrom tensor import Tensor",
        "minigpt/b.py": "from minigpt import a\ndef f():\n    import matplotlib.pyplot, torch",
        "minigpt/c.py": "import minigpt.d",
        "minigpt/d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import minigpt.c",
    })
    assert faults(tmp_path) == []


def test_tests_have_no_packages():
    # tests/tensor/__init__.py would shadow the real package.
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_each_package_is_marked_as_typed():
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


IMPORT = """
import json, os, sys, time
import numpy
environment = dict(os.environ)
start = time.process_time()     # on a busy machine a clock would measure the others
import minigpt
seconds = time.process_time() - start
changed = sorted(set(environment.items()) ^ set(os.environ.items()))
print(json.dumps([seconds, changed, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_import_minigpt_is_light():
    times = []
    for _ in range(5):          # the least of a few: noise only ever adds
        run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True,
                             check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        seconds, changed, loaded = json.loads(run.stdout)   # one line: the import prints nothing
        assert run.stderr == "" and changed == []
        times.append(seconds)
        if seconds < 0.3:
            break
    heavy = {"matplotlib", "torch", "transformers", "tiktoken", "tokenizers", "pycuda", "scipy",
             "kernels", "pydoc_data"}
    assert heavy.isdisjoint(loaded)
    assert min(times) < 0.3, f"import minigpt took {times} seconds on top of NumPy"
