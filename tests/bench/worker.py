"""One process of the bench: times a case in one library and prints a line of JSON.

    python -m tests.bench.worker ours "decode 124M B=1"

With `--profile` behind that it prints instead what each operation of one step of ours costs.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time

from tests.bench import ours, theirs
from tests.bench.cases import case_named

THREADS = 2


def main() -> None:
    """Make the step, run it once untimed, then `repeats` times."""
    library, name = sys.argv[1:3]
    case = case_named(name)
    if library == "theirs":
        import torch

        torch.set_num_threads(THREADS)
    step = getattr(ours if library == "ours" else theirs, case.kind)(case)
    step()
    if sys.argv[3:] == ["--profile"]:
        import tensor

        with tensor.profile() as profile:
            step()
        print(profile)
        return
    times = []
    for _ in range(case.repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(w).ru_maxrss for w in who) * 1024  # Linux gives KiB
    print(json.dumps({"seconds": statistics.median(times), "peak_bytes": peak}))


if __name__ == "__main__":
    main()
