"""Solutions of lesson 2. The library's own are in `tensor/numpy_fused.py` and
`tensor/functional.py`.
"""

import numpy as np


def my_adamw(p, g, m, v, step, lr, beta1, beta2, eps, weight_decay):
    p = p * (1 - lr * weight_decay)             # decay: straight on the weight
    m = beta1 * m + (1 - beta1) * g             # the average gradient: where to
    v = beta2 * v + (1 - beta2) * g * g         # the average square: how large gradients are here
    m_hat = m / (1 - beta1**step)               # both averages began at 0: correct for that
    v_hat = v / (1 - beta2**step)
    p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
    return p, m, v


def my_causal_weights(scores):
    T = scores.shape[-1]
    future = np.triu(np.ones((T, T), bool), 1)  # True above the diagonal: key s > query t
    return scores.masked_fill(future, -np.inf).softmax()
