"""One training run in several processes, which add up their gradients over MPI.

`mpiexec -n 2 minigpt train …` starts the same program twice. Each process, a rank, has the whole
model and computes the gradients of its rows of every batch; then all have the sum of all gradients,
so that their weights stay equal, bit for bit. MPI (through the package mpi4py) carries the bytes;
`world()` says who else there is, and a run in one process goes the same way, `Alone`.

A rank that dies is noticed by mpiexec, which ends the others. One that hangs is noticed here: each
rank waits for its left neighbour's sign of life before it exchanges anything, and no longer than
`timeout` seconds.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from minigpt.data import Batch
from tensor import Tensor
from tensor.backend import Array, Backend
from tensor.nn import Module

# Bytes that go over at once: large enough for the full speed of a link, small beside a model.
BUCKET_BYTES = 1 << 24
# How launchers tell a process how many there are: Open MPI, MPICH and Intel, MVAPICH.
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# Tags: a sign of life before an exchange, a piece of an optimizer's state, a sign of life in one
# that does not end.
ALIVE, STATE, WAITING = 1, 2, 3


class RankError(RuntimeError):
    """A rank hangs, or does not do what the others do."""


class Group(Protocol):
    """The processes of a run, as one of them sees it. Every rank makes the same calls in the same
    order.
    """

    rank: int  # 0 … size - 1; rank 0 writes
    size: int
    timeout: float  # seconds
    stop_requested: Callable[[], bool]  # asked while waiting: whether a signal came

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the ranks."""

    def gather(self, numbers: Sequence[float]) -> np.ndarray:
        """Everybody's numbers: float64 (size, len(numbers)), the same on every rank."""

    def broadcast(self, tensors: Sequence[Tensor], owner: int) -> None:
        """Replace the tensors' values by those that they have on rank `owner`."""

    def fetch(
        self, owner: int, shape: tuple[int, ...], dtype: np.dtype, tensor: Tensor | None
    ) -> np.ndarray:
        """The owner's tensor, on rank 0; on the others an array of no use."""

    def abort(self) -> None:
        """End the other ranks, because this one can't go on."""


class Alone:
    """A group of one."""

    rank, size, timeout = 0, 1, math.inf

    def __init__(self) -> None:
        self.stop_requested: Callable[[], bool] = lambda: False

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Nothing to do."""

    def gather(self, numbers: Sequence[float]) -> np.ndarray:
        """One row: one's own."""
        return np.array([numbers], np.float64)

    def broadcast(self, tensors: Sequence[Tensor], owner: int) -> None:
        """Nothing to do."""

    def fetch(
        self, owner: int, shape: tuple[int, ...], dtype: np.dtype, tensor: Tensor | None
    ) -> np.ndarray:
        """One's own."""
        assert tensor is not None, "a group of one owns everything"
        return tensor.numpy()

    def abort(self) -> None:
        """Nobody to end."""


