"""What is known of the official models: numbers to check a checkpoint and this program with.

Each has its source. Those marked *secondary* are repeated by several repositories, but were not
seen at their origin: they recognise a file, and never condemn one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Continuation:
    """Greedy decoding of `prompt` goes on with `text`, or with exactly the tokens `ids`."""

    prompt: str
    source: str
    text: str = ""
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Published:
    """A figure of `minigpt eval`. task and stride: its protocol; key: which of its results; value,
    and the part of it that a difference may be. tolerance 0: for comparison by eye, because the
    protocol was not published whole.
    """

    task: str
    key: str
    value: float
    tolerance: float
    source: str
    stride: int | None = None


@dataclass(frozen=True)
class Official:
    """One model. shape: n_layer, n_head, n_embd. sha256: hash of a weights file -> the file.
    losses: of ten AdamW steps, see `verify_official`.
    """

    name: str
    shape: tuple[int, int, int]
    parameters: int
    sha256: Mapping[str, str] = field(default_factory=dict)
    continuations: tuple[Continuation, ...] = ()
    losses: tuple[float, ...] = ()
    published: tuple[Published, ...] = ()


VOCAB_SIZE, N_POSITIONS = 50257, 1024       # of all four

TOKENS = {
    "Hello world": (15496, 995),
    " Hello world": (18435, 995),
    "don't DON'T": (9099, 470, 23917, 6, 51),
    "1234567890": (10163, 2231, 30924, 3829),
    "    return x": (220, 220, 220, 1441, 2124),
    "naïve café": (2616, 38776, 40304),
    "日本語": (33768, 98, 17312, 105, 45739, 252),
    "Hello!!!!!!!!!? 🤗, my dog is a little":
        (15496, 13896, 50184, 30, 12520, 97, 245, 11, 616, 3290, 318, 257, 1310),
}
"""Texts and their tokens, computed with OpenAI's algorithm and files."""

_TRANSFORMERS = "transformers, tests/models/gpt2/test_modeling_gpt2.py"
_TRANSFORMERS_PAGE = "transformers, docs/perplexity.md"
_PAPER = "Radford et al. 2019, table 3"
_HARNESS = "lm-evaluation-harness, lambada_openai"
_LLM_C = "llm.c, dev/data/hellaswag.py"

LOSS_TOLERANCE = 1e-2
"""Of the ten losses, absolute: llm.c's own."""

OFFICIALS = (
    Official(
        name="gpt2",
        shape=(12, 12, 768),
        parameters=124_439_808,
        sha256={
            # The first is secondary, the second from the tests of huggingface_hub.
            "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707": "model.safetensors",
            "7c5d3f4b8b76583b422fcb9189ad6c89d5d97a094541ce8932dce3ecabde1421": "pytorch_model.bin",
        },
        continuations=(
            Continuation(
                "The dog", _TRANSFORMERS,
                ids=(373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13,
                     198, 198, 464, 3290),
            ),
            Continuation(
                "Hello, my dog is a little", _TRANSFORMERS,
                text=" bit of a mess. I'm not sure if he's going",
            ),
            Continuation(
                "Today, I", _TRANSFORMERS,
                text="'m going to be doing a lot of research on this. I",
            ),
            Continuation(
                "Alan Turing theorized that computers would one day become",
                "jaymody/picoGPT, README",
                text=" the most powerful machines on the planet.\n\nThe computer is a machine that "
                "can perform complex calculations, and it can perform these calculations in a way "
                "that is very similar to the human brain.",
            ),
        ),
        losses=(5.270007, 4.059707, 3.375123, 2.800783, 2.315382, 1.849029, 1.394656, 0.999147,
                0.624080, 0.376511),
        published=(
            Published("wikitext2-raw", "perplexity", 29.94, 5e-3, _TRANSFORMERS_PAGE, 1024),
            Published("wikitext2", "perplexity_per_original_token", 29.41, 0.0, _PAPER),
            Published("lambada", "perplexity", 40.06, 5e-3, _HARNESS),
            Published("lambada", "accuracy", 0.3256, 5e-3, _HARNESS),
            Published("hellaswag", "accuracy_norm", 0.2955, 5e-3, _LLM_C),
        ),
    ),
    Official(
        name="gpt2-medium",
        shape=(24, 16, 1024),
        parameters=354_823_168,
        sha256={        # secondary
            "fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd": "model.safetensors",
        },
        continuations=(
            Continuation("Hello.", "tinygrad, examples/gpt2.py",
                         text=" I'm a little late to the party, but"),
        ),
        published=(
            Published("wikitext2", "perplexity_per_original_token", 22.76, 0.0, _PAPER),
        ),
    ),
    Official(
        name="gpt2-large",
        shape=(36, 20, 1280),
        parameters=774_030_080,
        published=(
            Published("wikitext2-raw", "perplexity", 19.44, 5e-3, _TRANSFORMERS_PAGE, 1024),
            Published("wikitext2-raw", "perplexity", 16.44, 5e-3, _TRANSFORMERS_PAGE, 512),
            Published("wikitext2", "perplexity_per_original_token", 19.93, 0.0, _PAPER),
        ),
    ),
    Official(
        name="gpt2-xl",
        shape=(48, 25, 1600),
        parameters=1_557_611_200,
        sha256={        # secondary
            "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a": "model.safetensors",
        },
        published=(
            Published("wikitext2", "perplexity_per_original_token", 18.34, 0.0, _PAPER),
            Published("lambada", "perplexity", 10.63, 5e-3, _HARNESS),
            Published("lambada", "accuracy", 0.5121, 5e-3, _HARNESS),
            Published("hellaswag", "accuracy_norm", 0.4893, 5e-3, _LLM_C),
        ),
    ),
)

SHAKESPEARE = """\
First Citizen:
Before we proceed any further, hear me speak.

All:
Speak, speak.

First Citizen:
You are all resolved rather to die than to famish?

All:
Resolved. resolved.

First Citizen:
First, you know Caius Marcius is chief enemy to the people.

All:
We know't, we know't.

First Citizen:
Let us kill him, and we'll have corn at our own price.
Is't a verdict?

All:
No more talking on't; let it be done: away, away!

Second Citizen:
One word, good citizens.

First Citizen:
We are accounted poor citizens, the patricians good.
What authority surfeits on would relieve us: if they
would yield us but the superfluity, while it were
wholesome, we might guess they relieved us humanely;
but they think we are too dear: the leanness that
afflicts us, the object of our misery, is as an
inventory to particularise their abundance; our
sufferance is a gain to them Let us revenge this with
our pikes, ere we become rakes: for the gods know I
speak this in hunger for bread, not in thirst for revenge.
"""
"""The beginning of tinyshakespeare, of which the ten losses need 257 tokens."""
