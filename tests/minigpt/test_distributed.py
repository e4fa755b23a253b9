"""Several ranks do what one process does; what goes wrong is named, and ends the run."""

import os
import subprocess
import sys

import numpy as np
import pytest

from minigpt import distributed
from minigpt.distributed import (
    Alone,
    any_of,
    launched_ranks,
    own_rows,
    step_seed,
    total,
    world,
)
from minigpt.sharded_optimizer import ShardedAdamW, _divide
from tensor import Tensor
from tests.minigpt.mpi_helpers import HERE, MPIEXEC, RANK_SETTINGS, needs_mpi


def run_ranks(ranks, *arguments, timeout=120):
    """The exit code and all output of mpi_worker.py on several ranks."""
    run = subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, str(HERE / "mpi_worker.py"), *arguments],
        env=os.environ | RANK_SETTINGS, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_losses_are_those_of_one_process(ranks, tmp_path):
    losses = []
    for n in (1, ranks):
        code, output = run_ranks(n, "same_losses", str(tmp_path / f"{n}.npy"))
        assert code == 0, output
        losses.append(np.load(tmp_path / f"{n}.npy"))
    assert losses[0][-1] < losses[0][0] - 0.01
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", ["sharded", "buckets"])
def test_checks_on_ranks(name, ranks):
    code, output = run_ranks(ranks, name)
    assert code == 0 and output.count("done") == ranks, output


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("name, message", [
    ("hangs", "rank 0 has waited 2 seconds for rank 1: it hangs"),
    ("hangs_in_an_exchange", "rank 0 has waited 2 seconds for rank 1: it hangs"),
    ("different_programs", "they do not run the same program"),
    ("different_weights", "do not begin with the same weights"),
])  # fmt: skip
def test_what_goes_wrong_is_named_and_ends_all_ranks(name, message):
    code, output = run_ranks(2, name, timeout=60)
    assert code != 0 and message in output, output


def test_a_group_of_one_exchanges_nothing():
    group = world()
    assert isinstance(group, Alone) and (group.rank, group.size) == (0, 1)
    assert total(group, 6.0) == 6.0 and any_of(group, True) and not any_of(group, False)
    inputs, targets = own_rows(group, (np.arange(3), np.arange(3)))
    assert list(inputs) == list(targets) == [0, 1, 2]


@pytest.mark.parametrize("rows", [3, 4, 5, 6, 11])
def test_each_row_is_one_ranks(rows):
    def of(rank):
        class Three(Alone):
            size = 3

        group = Three()
        group.rank = rank
        ids = np.arange(rows)
        return own_rows(group, {"input_ids": ids, "mask": ids[:, None], "use_cache": False})

    parts = [of(rank) for rank in range(3)]
    assert np.concatenate([part["input_ids"] for part in parts]).tolist() == list(range(rows))
    assert all((part["input_ids"] == part["mask"][:, 0]).all() for part in parts)
    sizes = [len(part["input_ids"]) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_fewer_rows_than_ranks_are_refused():
    class Three(Alone):
        size = 3

    with pytest.raises(ValueError, match="2 rows can't be divided among 3 ranks: raise batch_size"):
        own_rows(Three(), (np.zeros(2), np.zeros(2)))


def test_ranks_and_steps_draw_other_numbers():
    class Two(Alone):
        size = 2

    first, second = Two(), Two()
    second.rank = 1
    states = [step_seed(g, 5, step) for g in (first, second) for step in (0, 1)]
    assert len({(s["seed"], s["draws"]) for s in states}) == 4
    assert states[0] == {"seed": 5, "draws": 0}


def test_without_mpi4py_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert isinstance(world(), Alone)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r'started 2 processes.*pip install -e "\.\[distributed'):
        world()


@pytest.mark.parametrize("variable", distributed.SIZE_VARIABLES)
def test_launchers_are_recognised(variable):
    assert launched_ranks({variable: "4"}) == 4
    assert launched_ranks({}) == 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_row_has_one_owner_and_the_ranks_equal_parts(ranks):
    shapes = [(50, 8), (8,), (8, 24), (24,), (1, 8), (1,)]
    pieces = _divide(shapes, ranks)
    for number, shape in enumerate(shapes):
        rows = [row for p in pieces if p.parameter == number for row in range(p.start, p.stop)]
        assert rows == list(range(shape[0]))
    sizes = [0] * ranks
    for p in pieces:
        sizes[p.owner] += (p.stop - p.start) * int(np.prod(shapes[p.parameter][1:]))
    assert max(sizes) - min(sizes) <= 2 * 24  # a row at either end


def test_a_moved_model_is_refused():
    p = Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    optimizer = ShardedAdamW([p], Alone())
    p.data = p.backend.copy(p.data)
    with pytest.raises(ValueError, match="make a new optimizer"):
        optimizer.step()
    with pytest.raises(ValueError, match="does not fit"):
        optimizer.load_state_dict({"step": 1})
