"""GPT-2 from scratch on the `tensor` library: models, tokenizers, training, generation."""

from minigpt.config import GPT2Config
from minigpt.heads import GPT2LMHeadModel
from minigpt.model import GPT2Model
from minigpt.tokenizer import GPT2Tokenizer
from minigpt.tokenizer_fast import GPT2TokenizerFast

__version__ = "0.1.0"

__all__ = ["GPT2Config", "GPT2LMHeadModel", "GPT2Model", "GPT2Tokenizer",
           "GPT2TokenizerFast"]
