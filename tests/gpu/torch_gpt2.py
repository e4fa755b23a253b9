"""GPT-2 in torch, the peer of the speed figures: nothing but torch, at its best settings.

SDPA attention, fused AdamW, one product for q, k and v. Weights are random: only time is measured.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Block(nn.Module):
    def __init__(self, C: int, H: int):
        super().__init__()
        self.H = H
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.c_fc, self.mlp_proj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x, cache=None):
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.H, C // self.H).transpose(1, 2)  # (B, H, T, D)
            for part in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = k, v
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, vocab_size, n_positions, n_embd, n_layer, n_head):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(n_positions, n_embd)
        self.h = nn.ModuleList(Block(n_embd, n_head) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith("proj.weight")
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * n_layer) if deep else 1))

    def forward(self, ids, labels=None, caches=None, start=0):
        """The loss (labels given), or the logits of the last position."""
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x = self.wte(ids) + self.wpe(positions)
        for i, block in enumerate(self.h):
            x = block(x, None if caches is None else caches[i])
        x = self.ln_f(x)
        if labels is None:
            return F.linear(x[:, -1], self.wte.weight)
        logits = F.linear(x, self.wte.weight)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
