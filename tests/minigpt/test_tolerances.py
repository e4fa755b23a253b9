"""The comparison itself: it passes what agrees, and fails, with a useful message, what does not."""

from __future__ import annotations

import numpy as np
import pytest

from minigpt import tolerances

RNG = np.random.default_rng(0)


def array(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.normal(size=shape).astype(dtype)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-5), ("float64", 1e-9)])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_outputs_on_the_scale_of_the_array(dtype, size, scale):
    reference = (scale * array(3, 50)).astype(dtype)
    allowed = tolerances.output_tolerance(reference)
    rms = np.sqrt(np.mean(reference.astype(np.float64) ** 2))
    assert allowed == pytest.approx(size * max(1.0, rms))
    for factor, ok in [(0.5, True), (2.0, False)]:
        ours = reference.astype(np.float64)
        ours[1, 7] += factor * allowed
        result = tolerances.compare_output("logits", ours, reference)
        assert result.ok is ok
        assert result.index == (1, 7)
        assert result.ratio == pytest.approx(factor, rel=1e-3)


def test_the_message_says_what_and_where():
    reference = np.zeros((2, 3), np.float32)
    ours = reference.copy()
    ours[1, 2] = 0.5
    result = tolerances.compare_output("logits", ours, reference)
    assert str(result) == (
        "logits: largest difference 0.5 (over 1e-05 allowed), 0.5 against 0 at logits[1, 2]"
    )
    assert "within 1e-05" in str(tolerances.compare_output("loss", ours[0, 0], reference[0, 0]))


@pytest.mark.parametrize(
    ("ours", "reference", "ok"),
    [
        (np.nan, np.nan, True),
        (np.inf, np.inf, True),
        (-np.inf, -np.inf, True),
        (np.nan, 1.0, False),
        (1.0, np.nan, False),
        (np.inf, -np.inf, False),
        (np.inf, 1e30, False),
        (1.0, -np.inf, False),
    ],
)
def test_what_is_not_finite_must_be_the_same(ours, reference, ok):
    a, b = np.ones(4, np.float32), np.ones(4, np.float32)
    a[2], b[2] = ours, reference
    result = tolerances.compare_output("logits", a, b)
    assert result.ok is ok
    if not ok:
        assert result.difference == np.inf and result.index == (2,)


def test_shapes_must_be_the_same():
    with pytest.raises(ValueError, match=r"logits: shape \(2, 3\) is not the reference's \(3,\)"):
        tolerances.compare_output("logits", np.zeros((2, 3)), np.zeros(3))


def test_nothing_agrees_with_nothing():
    assert tolerances.compare_output("logits", np.zeros((0, 3)), np.zeros((0, 3))).ok


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-4), ("float64", 1e-7)])
def test_gradients_on_the_scale_of_their_parameter(dtype, size):
    reference = {"large": array(5, 4, dtype=dtype), "small": array(6, dtype=dtype)}
    reference["large"] *= 10 / np.abs(reference["large"]).max()
    reference["small"] *= 1 / np.abs(reference["small"]).max()
    assert tolerances.gradient_tolerances(reference) == pytest.approx(
        {"large": 10 * size, "small": size}
    )
    for factor, ok in [(0.5, True), (2.0, False)]:
        ours = {name: g.astype(np.float64) for name, g in reference.items()}
        ours["small"][3] += factor * size
        results = tolerances.compare_gradients(ours, reference)
        assert [r.name for r in results] == ["small", "large"]
        assert results[0].ok is ok and results[1].ok


def test_a_gradient_of_rounding_alone_is_measured_by_the_model():
    reference = {"wte": np.full(3, 2.0, np.float32), "key bias": np.full(3, 1e-9, np.float32)}
    allowed = tolerances.gradient_tolerances(reference)["key bias"]
    assert allowed == pytest.approx(1e-4 * 1e-2 * 2.0)
    ours = reference | {"key bias": np.full(3, -1e-9, np.float32)}
    assert tolerances.compare_gradients(ours, reference)[0].ok
    ours["key bias"] = np.full(3, 3 * allowed)
    assert not tolerances.compare_gradients(ours, reference)[0].ok


def test_gradients_of_other_parameters_are_refused():
    with pytest.raises(ValueError, match=r"missing \['wte'\], unexpected \['wpe'\]"):
        tolerances.compare_gradients({"wpe": np.zeros(2)}, {"wte": np.zeros(2)})


def test_massive_activations_are_compared_on_their_own_scale():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((1000,)).astype(np.float32)
    reference[3] = 3000                         # rms 95
    ours = reference.copy()
    ours[3] += 0.02                             # under 1e-5 of 3000
    assert not tolerances.compare_output("h", ours, reference).ok
    found = tolerances.compare_activations("h", ours, reference)
    assert found.ok and found.index == (3,) and found.reference == 3000
    assert found.difference == pytest.approx(0.02, rel=1e-2)
    assert found.allowed == pytest.approx(0.03, rel=1e-3)
    ours[3], ours[5] = 3000, reference[5] + 0.002
    found = tolerances.compare_activations("h", ours, reference)
    assert not found.ok and found.index == (5,)
    assert found.allowed == pytest.approx(tolerances.output_tolerance(reference))
    assert tolerances.compare_activations("h", ours, reference, layers=3).ok


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_no_numbers(value):
    reference = np.array([1.0, value], np.float32)
    assert tolerances.compare_activations("h", reference, reference).ok
    assert not tolerances.compare_activations("h", np.ones(2, np.float32), reference).ok
    assert tolerances.compare_activations("h", reference[:0], reference[:0]).ok
