"""`minigpt plot`: the curves of runs, together."""

import argparse
from pathlib import Path

from minigpt.cli_common import not_empty, print_line
from minigpt.plot_runs import plot_layers, plot_runs


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.set_defaults(command=plot)
    parser.description = (
        "Draw loss, learning rate, norm of the gradients and tokens per second of one or several "
        "runs into one picture."
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=not_empty, help="a folder of `minigpt train`"
    )
    parser.add_argument(
        "--out", metavar="FILE", type=not_empty,
        help="the PNG file to write (RUN/runs.png of the first run)",
    )  # fmt: skip
    parser.add_argument(
        "--layers", action="store_true",
        help="instead the sizes of gradients and activations in the layers of one run, which was "
        "trained with --set layers_every=N (RUN/layers.png)",
    )  # fmt: skip


def plot(arguments: argparse.Namespace) -> int:
    """`minigpt plot`."""
    runs = arguments.runs
    for run in runs:
        if not Path(run).exists():
            raise FileNotFoundError(f"{run}: no such run")
    if arguments.layers and len(runs) > 1:
        raise ValueError(f"--layers draws the layers of one run, not of {len(runs)}")
    name = "layers.png" if arguments.layers else "runs.png"
    folder = Path(runs[0]) if Path(runs[0]).is_dir() else Path(runs[0]).parent
    picture = Path(arguments.out or folder / name)
    if picture.suffix.lower() != ".png":
        raise ValueError(f"--out {picture}: the picture is a PNG file: name it .png")
    if arguments.layers:
        plot_layers(runs[0], picture)
    else:
        plot_runs(runs, picture)
    print_line(str(picture))
    return 0