class MPIGroup:
    """The ranks of an MPI communicator.

    timeout: seconds after which a rank that does not answer counts as hanging. RankError names it.
    """

    def __init__(self, communicator: Any, timeout: float) -> None:
        self.comm, self.timeout = communicator, timeout
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self.exchanges = 0
        self.stop_requested: Callable[[], bool] = lambda: False

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the ranks, in flat buckets.

        A gradient that lives on a device goes through the host's memory.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        self._meet(sum(g.size for g in gradients))
        for pieces in _buckets(gradients):
            bucket = _pack(pieces)
            total = np.empty_like(bucket)
            self._wait(self.comm.Iallreduce(bucket, total), "the sum of the gradients")
            _unpack(total, pieces)

    def gather(self, numbers: Sequence[float]) -> np.ndarray:
        """Everybody's numbers: float64 (size, len(numbers)), the same on every rank."""
        self._meet(len(numbers))
        mine = np.array(numbers, np.float64)
        everybodys = np.empty((self.size, len(mine)), np.float64)
        self._wait(self.comm.Iallgather(mine, everybodys), "the ranks' numbers")
        return everybodys

    def broadcast(self, tensors: Sequence[Tensor], owner: int) -> None:
        """Replace the tensors' values by those that they have on rank `owner`."""
        self._meet(sum(t.size for t in tensors))
        for pieces in _buckets(tensors):
            bucket = _pack(pieces)
            self._wait(self.comm.Ibcast(bucket, root=owner), f"the weights of rank {owner}")
            if self.rank != owner:
                _unpack(bucket, pieces)

    def fetch(
        self, owner: int, shape: tuple[int, ...], dtype: np.dtype, tensor: Tensor | None
    ) -> np.ndarray:
        """The owner's tensor, on rank 0; on the others an array of no use."""
        self._meet(math.prod(shape))
        values = np.empty(shape, dtype) if tensor is None else tensor.numpy()
        if owner != 0 and self.rank == owner:
            self._wait(self.comm.Isend(values, dest=0, tag=STATE), "rank 0 to take the state")
        elif owner != 0 and self.rank == 0:
            self._wait(self.comm.Irecv(values, source=owner, tag=STATE), f"rank {owner}'s state")
        return values

    def abort(self) -> None:
        """End the other ranks, because this one can't go on."""
        self.comm.Abort(1)

    def _meet(self, size: int) -> None:
        """Tell the right neighbour that we are here, and wait for the left one's word.

        What they tell is the number of the exchange and its size, which must be ours: otherwise MPI
        would mix up different things. Round the circle everybody is heard by somebody.
        """
        self.exchanges += 1
        mine = np.array([self.exchanges, size], np.int64)
        theirs = np.empty_like(mine)
        left, right = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        received = self.comm.Irecv(theirs, source=left, tag=ALIVE)
        sent = self.comm.Isend(mine, dest=right, tag=ALIVE)
        self._wait(received, f"rank {left}", neighbour=True)
        self._wait(sent, f"rank {right}")
        if not np.array_equal(mine, theirs):
            raise RankError(
                f"rank {self.rank} is at exchange {mine[0]} of {mine[1]} numbers, rank {left} at "
                f"exchange {theirs[0]} of {theirs[1]}: they do not run the same program on the "
                "same settings"
            )

    def _wait(self, request: Any, what: str, neighbour: bool = False) -> None:
        """Until a request is done. Signals are heard meanwhile, which MPI's own waiting would not.

        A neighbour that is silent for `timeout` is named; when all wait for something together,
        the neighbours are asked.
        """
        started = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - started
            if waited > self.timeout:
                if not neighbour:
                    self._ask_neighbour(what)
                raise RankError(
                    f"rank {self.rank} has waited {self.timeout:g} seconds for {what}: it hangs, "
                    "or is slower than that (the setting rank_timeout)"
                )
            if waited > 1 and self.stop_requested():
                raise RankError(
                    f"rank {self.rank} was told to stop while it waited for {what}: another rank "
                    "has died, or all are stopped"
                )
            time.sleep(min(waited / 8, 1e-3))

    def _ask_neighbour(self, what: str) -> None:
        """Something that all ranks do together does not end: every rank that is alive comes here at
        about the same time and tells its right neighbour so. Who hears nothing names its left one;
        the others leave it the time to.
        """
        left, right = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        word = np.empty(1)
        received = self.comm.Irecv(word, source=left, tag=WAITING)
        mine = np.zeros(1)  # alive until the end, as its bytes may still be on their way
        self.comm.Isend(mine, dest=right, tag=WAITING)
        self._wait(received, f"rank {left}", neighbour=True)
        time.sleep(self.timeout)
        raise RankError(
            f"rank {self.rank} has waited {2 * self.timeout:g} seconds for {what}: "
            f"another rank hangs, or is slower than that (the setting rank_timeout)"
        )


