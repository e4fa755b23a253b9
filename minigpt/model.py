"""GPT-2: token and position embeddings, a stack of pre-norm blocks, a final layer norm.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the names are those of
the checkpoint files. Shapes: B batch, T new tokens, S keys (cached and new), C = n_embd, H =
n_head, D = C / H, V = vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigpt.activations import get_activation
from minigpt.cache import KVCache
from minigpt.config import GPT2Config
from minigpt.outputs import BaseModelOutput
from minigpt.pretrained import PreTrainedModel
from tensor import Tensor, attention
from tensor.nn import Conv1D, Dropout, Embedding, LayerNorm, Module, ModuleList


class GPT2Attention(Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        C = config.n_embd
        std = config.initializer_range
        self.c_attn = Conv1D(C, 3 * C, std)  # q | k | v
        self.c_proj = Conv1D(C, C, std / math.sqrt(2 * config.n_layer))
        self.resid_dropout = Dropout(config.resid_pdrop)
        self.attn_pdrop = config.attn_pdrop
        self.n_head = config.n_head
        self.layer = layer
        self.scale = 1 / math.sqrt(C // config.n_head) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(
        self, x: Tensor, bias: Tensor | None, cache: KVCache | None, want_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        B, T, C = x.shape
        H = self.n_head
        heads = self.c_attn(x).reshape(B, T, 3 * H, C // H)  # (B, T, 3C) -> (B, T, 3H, D)
        q, k, v = heads.permute(0, 2, 1, 3).split(H, axis=1)  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, H, S, D)
        y, weights = attention(
            q,
            k,
            v,
            bias=bias,
            scale=self.scale,
            causal=True,
            dropout=self.attn_pdrop if self.training else 0.0,
            want_weights=want_weights,
        )
        y = y.permute(0, 2, 1, 3).reshape(B, T, C)  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y)), weights


class GPT2MLP(Module):
    """Two layers with an activation between them: n_inner wide inside, or four times C."""

    def __init__(self, config: GPT2Config) -> None:
        C = config.n_embd
        inner = config.n_inner or 4 * C
        std = config.initializer_range
        self.c_fc = Conv1D(C, inner, std)
        self.c_proj = Conv1D(inner, C, std / math.sqrt(2 * config.n_layer))
        self.act = get_activation(config.activation_function)
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class GPT2Block(Module):
    """x + attention(ln_1(x)), then that + mlp(ln_2(that))."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(
        self, x: Tensor, bias: Tensor | None, cache: KVCache | None, want_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        y, weights = self.attn(self.ln_1(x), bias, cache, want_weights)
        x = x + y
        x = x + self.mlp(self.ln_2(x))
        return x, weights


