"""python -m kernels.bench layer_norm: every version of a kernel, measured or counted.

    python -m kernels.bench FAMILY [--device auto|cuda|emulator] [--shape 64x768 …]
                            [--versions naive,warp] [--blocks 64,128|all|usual] [--by-line]
                            [--tune] [--out FOLDER] [--json FILE]

On a GPU each version x block size x shape is compared with NumPy and then timed: beside the naive
one, beside torch where that is installed, and as a share of what this GPU reaches at best, which is
measured, too; --tune keeps what was fastest for the model to use (tuning.py). Without a GPU the
emulator counts what each version does to memory; it can't tell a time, and none is printed. Exit
status: 0; 1 where a version failed or was wrong; 2 for a request that makes no sense.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kernels import bench_plot, tuning
from kernels.bench_cases import Case
from kernels.bench_emulator import as_json, count, counting_device
from kernels.bench_families import FAMILIES
from kernels.bench_gpu import Gpu, Limits
from kernels.cuda_errors import CudaError
from kernels.emulator.build import CompileError, CompilerNotFoundError
from kernels.emulator.counts import KernelCounts, by_line, table
from kernels.interface import Device, KernelError


class BadRequestError(ValueError):
    """What was asked for makes no sense: one line for the user."""


@dataclass
class Report:
    """What is printed, drawn and written of one case."""

    case: Case
    lines: list[str]  # Markdown
    rows: list[dict[str, Any]] = field(default_factory=list)  # for --json
    points: list[bench_plot.Point] = field(default_factory=list)
    good: bool = True


# --- what was asked for


class Job(NamedTuple):
    """One case to be made, and its runs: (version, block) in the order of the ladder."""

    family: type[Case]
    sizes: tuple[int, ...]
    runs: list[tuple[str, int]]


def jobs_of(arguments: argparse.Namespace, on_gpu: bool) -> list[Job]:
    """What was asked for. BadRequestError for what is unknown or does not fit."""
    wanted = list(FAMILIES) if arguments.family == "all" else [arguments.family]
    if wanted[0] not in FAMILIES:
        raise BadRequestError(f"there is no family {arguments.family!r}: use one of "
                              f"{', '.join(FAMILIES)}, all")  # fmt: skip
    if len(wanted) > 1 and (arguments.shape or arguments.versions):
        raise BadRequestError("--shape and --versions are for one family, not for all")
    jobs = []
    for family in (FAMILIES[name] for name in wanted):
        own = family.shapes if on_gpu else (family.small,)
        for sizes in [_sizes(family, text) for text in arguments.shape or ()] or own:
            jobs.append(Job(family, sizes, _runs(family, sizes, arguments, on_gpu)))
    return jobs


def _sizes(family: type[Case], text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) != len(family.axes) or not all(p.isdecimal() and int(p) for p in parts):
        raise BadRequestError(f"--shape {text}: {family.family} takes {'x'.join(family.axes)}, as "
                              f"in {'x'.join(map(str, family.small))}")  # fmt: skip
    return tuple(map(int, parts))


def _versions(family: type[Case], asked: str | None) -> list[str]:
    """Full names, or what follows the name of the family; all of them by default."""
    if not asked:
        return list(family.versions)
    found = []
    for name in asked.split(","):
        fits = [v for v in family.versions if name == v or v.endswith(f"_{name}")]
        if len(fits) != 1:
            raise BadRequestError(f"--versions {name}: {family.family} has "
                                  f"{', '.join(family.versions)}")  # fmt: skip
        found += fits
    return found


def _runs(
    family: type[Case], sizes: tuple[int, ...], arguments: argparse.Namespace, on_gpu: bool
) -> list[tuple[str, int]]:
    """Each version with those of its blocks that were asked for and that fit the sizes."""
    asked = arguments.blocks or ("all" if on_gpu else "usual")
    if asked not in ("all", "usual") and not all(b.isdecimal() for b in asked.split(",")):
        raise BadRequestError(f"--blocks {asked}: numbers of threads as in 64,128; all; or usual")
    runs, refused = [], []
    for version in _versions(family, arguments.versions):
        blocks = family.versions[version]
        if asked not in ("all", "usual"):
            blocks = tuple(block for block in blocks if str(block) in asked.split(","))
            refused += [] if blocks else [f"{version} takes {_listed(family.versions[version])}"]
        why_not = [family.why_not(version, sizes, block) for block in blocks]
        fitting = [block for block, why in zip(blocks, why_not) if not why]
        if blocks and not fitting:
            refused.append(f"{version}: {why_not[-1]}")
        runs += [(version, block) for block in (fitting[:1] if asked == "usual" else fitting)]
    if not runs or (arguments.versions and refused):
        raise BadRequestError("; ".join(refused))
    return runs


def _listed(blocks: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(blocks)))


# --- counted on the emulator


def count_case(job: Job, device: Device, lines_too: bool) -> Report:
    """A row a version, by the emulator's counts."""
    case = job.family(*job.sizes)
    report, counted, lines = Report(case, []), list[KernelCounts](), list[str]()
    for version, block in job.runs:
        try:
            counts, error = count(case, version, block, device)
        except (KernelError, MemoryError, ValueError) as fault:  # as where counts do not fit
            report.good = False
            lines.append(f"\n{version}, {block}: failed: {fault}")
            continue
        if not error <= case.tolerance(version):
            report.good = False
            lines.append(f"\n{version}, {block}: wrong, off by {error:.2g}")
        counted.append(counts)
        report.rows.append({**_about(case, version, block, error), **as_json(counts)})
        report.points.append(bench_plot.Point(version, case.flops / counts.total.moved_bytes))
        if lines_too:
            lines += ["", by_line(counts)]
    report.lines = [f"### {case.family}, {case}: counted", "",
                    f"The problem: {case.bytes:,} bytes at least, {case.flops:,} FLOPs.", "",
                    table(counted), *lines]  # fmt: skip
    return report


