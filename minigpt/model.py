"""GPT-2: token and position embeddings, a stack of pre-norm blocks, a final layer norm.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the names are those of
the checkpoint files. Shapes: B batch, T new tokens, S keys (cached and new), C = n_embd, H =
n_head, D = C / H, V = vocab_size.
"""

from __future__ import annotations

import math
from typing import Any

from minigpt.activations import ACTIVATIONS, activated
from minigpt.cache import KVCache
from minigpt.config import GPT2Config
from minigpt.inputs import Encoded, Inputs, read_inputs
from minigpt.outputs import BaseModelOutput, as_asked, asked
from minigpt.pretrained import PreTrainedModel
from tensor import Tensor, attention, is_grad_enabled, recompute
from tensor.nn import Conv1D, Dropout, Embedding, LayerNorm, Module, ModuleList


def score_scale(config: GPT2Config, layer: int) -> float:
    """What q k^T is multiplied by: 1 / sqrt(D), and where asked for 1 / (layer + 1), too."""
    scale = 1 / math.sqrt(config.n_embd // config.n_head) if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    B, T, width = x.shape
    return x.reshape(B, T, n_head, width // n_head).permute(0, 2, 1, 3)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H * D)."""
    B, H, T, D = x.shape
    return x.permute(0, 2, 1, 3).reshape(B, T, H * D)


class GPT2Attention(Module):
    """Multi-head causal self-attention."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        C = config.n_embd
        std = config.initializer_range
        self.n_head = config.n_head - len((config.pruned_heads or {}).get(layer, ()))
        width = self.n_head * (C // config.n_head)  # C, less what was pruned
        self.c_attn = Conv1D(C, 3 * width, std)  # q | k | v
        self.c_proj = Conv1D(width, C, std / math.sqrt(2 * config.n_layer))
        self.resid_dropout = Dropout(config.resid_pdrop)
        self.attn_pdrop = config.attn_pdrop
        self.layer = layer
        self.scale = score_scale(config, layer)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        head_mask: Tensor | None,
        cache: KVCache | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        heads = split_heads(self.c_attn(x), 3 * self.n_head)  # (B, 3H, T, D)
        q, k, v = heads.split(self.n_head, axis=1)  # (B, H, T, D) each
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
            head_mask=head_mask,
            want_weights=want_weights,
        )
        return self.resid_dropout(self.c_proj(merge_heads(y))), weights


class GPT2CrossAttention(Module):
    """Multi-head attention of the tokens to an encoder's hidden states (B, S, C), all of them.

    Vaswani et al. 2017, section 3.2.3. Their keys and values stay in the cache: what is given as
    the encoder's states on later calls is not looked at.
    """

    def __init__(self, config: GPT2Config, layer: int) -> None:
        C = config.n_embd
        std = config.initializer_range
        self.c_attn = Conv1D(C, 2 * C, std)  # k | v
        self.q_attn = Conv1D(C, C, std)
        self.c_proj = Conv1D(C, C, std / math.sqrt(2 * config.n_layer))
        self.resid_dropout = Dropout(config.resid_pdrop)
        self.attn_pdrop = config.attn_pdrop
        self.n_head = config.n_head
        self.layer = layer
        self.scale = score_scale(config, layer)

    def forward(
        self,
        x: Tensor,
        encoded: Encoded,
        head_mask: Tensor | None,
        cache: KVCache | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        q = split_heads(self.q_attn(x), self.n_head)  # (B, H, T, D)
        pair = None if cache is None else cache.get_cross(self.layer)
        if pair is None:
            heads = split_heads(self.c_attn(encoded.states), 2 * self.n_head)  # (B, 2H, S, D)
            k, v = heads.split(self.n_head, axis=1)  # (B, H, S, D) each
            if cache is not None:
                cache.set_cross(self.layer, k, v)
        else:
            k, v = pair
        y, weights = attention(
            q,
            k,
            v,
            bias=encoded.bias,
            scale=self.scale,
            dropout=self.attn_pdrop if self.training else 0.0,
            head_mask=head_mask,
            want_weights=want_weights,
        )
        return self.resid_dropout(self.c_proj(merge_heads(y))), weights


class GPT2MLP(Module):
    """Two layers with an activation between them: n_inner wide inside, or four times C."""

    def __init__(self, config: GPT2Config) -> None:
        C = config.n_embd
        inner = config.n_inner or 4 * C
        std = config.initializer_range
        self.c_fc = Conv1D(C, inner, std)
        self.c_proj = Conv1D(inner, C, std / math.sqrt(2 * config.n_layer))
        self.act = ACTIVATIONS[config.activation_function]
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(activated(self.c_fc, self.act, x)))


class GPT2Block(Module):
    """x + attention(ln_1(x)), then that + mlp(ln_2(that)); between them, where the model has it
    and there is something to look at, that + crossattention(ln_cross_attn(that)).
    """

    def __init__(self, config: GPT2Config, layer: int) -> None:
        C, eps = config.n_embd, config.layer_norm_epsilon
        self.ln_1 = LayerNorm(C, eps)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = LayerNorm(C, eps)
        if config.add_cross_attention:
            self.crossattention = GPT2CrossAttention(config, layer)
            self.ln_cross_attn = LayerNorm(C, eps)
        self.mlp = GPT2MLP(config)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        head_mask: Tensor | None,
        encoded: Encoded | None,
        cache: KVCache | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        y, weights = self.attn(self.ln_1(x), bias, head_mask, cache, want_weights)
        cross_weights = None
        if encoded is not None:
            x, normed = self.ln_cross_attn.of_sum(x, y)
            y, cross_weights = self.crossattention(
                normed, encoded, head_mask, cache, want_weights
            )
        x, normed = self.ln_2.of_sum(x, y)
        return x + self.mlp(normed), weights, cross_weights

    def forward_recomputed(
        self, x: Tensor, bias: Tensor | None, head_mask: Tensor | None, encoded: Encoded | None
    ) -> Tensor:
        """forward's hidden states, of which only the input x is kept for the backward pass."""

        def hidden_states(x: Tensor, head_mask: Tensor | None, states: Tensor | None) -> Tensor:
            again = None if encoded is None or states is None else encoded._replace(states=states)
            return self.forward(x, bias, head_mask, again, None, False)[0]

        states = None if encoded is None else encoded.states
        return recompute(hidden_states, x, head_mask, states, parameters=self.parameters())


class GPT2Model(PreTrainedModel):
    """The transformer without a head: token ids in, hidden states out.

    A new model's weights are random: matrices and embeddings N(0, initializer_range), the
    projections back into the residual stream N(0, initializer_range / sqrt(2 n_layer)), biases 0.
    It is in training mode.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.wte = Embedding(config.vocab_size, config.n_embd, config.initializer_range)
        self.wpe = Embedding(config.n_positions, config.n_embd, config.initializer_range)
        self.drop = Dropout(config.embd_pdrop)
        self.h = ModuleList([GPT2Block(config, layer) for layer in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        cache_position: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Hidden states for token ids.

        input_ids: integers (B, T) in 0 … V - 1; or inputs_embeds: floats (B, T, C) in their place.
        past_key_values: the cache of an earlier call, which is appended to; or (k, v) a layer.
        cache_position: (T,), where in the cache the new tokens go: only ever after what is there.
        attention_mask: (B, S), 1 for tokens and 0 for padding, over cached and new positions.
        token_type_ids: (B, T) in 0 … V - 1, embedded by wte, too, and added.
        position_ids: (B, T) or (1, T); counted on from the cache unless given. Padding does not
            shift them.
        head_mask: (H,) or (L, H), factors of the heads' attention weights: 0 turns a head off.
        encoder_hidden_states, encoder_attention_mask: (B, S', C) and (B, S'), for cross-attention.
        use_cache, output_attentions, output_hidden_states, return_dict: as the configuration says
            unless given.

        Returns a BaseModelOutput, or with return_dict=False the tuple of its fields that are not
        None.

        ValueError for shapes that don't fit, IndexError for ids or positions out of range.
        """
        config = self.config
        use_cache = asked(config, "use_cache", use_cache)
        want_weights = asked(config, "output_attentions", output_attentions)
        want_hidden = asked(config, "output_hidden_states", output_hidden_states)
        recomputing = (
            self.gradient_checkpointing and self.training and is_grad_enabled()
            and past_key_values is None and not want_weights
        )  # fmt: skip
        use_cache = use_cache and not recomputing  # which would keep every block's keys and values
        inputs = read_inputs(
            self,
            input_ids=input_ids,
            past_key_values=past_key_values,
            cache_position=cache_position,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
        )
        output = self.run(inputs, want_weights, want_hidden, recomputing)
        output.past_key_values = inputs.cache if use_cache else None
        return as_asked(output, config, return_dict)

    def run(
        self,
        inputs: Inputs,
        want_weights: bool = False,
        want_hidden: bool = False,
        recomputing: bool = False,
    ) -> BaseModelOutput:
        """`forward` for arguments that `read_inputs` has read."""
        x = self.wte(inputs.ids) if inputs.embeds is None else inputs.embeds  # (B, T, C)
        x = x + self.wpe(inputs.positions)
        if inputs.types is not None:
            x = x + self.wte(inputs.types)
        x = self.drop(x)
        hidden, attentions, cross_attentions = [], [], []
        for block, head_mask in zip(self.h, inputs.head_masks):
            if want_hidden:
                hidden.append(x)
            if recomputing:
                x = block.forward_recomputed(x, inputs.bias, head_mask, inputs.encoded)
                continue
            x, weights, cross_weights = block(
                x, inputs.bias, head_mask, inputs.encoded, inputs.cache, want_weights
            )
            attentions.append(weights)
            cross_attentions.append(cross_weights)
        x = inputs.restore(self.ln_f(x))
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=(*hidden, x) if want_hidden else None,
            attentions=tuple(attentions) if want_weights else None,
            cross_attentions=tuple(cross_attentions)
            if want_weights and inputs.encoded is not None
            else None,
        )
