"""The losses of the heads. Logits are Tensors, labels integer Tensors unless said otherwise."""

from __future__ import annotations

from typing import Any

from minigpt.inputs import as_array
from tensor import Tensor, binary_cross_entropy_with_logits, cross_entropy, mse_loss

IGNORED = -100  # the label of a position that takes no part in the loss


def next_token_loss(
    logits: Tensor,
    labels: Tensor,
    shift_labels: Tensor | None = None,
    num_items_in_batch: Any = None,
) -> Tensor:
    """Mean cross-entropy of the logits (..., T, V) at t against the labels (..., T) at t + 1.

    The labels are shifted and not the logits, which would copy (B, T, V) numbers.

    shift_labels: (..., T), labels that are shifted already and count instead.
    num_items_in_batch: the sum of the cross-entropies is divided by this and not by how many
        labels count: for a batch in parts, whose losses then add up to that of the whole.

    ValueError for shapes that differ or a number that is not positive, IndexError for a label that
    is neither in 0 … V - 1 nor -100.
    """
    for name, given in (("labels", labels), ("shift_labels", shift_labels)):
        if given is not None and given.shape != logits.shape[:-1]:
            raise ValueError(
                f"{name} {given.shape} must be (B, T) = {logits.shape[:-1]}, as the logits"
            )
    used = "labels" if shift_labels is None else "shift_labels"
    if shift_labels is None:
        border = [(0, 0)] * (labels.ndim - 1) + [(0, 1)]
        shift_labels = labels[..., 1:].astype("int64").pad(border, IGNORED)  # (..., T)
    check_labels(used, shift_labels, logits.shape[-1])
    if num_items_in_batch is None:
        return cross_entropy(logits, shift_labels, ignore_index=IGNORED)
    items = as_array("num_items_in_batch", num_items_in_batch)
    if items.size != 1 or not items.item() > 0:
        raise ValueError(f"num_items_in_batch = {num_items_in_batch!r} must be a number above 0")
    counted = int((shift_labels.numpy() != IGNORED).sum())
    if counted == 0:  # a sum of nothing, where the mean is NaN
        return (logits * 0.0).sum()
    return cross_entropy(logits, shift_labels, ignore_index=IGNORED) * (counted / items.item())


def classification_loss(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (..., L) against labels (...) in 0 … L - 1, or -100 to ignore.

    ValueError and IndexError name the labels by `name`.
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"{name} {labels.shape} must be {logits.shape[:-1]}, as the logits")
    check_labels(name, labels, logits.shape[-1])
    return cross_entropy(logits, labels, ignore_index=IGNORED)


def check_labels(name: str, labels: Tensor, size: int) -> None:
    """IndexError, with the name, for a label that is neither in 0 … size - 1 nor -100."""
    values = labels.numpy()
    wrong = values[(values != IGNORED) & ((values < 0) | (values >= size))]
    if wrong.size:
        raise IndexError(f"{name}: {wrong[0]} is neither in 0 … {size - 1} nor {IGNORED} (ignored)")


def sequence_loss(problem_type: str, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a sequence classifier's logits (B, L).

    regression: mean squared error, labels (B, L), or (B,) for L = 1.
    single_label_classification: mean cross-entropy, labels (B,) or (B, 1).
    multi_label_classification: mean binary cross-entropy, labels (B, L) in 0 … 1.
    """
    B, L = logits.shape
    if problem_type == "single_label_classification":
        if labels.dtype.kind not in "iu":
            raise TypeError(
                f"labels are {labels.dtype}; a single label a row is an integer (problem_type="
                f"{problem_type!r})"
            )
        return classification_loss("labels", logits, _without_last(labels, B))
    if L == 1 and problem_type == "regression":
        logits, labels = logits.reshape(B), _without_last(labels, B)  # (B,) both
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels {labels.shape} must be {logits.shape}, as the logits (problem_type="
            f"{problem_type!r})"
        )
    if problem_type == "regression":
        return mse_loss(logits, labels)
    return binary_cross_entropy_with_logits(logits, labels)


def span_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Mean of the cross-entropies of a span's first and last position: logits (B, T), positions
    (B,) or (B, 1).

    A position beyond the text is ignored, a negative one counts as 0. NaN where a side has no
    position that counts.
    """
    B, T = start_logits.shape[0], start_logits.shape[-1]
    losses = []
    for name, logits, positions in (
        ("start_positions", start_logits, start),
        ("end_positions", end_logits, end),
    ):
        flat = _without_last(positions, B)
        if flat.shape != logits.shape[:-1]:
            raise ValueError(f"{name} {positions.shape} must be (B,) = {logits.shape[:-1]}")
        losses.append(cross_entropy(logits, flat.astype("int64").clip(0, T), ignore_index=T))
    return (losses[0] + losses[1]) / 2


def _without_last(values: Tensor, B: int) -> Tensor:
    """(B, 1) as (B,); anything else as it is."""
    return values.reshape(B) if values.shape == (B, 1) else values
