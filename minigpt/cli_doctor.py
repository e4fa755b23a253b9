"""`minigpt doctor`: what is here, what works, and what to do next."""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import sys
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import tensor
from minigpt.checkpoints import hub_cache
from tensor import Tensor, gradcheck
from tensor.blas import kernel_advice, kernel_name

MARKS = {"ok": "ok", "missing": "--", "wrong": "!!"}
COLUMNS = 100
READY = {  # what to try on each device that works
    "cpu": "minigpt train",
    "emulator": "pytest -m slow tests/kernels",
    "cuda": "minigpt train --device cuda",
}
PARTS = {
    "python": "This Python",
    "cpu": "Device cpu: NumPy",
    "emulator": "Device emulator: the CUDA kernels on the CPU",
    "cuda": "Device cuda: the CUDA kernels on an NVIDIA GPU",
    "cache": "On disk",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. state: "ok", "missing" (not needed for the CPU) or "wrong"."""

    part: str
    what: str
    state: str
    text: str
    mend: str = ""  # a command


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=doctor)
    parser.description = (
        "Say what this installation has, try each device with a small computation, and tell what "
        "to do next. Exit code 0 when the device cpu works."
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for a bug report")


def doctor(arguments: argparse.Namespace) -> int:
    """`minigpt doctor`."""
    findings = [*python(), *cpu(), *devices(), hub()]
    works = not any(f.part == "cpu" and f.state == "wrong" for f in findings)
    if arguments.json:
        print(json.dumps({"findings": [asdict(f) for f in findings], "next": next_steps(findings)}))
    else:
        show(findings)
    return 0 if works else 2


def show(findings: list[Finding]) -> None:
    """Print the report for a person."""
    width = max(len(finding.what) for finding in findings)
    for part, title in PARTS.items():
        print(title)
        for finding in (f for f in findings if f.part == part):
            head = f"  {MARKS[finding.state]}  {finding.what:<{width}}  "
            text = " ".join(finding.text.split())
            print(textwrap.fill(text, COLUMNS, initial_indent=head, break_long_words=False,
                                break_on_hyphens=False, subsequent_indent=" " * len(head)))
            if finding.mend and finding.state != "ok":
                print(f"{' ' * len(head)}to mend it: {finding.mend}")
        print()
    print("What to do next")
    for step in next_steps(findings):
        print(f"  {step}")


def next_steps(findings: list[Finding]) -> list[str]:
    """One line for each device: what it is ready for, or the first thing that it lacks."""
    steps = []
    for device, ready in READY.items():
        lacking = [f for f in findings if f.part == device and f.state != "ok"]
        if not lacking:
            steps.append(f"{device} works: {ready}")
        else:
            how = f": {lacking[0].mend}" if lacking[0].mend else ""
            steps.append(f"{device} does not work: begin with {lacking[0].what}{how}")
    return steps


# ---- what minigpt itself can tell ----


def python() -> list[Finding]:
    """Python, the system, and whether the packages of these names are ours."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return [
        Finding("python", "Python", "ok", f"{platform.python_version()}, {sys.executable}"),
        Finding("python", "system", "ok", system),
        _package("minigpt", "cli_doctor.py"),
        _package("kernels", "probe.cu"),
    ]


def _package(name: str, file_of_ours: str) -> Finding:
    """Is the package that `import name` finds ours? The package index has others of both names."""
    ours = Path(tensor.__file__).parents[1] / name
    mend = 'pip uninstall minigpt kernels, then pip install -e ".[test]" in the checkout'
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        return Finding("python", name, "wrong", f"there is no package {name!r}; ours was {ours}",
                       mend)
    folder = Path(spec.origin).parent
    if not (folder / file_of_ours).is_file():
        return Finding("python", name, "wrong", f"{folder} is another project of that name", mend)
    if folder.resolve() != ours.resolve():
        return Finding("python", name, "wrong", f"{folder}, but tensor is {ours.parent}", mend)
    other = _other_project(name)
    if other:
        return Finding("python", name, "wrong", f"{folder} is ours, but {other} is installed, too",
                       f"pip uninstall {name}")
    return Finding("python", name, "ok", f"ours, {folder}")


def _other_project(name: str) -> str:
    """The installed project of this name on the package index, where it is not ours."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    summary = about.json.get("summary", "no summary")
    if name == "minigpt" and "CUDA kernels, and a GPT-2 from scratch" in summary:
        return ""
    return f"{name} {about.json.get('version', '')} ({summary})"


def cpu() -> list[Finding]:
    """NumPy, its matrix library, and a derivative that NumPy's backend gives."""
    config = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    library = f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
    kernels = kernel_name()
    text = f"{np.__version__}, {library}{f', kernels for {kernels}' if kernels else ''}"
    findings = [Finding("cpu", "NumPy", "ok", text)]
    advice = kernel_advice()
    if advice:
        findings.append(Finding("cpu", "hint", "ok", advice))
    return [*findings, cpu_test()]


def cpu_test() -> Finding:
    """The derivative of a softmax of a matrix product, beside finite differences in float64."""
    x, w = np.random.default_rng(0).standard_normal((2, 5, 5))
    try:
        gradcheck(lambda x, w: (x @ w).softmax(), Tensor(x, requires_grad=True),
                  Tensor(w, requires_grad=True))
    except Exception as error:  # whatever it is, it is what is asked for
        return Finding("cpu", "a derivative", "wrong", f"{type(error).__name__}: {error}")
    return Finding("cpu", "a derivative", "ok", "as finite differences give it")


def devices() -> list[Finding]:
    """What the devices emulator and cuda need, and a kernel on each."""
    try:
        from tensor import cuda_backend  # imports `kernels`, which may be another project

        return [Finding(**finding) for finding in cuda_backend.report()]
    except ImportError as error:
        text = f"the package kernels cannot be imported: {error}"
        return [Finding(part, "kernels", "wrong", text) for part in ("emulator", "cuda")]


def hub() -> Finding:
    """The Hub's cache of downloaded models."""
    folder = hub_cache.cache_folder()
    size = sum(path.lstat().st_size for path in folder.glob("models--*/blobs/*"))
    models = len(list(folder.glob("models--*")))
    return Finding("cache", "models", "ok", f"{models} models, {size / 2**20:,.1f} MiB in {folder}")