class GPT2Model(PreTrainedModel):
    """The transformer without a head: token ids in, hidden states out.

    A new model's weights are random: matrices and embeddings N(0, initializer_range), the
    projections back into the residual stream N(0, initializer_range / sqrt(2 n_layer)), biases 0.
    It is in training mode.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        if config.pruned_heads or config.add_cross_attention:
            raise ValueError(
                f"pruned_heads={config.pruned_heads} and add_cross_attention="
                f"{config.add_cross_attention}: neither is supported yet"
            )
        self.wte = Embedding(config.vocab_size, config.n_embd, config.initializer_range)
        self.wpe = Embedding(config.n_positions, config.n_embd, config.initializer_range)
        self.drop = Dropout(config.embd_pdrop)
        self.h = ModuleList([GPT2Block(config, layer) for layer in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: KVCache | Sequence[tuple[Any, Any]] | None = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Hidden states for token ids.

        input_ids: integers (B, T) in 0 … V - 1; or inputs_embeds: floats (B, T, C) in their place.
        past_key_values: the cache of an earlier call, which is appended to; or (k, v) a layer.
        attention_mask: (B, S), 1 for tokens and 0 for padding, over cached and new positions.
        position_ids: (B, T) or (1, T); counted on from the cache unless given. Padding does not
            shift them.
        use_cache, output_attentions, output_hidden_states, return_dict: as the configuration says
            unless given.

        Returns a BaseModelOutput, or with return_dict=False the tuple of its fields that are not
        None.

        ValueError for shapes that don't fit, IndexError for ids or positions out of range.
        """
        config = self.config
        use_cache = _choose(use_cache, config.use_cache)
        want_weights = _choose(output_attentions, config.output_attentions)
        want_hidden = _choose(output_hidden_states, config.output_hidden_states)
        x = self._embed(input_ids, inputs_embeds)  # (B, T, C)
        B, T, _ = x.shape
        cache = self._cache(past_key_values, use_cache)
        past = 0 if cache is None else cache.get_seq_length()
        x = self.drop(x + self.wpe(self._positions(position_ids, B, T, past)))
        bias = self._padding_bias(attention_mask, B, past + T)
        hidden: list[Tensor] = []
        attentions: list[Tensor] = []
        for block in self.h:
            hidden.append(x)
            x, weights = block(x, bias, cache, want_weights)
            attentions.append(weights)
        x = self.ln_f(x)
        hidden.append(x)
        output = BaseModelOutput(
            last_hidden_state=x,
            past_key_values=cache if use_cache else None,
            hidden_states=tuple(hidden) if want_hidden else None,
            attentions=tuple(attentions) if want_weights else None,
        )
        return output if _choose(return_dict, config.return_dict) else output.to_tuple()

    def _embed(self, input_ids: Any, inputs_embeds: Any) -> Tensor:
        """The embeddings (B, T, C) of ids, or the ones given."""
        if (input_ids is None) == (inputs_embeds is None):
            both = "both were" if input_ids is not None else "neither was"
            raise ValueError(f"give either input_ids or inputs_embeds; {both} given")
        if inputs_embeds is not None:
            x = inputs_embeds if isinstance(inputs_embeds, Tensor) else self.constant(inputs_embeds)
            if x.ndim != 3 or x.shape[2] != self.config.n_embd:
                raise ValueError(
                    f"inputs_embeds {x.shape} must be (B, T, C) with C = {self.config.n_embd}"
                )
            return x
        ids = self.integers("input_ids", input_ids)
        if ids.ndim != 2 or ids.size == 0:
            raise ValueError(
                f"input_ids {ids.shape} must be (B, T): a batch of sequences of ids, not empty"
            )
        return self.wte(ids)

    def _cache(self, given: Any, use_cache: bool) -> KVCache | None:
        if given is not None:
            cache = given if isinstance(given, KVCache) else KVCache(given)
            if len(cache) not in (0, self.config.n_layer):
                raise ValueError(
                    f"past_key_values has {len(cache)} layers, the model {self.config.n_layer}"
                )
            if len({k.shape[2] for k, _ in cache}) > 1:
                raise ValueError(
                    "past_key_values: its layers hold different numbers of positions, as after a "
                    "call that was interrupted; start with a new cache"
                )
            return cache
        return KVCache() if use_cache else None

    def _positions(self, given: Any, B: int, T: int, past: int) -> Tensor:
        limit = self.config.n_positions
        if given is not None:
            positions = self.integers("position_ids", given)
            if positions.shape not in ((B, T), (1, T)):
                raise ValueError(
                    f"position_ids {positions.shape} must be (B, T) = {(B, T)} or (1, T)"
                )
            values = positions.numpy()
            if values.size and not 0 <= values.min() <= values.max() < limit:
                raise IndexError(
                    f"position_ids from {values.min()} to {values.max()} are not all in "
                    f"0 … {limit - 1} (n_positions is {limit})"
                )
            return positions
        if past + T > limit:
            raise IndexError(
                f"{T} tokens after {past} cached ones need {past + T} positions, but n_positions "
                f"is {limit}: shorten the text, or train a model with a longer context"
            )
        return self.integers("position_ids", np.arange(past, past + T)[None])  # (1, T)

    def _padding_bias(self, attention_mask: Any, B: int, S: int) -> Tensor | None:
        """0 for tokens and the lowest number for padding: (B, 1, 1, S), added to the scores."""
        if attention_mask is None:
            return None
        mask = (
            attention_mask.numpy()
            if isinstance(attention_mask, Tensor)
            else np.asarray(attention_mask)
        )
        if mask.shape != (B, S):
            raise ValueError(
                f"attention_mask {mask.shape} must be (B, S) = {(B, S)}: one entry for each cached "
                "and each new position"
            )
        if mask.dtype.kind not in "biuf" or (mask.dtype.kind == "f" and np.isnan(mask).any()):
            raise ValueError(f"attention_mask must hold 1 for tokens and 0 for padding, not {mask}")
        if mask.all():
            return None
        lowest = np.finfo(self.dtype).min
        # The lowest number and not -inf: a row whose keys are all masked stays finite, as in
        # transformers.
        bias = np.where(mask[:, None, None, :], 0.0, lowest)  # (B, 1, 1, S)
        return self.constant(bias)


def _choose(given: Any, default: Any) -> Any:
    """An argument, or where it was not given the configuration's value."""
    return default if given is None else given
