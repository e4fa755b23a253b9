"""GPT-2 from scratch on the `tensor` library: models, tokenizers, training, generation."""

from minigpt.classifiers import (
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
)
from minigpt.config import GPT2Config
from minigpt.generation_config import GenerationConfig
from minigpt.heads import GPT2DoubleHeadsModel, GPT2LMHeadModel
from minigpt.model import GPT2Model
from minigpt.streamers import TextStreamer
from minigpt.tokenizer import GPT2Tokenizer
from minigpt.tokenizer_fast import GPT2TokenizerFast

__version__ = "0.1.0"

__all__ = [
    "GPT2Config",
    "GPT2DoubleHeadsModel",
    "GPT2ForQuestionAnswering",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GenerationConfig",
    "TextStreamer",
]