# A flat view of a part of a tensor, and the backend that knows it.
Piece = tuple[Backend, Array]


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Piece]]:
    """The tensors' elements in order, cut into lists of pieces of BUCKET_BYTES together."""
    pieces: list[Piece] = []
    room = BUCKET_BYTES
    for tensor in tensors:
        backend, size, start = tensor.backend, tensor.dtype.itemsize, 0
        flat = backend.reshape(tensor.data, (tensor.size,))
        while start < tensor.size:
            stop = min(tensor.size, start + max(1, room // size))
            pieces.append((backend, backend.slice(flat, (slice(start, stop),))))
            room -= (stop - start) * size
            start = stop
            if room <= 0:
                yield pieces
                pieces, room = [], BUCKET_BYTES
    if pieces:
        yield pieces


def _pack(pieces: list[Piece]) -> np.ndarray:
    """The pieces' elements in one array on the host."""
    return np.concatenate([backend.to_numpy(piece) for backend, piece in pieces])


def _unpack(bucket: np.ndarray, pieces: list[Piece]) -> None:
    """The other way: write the elements where they come from."""
    start = 0
    for backend, piece in pieces:
        backend.assign(piece, backend.from_numpy(bucket[start : start + piece.size]))
        start += piece.size


def launched_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes a launcher such as mpiexec says it has started; 1 without one."""
    return next((int(environment[v]) for v in SIZE_VARIABLES if v in environment), 1)


def world(timeout: float = 300.0) -> Group:
    """All processes that mpiexec has started, or `Alone`.

    RuntimeError where mpiexec has started several, and mpi4py is not installed or belongs to
    another MPI.
    """
    ranks = launched_ranks()
    if ranks == 1:
        return Alone()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library to load
        raise RuntimeError(
            f"mpiexec started {ranks} processes, but mpi4py can't be imported ({error}): "
            'pip install -e ".[distributed]", or run minigpt without mpiexec'
        ) from None
    group = MPIGroup(MPI.COMM_WORLD, timeout)
    if group.size != ranks:
        raise RuntimeError(
            f"mpiexec started {ranks} processes, but mpi4py sees {group.size}: they belong to "
            "different MPIs. Use the mpiexec of the MPI that mpi4py was built for; that of the "
            "package openmpi is in this Python's own folder: "
            f"{os.path.join(os.path.dirname(sys.executable), 'mpiexec')}"
        )
    return group


def own_rows(group: Group, batch: Batch) -> Batch:
    """This rank's rows of a batch: consecutive ones, as many as the others', or one more or less.

    ValueError where there are fewer rows than ranks.
    """
    rows = len(batch[0] if isinstance(batch, tuple) else batch["input_ids"])
    if rows < group.size:
        raise ValueError(
            f"a batch of {rows} rows can't be divided among {group.size} ranks: raise batch_size, "
            "or start fewer"
        )
    own = slice(rows * group.rank // group.size, rows * (group.rank + 1) // group.size)
    if isinstance(batch, tuple):
        return batch[0][own], batch[1][own]
    return {name: x[own] if isinstance(x, np.ndarray) else x for name, x in batch.items()}


def total(group: Group, number: float) -> float:
    """The sum of a number over the ranks, the same on every one."""
    return math.fsum(group.gather([number])[:, 0])


def any_of(group: Group, flag: bool) -> bool:
    """Whether the flag is set on one rank at least."""
    return bool(group.gather([float(flag)]).any())


def step_seed(group: Group, seed: int, step: int) -> dict[str, int]:
    """The state that a rank's generator begins a step with, so that each rank drops elements of its
    own, and a run that is taken up again the same ones. (2^64 / golden ratio keeps seeds apart.)
    """
    return {"seed": (seed + group.rank * 0x9E3779B97F4A7C15) % 2**64, "draws": step << 20}


def require_equal_weights(group: Group, model: Module) -> None:
    """RankError where the ranks do not begin with the same weights."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + parameter.numpy().tobytes())
    numbers = group.gather([float(int.from_bytes(digest.digest()[:6], "little"))])
    if len(set(numbers[:, 0])) > 1:
        raise RankError(
            "the ranks do not begin with the same weights: they read different files, or run "
            "different versions"
        )
