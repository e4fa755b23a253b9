"""What test_distributed.py runs on several ranks: `mpiexec -n N python mpi_worker.py NAME`."""

import os
import signal
import sys

import numpy as np

from minigpt import GPT2Config, GPT2LMHeadModel
from minigpt.distributed import own_rows, require_equal_weights, total, world
from minigpt.sharded_optimizer import ShardedAdamW
from tensor import Tensor, manual_seed, optim

GROUP = world(timeout=2.0)
SIZES = dict(vocab_size=61, n_positions=32, n_embd=48, n_layer=2, n_head=3,
             resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip


def train(sharded, steps):
    """Losses, weights, the optimizer's state and this rank's bytes of it."""
    manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SIZES))
    require_equal_weights(GROUP, model)
    groups = optim.decay_groups(model, 0.1)
    if sharded:
        optimizer = ShardedAdamW(groups, GROUP, lr=1e-3)
        own = optimizer.state_bytes()
    else:
        optimizer = optim.AdamW(groups, lr=1e-3)
        own = sum(t.data.nbytes for buffer in optimizer.buffers().values() for t in buffer)
    numbers, losses = np.random.default_rng(0), []
    for _ in range(steps):
        whole = numbers.integers(0, 61, (13, 32))
        ids = own_rows(GROUP, {"input_ids": whole})["input_ids"]
        loss = model(ids, labels=ids).loss * (len(ids) / len(whole))
        loss.backward()
        GROUP.sum_gradients(model.parameters())
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total(GROUP, loss.item()))
    return losses, model.state_dict(), optimizer.state_dict(), own


def same_losses(path):
    """50 steps; rank 0 writes the losses."""
    losses, weights, _, _ = train(False, 50)
    everybodys = GROUP.gather([float(np.abs(w).sum()) for w in weights.values()])
    assert (everybodys == everybodys[0]).all(), "the ranks' weights differ"
    if GROUP.rank == 0:
        np.save(path, losses)


def sharded():
    """ZeRO's first stage: the bits of without, a part of the memory, a state that can be loaded."""
    _, weights, state, whole = train(False, 5)
    _, sharded_weights, sharded_state, own = train(True, 5)
    for name, values in weights.items():
        np.testing.assert_array_equal(sharded_weights[name], values, err_msg=name)
    assert own < whole / GROUP.size + 4 * 61 * 48  # the division is to the row
    if GROUP.rank == 0:
        assert set(sharded_state) == set(state)
        for name, values in state.items():
            np.testing.assert_array_equal(sharded_state[name], values, err_msg=name)
        print(f"bytes of moments: {whole} whole, {own} on a rank")
    else:
        assert sharded_state == {}
    # A state loads whole on any number of ranks, and goes on with the same bits.
    model = GPT2LMHeadModel(GPT2Config(**SIZES))
    model.load_state_dict(weights)
    optimizers = [optim.AdamW(model.parameters(), lr=1e-3),
                  ShardedAdamW(model.parameters(), GROUP, lr=1e-3)]  # fmt: skip
    fresh = {n: np.asarray(5) if n == "step" else np.full(v.shape, 1e-4, v.dtype)
             for n, v in optimizers[0].state_dict().items()}  # fmt: skip
    results = []
    for optimizer in optimizers:
        model.load_state_dict(weights)
        optimizer.load_state_dict(fresh)
        for p in model.parameters():
            p.grad = Tensor(np.full(p.shape, 0.01, np.float32))
        optimizer.step()
        results.append(model.state_dict())
    for name, values in results[0].items():
        np.testing.assert_array_equal(results[1][name], values, err_msg=name)


def buckets():
    """Gradients larger and smaller than a bucket; the sum is exact for these numbers."""
    sizes = [3, 5_000_000, 0, 7, 4_194_304, 1]
    parameters = [Tensor(np.zeros(n, np.float32), requires_grad=True) for n in sizes]
    for p in parameters:
        p.grad = Tensor(np.arange(p.size, dtype=np.float32) * (GROUP.rank + 1))
    GROUP.sum_gradients(parameters)
    factor = np.float32(GROUP.size * (GROUP.size + 1) / 2)
    for p in parameters:
        np.testing.assert_array_equal(p.grad.numpy(), np.arange(p.size, dtype=np.float32) * factor)


def different_programs():
    GROUP.gather([0.0] * (GROUP.rank + 1))


def different_weights():
    manual_seed(GROUP.rank)
    require_equal_weights(GROUP, GPT2LMHeadModel(GPT2Config(**SIZES)))


def hangs():
    GROUP.gather([1.0])
    if GROUP.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    GROUP.gather([1.0])


def hangs_in_an_exchange():
    """Rank 1 stops between its sign of life and the sum."""
    GROUP.gather([1.0])
    if GROUP.rank == 1:
        GROUP._meet(3)
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        GROUP.sum_gradients(_gradients())


def _gradients():
    p = Tensor(np.zeros(3, np.float32), requires_grad=True)
    p.grad = Tensor(np.ones(3, np.float32))
    return [p]


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]](*sys.argv[2:])
    except BaseException as error:   # the others must not wait for us
        print(f"rank {GROUP.rank}: {type(error).__name__}: {error}", flush=True)
        GROUP.abort()
        raise
    print(f"rank {GROUP.rank} of {GROUP.size} done")
