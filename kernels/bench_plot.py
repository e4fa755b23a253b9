"""A roofline (Williams, Waterman and Patterson 2009) of the versions of a kernel.

Across: operations that the problem asks for, a byte of memory moved. Up: operations a second. The
roof is what memory leaves on the left, and what arithmetic leaves on the right. matplotlib is
imported only when one is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from kernels.bench_cases import Case, precision

# Okabe and Ito's palette ("Color universal design", 2008), apart for every kind of colour vision;
# in grey, and in print, the markers tell the versions apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


class Point(NamedTuple):
    """A version: operations a byte, and operations a second where they were measured."""

    version: str
    intensity: float
    flops_per_s: float | None = None


class Roof(NamedTuple):
    """bytes_per_s of memory, and operations a second by kind of arithmetic (0: none)."""

    name: str
    bytes_per_s: float
    flops_per_s: dict[str, float]
    measured: bool = False

    def attainable(self, version: str, intensity: float) -> float:
        """Operations a second that memory and arithmetic leave; 3xtf32 multiplies thrice."""
        kind = precision(version)
        peak = self.flops_per_s.get("tf32", 0.0) / 3 if kind == "3xtf32" else (
            self.flops_per_s.get(kind, 0.0))  # fmt: skip
        return min(peak or self.flops_per_s["float32"], intensity * self.bytes_per_s)


def measured_roof(name: str, limits: dict[str, float]) -> Roof:
    """Of what `bench_gpu.Limits` holds."""
    flops_per_s = {kind: rate for kind, rate in limits.items() if kind != "bytes_per_s"}
    return Roof(name, limits["bytes_per_s"], flops_per_s, measured=True)


# NVIDIA's datasheets: T4 (2019), A100 40GB SXM (2020), GeForce RTX 3090 (2020, without tensor
# cores), H100 SXM (2023; dense).
DATASHEETS = {
    "T4": Roof("T4", 320e9, {"float32": 8.1e12}),
    "A100": Roof("A100 40GB SXM", 1555e9, {"float32": 19.5e12, "tf32": 156e12, "bf16": 312e12}),
    "RTX3090": Roof("GeForce RTX 3090", 936e9, {"float32": 35.6e12}),
    "H100": Roof("H100 SXM", 3350e9, {"float32": 67e12, "tf32": 494.7e12, "bf16": 989.4e12}),
}


def draw(path: Path, case: Case, points: list[Point], roof: Roof) -> None:
    """Write a PNG; none of what has no arithmetic. Of several blocks the fastest is shown. Points
    without a time of their own stand on the datasheet's roof, each at the problem's operations a
    byte that was counted without a cache.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    best = case.flops / case.bytes
    shown = [point for point in points if point.intensity > 0]
    if not shown:
        return
    figure = Figure(figsize=(9.5, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log", xlabel="FLOPs of the problem a byte of memory",
             ylabel="GFLOP/s" if roof.measured else "GFLOP/s attainable by datasheet, not measured")
    kinds = {precision(point.version) for point in shown} | {"float32"}
    peaks = {kind: rate for kind, rate in roof.flops_per_s.items() if rate and kind in kinds}
    ridge = max(peaks.values()) / roof.bytes_per_s
    ends = [x for point in shown for x in (point.intensity, best)] + [ridge]
    left, right = min(ends) / 3, max(ends) * 10
    for kind, peak in peaks.items():
        bend = peak / roof.bytes_per_s
        axes.plot([left, bend, right], [left * roof.bytes_per_s / 1e9, peak / 1e9, peak / 1e9],
                  color="#444444", linewidth=1.2, zorder=1)
        axes.annotate(f"{kind} {peak / 1e12:.3g} TFLOP/s", (right, peak / 1e9), ha="right",
                      va="bottom", fontsize=8)
    axes.annotate(f"{roof.bytes_per_s / 1e9:.0f} GB/s", (left, left * roof.bytes_per_s / 1e9),
                  xytext=(6, 0), textcoords="offset points", ha="left", va="top", fontsize=8)
    axes.axvline(best, color="#888888", linestyle="--", linewidth=1, zorder=0)
    if not roof.measured:
        axes.annotate("all data once", (best, 0.02), xycoords=("data", "axes fraction"),
                      rotation=90, ha="right", va="bottom", fontsize=8)
    # Smaller and smaller, so that of versions in one place none hides another.
    for number, version in enumerate(dict.fromkeys(point.version for point in shown)):
        own = [point for point in shown if point.version == version]
        best_of_blocks = max(own, key=lambda point: point.flops_per_s or 0.0)
        x, height = best_of_blocks.intensity, best_of_blocks.flops_per_s
        height = roof.attainable(version, x) if height is None else height
        axes.plot([x], [height / 1e9], linestyle="none", label=version,
                  markersize=max(4, 13 - number), marker=MARKERS[number % len(MARKERS)],
                  color=COLOURS[number % len(COLOURS)],
                  markeredgecolor="black", markeredgewidth=0.6)
    about = (roof.name if roof.measured else
             f"counted on the emulator, without a cache; roof: {roof.name}, datasheet")
    axes.set_title(f"{case.family}, {case}\n{about}", fontsize=10)
    figure.legend(fontsize=8, loc="outside right upper")  # on no point
    figure.savefig(path)