def _about(case: Case, version: str, block: int, error: float) -> dict[str, Any]:
    return {
        "family": case.family, "shape": list(case.sizes), "version": version, "block": block,
        "error": error if math.isfinite(error) else None,  # JSON has no NaN
        "problem_bytes": case.bytes_of(version), "problem_flops": case.flops,
    }  # fmt: skip


# --- measured on a GPU


def measure_case(job: Job, gpu: Gpu, limits: Limits) -> Report:
    """A row a version and block, by the GPU's clock, and one of torch."""
    case = job.family(*job.sizes)
    report = Report(case, [
        f"### {case.family}, {case}: measured on {gpu.name}", "",
        "| version | block | us (least to most) | GB/s | TFLOP/s | of the limit | x naive |",
        "|--|--|--|--|--|--|--|"])  # fmt: skip
    naive = 0.0  # seconds of the ladder's first rung that ran
    for version, block in job.runs:
        try:
            error, timing = gpu.measure(case, version, block)
        except (KernelError, MemoryError, ValueError) as fault:
            _failed(report, version, block, f"failed: {str(fault)[:200]}")
            continue
        row = _about(case, version, block, error)
        if timing is None:
            _failed(report, version, block, f"wrong, off by {error:.2g}")
        else:
            naive = naive or timing.seconds
            row |= {**timing._asdict(), "beside_naive": naive / timing.seconds,
                    "share_of_limit": limits.seconds(case, version) / timing.seconds}  # fmt: skip
            report.lines.append(_line(row))
            report.points.append(bench_plot.Point(version, case.flops / case.bytes_of(version),
                                                  case.flops / timing.seconds))  # fmt: skip
        report.rows.append(row)
    _measure_torch(report, gpu, naive)
    return report


def _failed(report: Report, version: str, block: int, why: str) -> None:
    report.lines.append(f"| {version} | {block} | {why} | | | | |")
    report.good = False


def _measure_torch(report: Report, gpu: Gpu, naive: float) -> None:
    """A row of torch, where it is installed; that it fails is no fault of ours."""
    case = report.case
    try:
        timing = gpu.measure_torch(case)
    except RuntimeError as fault:  # as where its memory is full
        report.lines.append(f"| torch, float32 | | failed: {str(fault)[:200]} | | | | |")
        return
    if timing:
        row = {**_about(case, "torch, float32", 0, 0.0), **timing._asdict(),
               "beside_naive": naive / timing.seconds}  # fmt: skip
        report.lines.append(_line(row))
        report.rows.append(row)


def _line(row: dict[str, Any]) -> str:
    """A measured row, in Markdown."""
    seconds = row["seconds"]
    us = " to ".join(f"{row[name] * 1e6:.1f}" for name in ("least", "most"))
    note = "" if row["piled"] else ", of which some is Python's"
    share = f"{row['share_of_limit']:.0%}" if "share_of_limit" in row else ""
    cells = [row["version"], row["block"] or "",
             f"{seconds * 1e6:.1f} ({us}){note}",
             f"{row['problem_bytes'] / seconds / 1e9:.0f}",
             f"{row['problem_flops'] / seconds / 1e12:.2f}", share,
             f"{row['beside_naive']:.2f}"]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


# --- the command


def find_gpu(wanted: str) -> tuple[Gpu | None, str]:
    """The GPU; or None for the emulator, and why. CudaError where one was asked for."""
    if wanted == "emulator":
        return None, ""
    try:
        return Gpu(), ""
    except CudaError as error:
        if wanted == "cuda":
            raise
        return None, f"No GPU ({error.failed}): counted on the emulator.\n"


