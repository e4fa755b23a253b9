"""How much memory a training step will need, before the first one."""

from dataclasses import dataclass

from minigpt.presets import TrainConfig
from minigpt.pretrained import PreTrainedModel
from tensor.dtypes import HALVES


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes: of what is there all the time, and of what a step's backward pass needs besides."""

    kept: int
    activations: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.kept + self.activations

    def __str__(self) -> str:
        return (
            f"about {readable(self.total)}: weights, gradients and AdamW's moments "
            f"{readable(self.kept)}, activations {readable(self.activations)}"
        )


def estimate_memory(model: PreTrainedModel, config: TrainConfig) -> MemoryEstimate:
    """What a step of ``batch_size`` windows needs, without Python and its libraries.

    There are the weights, and of those that are trained a gradient and two moments. A block keeps
    for its backward pass, in floats a token: the input and the output of ln_1, q, k and v, what
    attention gives, the input and the output of ln_2 (8 C together), and what goes into and comes
    out of the activation (2 n_inner). At the peak there are about 7 C and 2 V more: the embedding,
    ln_f, the logits and their gradient, and what is just being computed. With ``recompute`` a block
    keeps its input alone, and one block at a time has the rest.

    In half precision all of these are halves but the moments, and each trained weight has a
    float32 master beside it.
    """
    shape = model.config
    C, inner = shape.n_embd, shape.n_inner or 4 * shape.n_embd
    block = 8 * C + 2 * inner
    blocks = C * shape.n_layer + block if config.recompute else block * shape.n_layer
    tokens = config.batch_size * config.block_size
    trained = model.num_parameters(only_trainable=True)
    size = model.dtype.itemsize
    moments, master = (8, 4) if model.dtype in HALVES else (2 * size, 0)
    return MemoryEstimate(
        kept=size * model.num_parameters() + (size + moments + master) * trained,
        activations=size * tokens * (blocks + 7 * C + 2 * shape.vocab_size),
    )


def free_memory() -> int | None:
    """How many bytes the system could still give, where it tells (Linux does)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def readable(size: int) -> str:
    """A number of bytes in MB or GB."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