def run(arguments: argparse.Namespace) -> bool:
    """Print, draw and write what was asked for; whether every version was right."""
    gpu, why_none = find_gpu(arguments.device)
    jobs = jobs_of(arguments, gpu is not None)
    if arguments.tune and not gpu:
        raise BadRequestError("--tune measures, and there is no GPU")
    for folder in (arguments.out, arguments.json and Path(arguments.json).parent):
        if folder:  # before, not after minutes of measuring
            Path(folder).mkdir(parents=True, exist_ok=True)
    if arguments.json and Path(arguments.json).is_dir():
        raise BadRequestError(f"--json {arguments.json} is a folder: name a file in it")
    if why_none:
        print(why_none)
    about: dict[str, Any] = {"device": "emulator, counted"}
    if gpu:
        limits = gpu.limits()
        about = {"device": gpu.name, "cuda": gpu.release, "limits": asdict(limits)}
        print(_heading(gpu, limits))
        roof = bench_plot.measured_roof(gpu.name, asdict(limits))
    else:
        device, roof = counting_device(), bench_plot.DATASHEETS[arguments.roof]
    reports = []
    for job in jobs:
        report = (measure_case(job, gpu, limits) if gpu
                  else count_case(job, device, arguments.by_line))  # fmt: skip
        print("\n".join(report.lines), end="\n\n", flush=True)
        reports.append(report)
        if gpu and arguments.tune:
            _tune(job, report, gpu)
        if arguments.out:
            _write(report, Path(arguments.out), roof)
    if arguments.json:
        about["results"] = [row for report in reports for row in report.rows]
        tuning.write_whole(Path(arguments.json), json.dumps(about, indent=1) + "\n")
    return all(report.good for report in reports)


def _heading(gpu: Gpu, limits: Limits) -> str:
    return (f"{gpu.name}, CUDA {gpu.release}. Measured limits: {limits.bytes_per_s / 1e9:.0f} GB/s,"
            f" {limits.float32 / 1e12:.1f} TFLOP/s in float32, {limits.tf32 / 1e12:.1f} in tf32, "
            f"{limits.bf16 / 1e12:.1f} in bf16 (by mma.sync). Arrays take turns, so that none is "
            f"found in the L2 cache, of {gpu.cache_bytes / 2**20:.0f} MiB.\n")  # fmt: skip


def _tune(job: Job, report: Report, gpu: Gpu) -> None:
    """Keep what was the fastest, of the times that are the GPU's and not Python's."""
    seconds = {tuning.Choice(row["version"], row["block"]): row["seconds"]
               for row in report.rows if row["block"] and row.get("piled")}
    found = tuning.choices_from(job.family.family, job.sizes, seconds)
    kept = tuning.keep(job.family.family, found, gpu.device)
    print(f"kept in {kept}\n" if kept else "not kept: MINIGPT_TUNING is off\n")


def _write(report: Report, folder: Path, roof: bench_plot.Roof) -> None:
    """The table and the picture of a case, in the folder of --out."""
    name = f"{report.case.family}-{'x'.join(map(str, report.case.sizes))}"
    tuning.write_whole(folder / f"{name}.md", "\n".join(report.lines) + "\n")
    bench_plot.draw(folder / f"{name}.png", report.case, report.points, roof)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench",
                                     description=(__doc__ or "").split("\n\n")[0])  # fmt: skip
    parser.add_argument("family", help=f"{', '.join(FAMILIES)}, or all")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "emulator"])
    parser.add_argument("--shape", action="append", help="sizes, as in 64x768; may be repeated")
    parser.add_argument("--versions", help="names with commas between; all by default")
    parser.add_argument("--blocks", help="threads of a block, with commas between; all, by "
                        "default on a GPU; or each version's usual, by default on the emulator")
    parser.add_argument("--tune", action="store_true", help="keep the fastest for this GPU")
    parser.add_argument("--by-line", action="store_true", help="counts by line of the source, too")
    parser.add_argument("--roof", default="A100", choices=sorted(bench_plot.DATASHEETS),
                        help="whose datasheet gives the roof of a picture without a GPU")
    parser.add_argument("--out", help="a folder for tables and pictures")
    parser.add_argument("--json", help="a file for all results")
    try:
        return 0 if run(parser.parse_args(argv)) else 1
    except (BadRequestError, CudaError, CompileError, CompilerNotFoundError, OSError) as error:
        print(f"kernels.bench: {error}", file=sys.stderr)
    except (MemoryError, OverflowError, ValueError) as error:  # of NumPy, or of a launch
        print(f"kernels.bench: this is too large, here or anywhere: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
