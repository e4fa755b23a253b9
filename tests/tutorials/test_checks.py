"""Each check accepts its solution and names the mistake in typical wrong answers."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from tensor import Tensor, optim
from tutorials import check, show_solution
from tutorials.solutions import lesson_01, lesson_02
from tutorials.tools.exercises import EXERCISES, SOLUTIONS, verdict


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_is_right(name):
    result = verdict(name, SOLUTIONS[name])
    assert result.right, result.text


def test_a_solution_has_the_name_and_the_arguments_of_its_exercise():
    assert list(SOLUTIONS) == list(EXERCISES)
    for name, answer in SOLUTIONS.items():
        arguments = ", ".join(inspect.signature(answer).parameters)
        assert EXERCISES[name].signature.startswith(f"{answer.__name__}({arguments}) -> ")


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def softmax_with(dx_of):
    def answer(x, dy):
        y = softmax(x)
        return y, dx_of(y, dy)

    return answer


def adamw_with(change):
    """AdamW's step with one line replaced: `change` gets all of it by name."""

    def answer(p, g, m, v, step, lr, beta1, beta2, eps, weight_decay):
        n = dict(p=p, g=g, m=m, v=v, step=step, lr=lr, b1=beta1, b2=beta2, eps=eps, wd=weight_decay)
        m = n["m"] = change.get("m", lambda n: n["b1"] * n["m"] + (1 - n["b1"]) * n["g"])(n)
        v = n["v"] = change.get("v", lambda n: n["b2"] * n["v"] + (1 - n["b2"]) * n["g"] ** 2)(n)
        n["mh"], n["vh"] = m / (1 - beta1**step), v / (1 - beta2**step)
        move = change.get("move", lambda n: n["mh"] / (np.sqrt(n["vh"]) + n["eps"]))(n)
        shrunk = change.get("decay", lambda n: n["p"] * (1 - n["lr"] * n["wd"]))(n)
        return shrunk - lr * move, m, v

    return answer


def masked(keep_of, fill=-np.inf):
    def answer(scores):
        T = scores.shape[-1]
        i, j = np.indices((T, T))
        return scores.masked_fill(~keep_of(i, j), fill).softmax()

    return answer


def changes_its_input(a, b, dy):
    dy *= b
    return a * b, dy, dy


def masked_after_softmax(scores):
    past = np.tril(np.ones(scores.shape[-2:]))
    return scores.softmax() * past


def out_of_the_graph(scores):
    return Tensor(lesson_02.my_causal_weights(scores).numpy())


def zip_the_rows(a, b, dy):
    raise RuntimeError("no idea")


# name of the exercise, a wrong answer, what the message must say
WRONG = [
    ("01.1", lambda a, b, dy: (a * b, dy * a, dy * b), "da and db are swapped"),
    ("01.1", lambda a, b, dy: (a * b, b, a), "dy is missing"),
    ("01.1", lambda a, b, dy: (a * b, -dy * b, dy * a), "wrong sign"),
    ("01.1", lambda a, b, dy: (a * b, dy, dy), "derivative of an addition"),
    ("01.1", lambda a, b, dy: (a * b, 2 * dy * b, dy * a), "2 times what it should be"),
    ("01.1", lambda a, b, dy: (a + b, dy * b, dy * a), "the sum of a and b"),
    ("01.1", lambda a, b, dy: (a * b, (dy * b).sum(), dy * a), "It is a single number"),
    ("01.1", lambda a, b, dy: (a * b, dy * 0, dy * a), "0 everywhere"),
    ("01.1", lambda a, b, dy: (a * b, dy * b, dy * a + (dy > 3)), "1 of its 2 numbers are right"),
    ("01.1", lambda a, b, dy: a * b, "should return 3 results, y, da, db; it returned 1"),
    ("01.1", lambda a, b, dy: None, "returns None"),
    ("01.1", lambda a, b, dy: (a * b, None, None), "da is None"),
    ("01.1", lambda a, b, dy: (a * b, ..., ...), "da is still `...`"),
    ("01.1", lambda a, b, dy: (a * b, "dy * b", dy * a), "no array of numbers but str"),
    ("01.1", lambda a, b: a * b, "my_multiply(a, b, dy) -> y, da, db"),
    ("01.1", lambda p, q, g: (p * q, g * p, g * q), "da and db are swapped"),   # names are free
    ("01.1", changes_its_input, "changed its input dy in place"),
    ("01.1", zip_the_rows, 'stopped with RuntimeError at `raise RuntimeError("no idea")`'),
    ("01.1", np.array([1.0]), "without parentheses"),
    ("01.2", lambda a, b, dy: (a + b, dy, dy), "a sum is missing"),
    ("01.2", lambda a, b, dy: (a + b, dy, dy.sum(axis=1)), "the wrong axis"),
    ("01.2", lambda a, b, dy: (a + b, dy, dy.sum()), "the wrong axis. You added up over axes 0, 1"),
    ("01.2", lambda a, b, dy: (a + b, dy, dy.mean(axis=0)), "a mean where a sum is needed"),
    ("01.2", lambda a, b, dy: (a + b, dy, dy.sum(axis=0, keepdims=True)),
     "Its numbers are right: reshape it"),
    ("01.2", lambda a, b, dy: (a + b, dy, -dy.sum(axis=0)), "wrong sign"),
    ("01.2", lambda a, b, dy: (a + b, dy, b), "an input itself"),
    ("01.2", lambda a, b, dy: (a + b, dy, dy.reshape(b.shape)), "sum first"),
    ("01.3", lambda a, b, dy: (a @ b, dy @ b, a @ dy), "b must be transposed"),
    ("01.3", lambda a, b, dy: (a @ b, (dy @ b.T).T, a.T @ dy), "transposed"),
    ("01.3", lambda a, b, dy: (a @ b, dy @ b.T, dy @ a.T), "the order is wrong"),
    ("01.3", lambda a, b, dy: (a @ b, a.T @ dy, dy @ b.T), "da and db are swapped"),
    ("01.3", lambda a, b, dy: (a * b, dy @ b.T, a.T @ dy), "number by number"),
    ("01.3", lambda a, b, dy: (a @ b, b.T, a.T), "dy is missing"),
    ("01.3", lambda a, b, dy: (a @ b, dy * b.T, a.T * dy), "number by number"),
    ("01.4", softmax_with(lambda y, dy: y * dy), "the other scores are missing"),
    ("01.4", softmax_with(lambda y, dy: y * (1 - y) * dy), "own score alone"),
    ("01.4", softmax_with(lambda y, dy: y * ((dy * y).sum(-1, keepdims=True) - dy)), "wrong sign"),
    ("01.4", softmax_with(lambda y, dy: y * (dy - (dy * y).sum())), "the wrong axis"),
    ("01.4", softmax_with(lambda y, dy: y * (dy - (dy * y).sum(0))), "the wrong axis"),
    ("01.4", softmax_with(lambda y, dy: y * (dy - dy.sum(-1, keepdims=True))), "the sum is of dy"),
    ("01.4", lambda x, dy: (softmax(x, 0), lesson_01.my_softmax(x, dy)[1]), "the wrong axis"),
    ("01.4", lambda x, dy: (np.exp(x), dy), "divide them by their sum"),
    ("01.4", lambda x, dy: (np.exp(x) / np.exp(x).sum(-1, keepdims=True),
                            lesson_01.my_softmax(x, dy)[1]), "subtract the row's largest"),
    ("02.1", adamw_with({"move": lambda n: n["m"] / (np.sqrt(n["v"]) + n["eps"])}),
     "bias correction is missing"),
    ("02.1", adamw_with({"move": lambda n: -n["mh"] / (np.sqrt(n["vh"]) + n["eps"])}),
     "the wrong sign"),
    ("02.1", adamw_with({"move": lambda n: n["mh"] / (n["vh"] + n["eps"])}), "square root"),
    ("02.1", adamw_with({"move": lambda n: n["mh"] / np.sqrt(n["vh"] + n["eps"])}),
     "eps is inside the square root"),
    ("02.1", adamw_with({"move": lambda n: n["g"]}), "plain gradient descent"),
    ("02.1", adamw_with({"move": lambda n: n["m"] / (1 - n["b1"] * n["step"]) / (
        np.sqrt(n["v"] / (1 - n["b2"] * n["step"])) + n["eps"])}), "it is a power"),
    ("02.1", adamw_with({"m": lambda n: n["m"] * n["b1"] + n["g"]}), "(1 - beta1)"),
    ("02.1", adamw_with({"m": lambda n: n["b1"] * n["m"]
                         + (1 - n["b1"]) * (n["g"] + n["wd"] * n["p"])}), "decoupled"),
    ("02.1", adamw_with({"v": lambda n: n["b2"] * n["v"] + (1 - n["b2"]) * n["g"]}),
     "v averages the squares"),
    ("02.1", adamw_with({"decay": lambda n: n["p"]}), "weight decay is missing"),
    ("02.1", adamw_with({"decay": lambda n: n["p"] * (1 - n["wd"])}), "weight decay without lr"),
    ("02.2", lambda scores: scores.softmax(), "nothing is masked"),
    ("02.2", masked(lambda i, j: j >= i), "upside down"),
    ("02.2", masked(lambda i, j: j < i), "each position must see itself"),
    ("02.2", masked(lambda i, j: j <= i + 1), "one step into the future"),
    ("02.2", masked(lambda i, j: j <= i, fill=0.0), "a score of 0 is not a weight of 0"),
    ("02.2", masked_after_softmax, "masked after softmax"),
    ("02.2", lambda scores: scores.numpy(), "returned ndarray, not a Tensor"),
    ("02.2", out_of_the_graph, "does not remember the scores"),
    ("02.2", lambda scores: lesson_02.my_causal_weights(scores).sum(-1), "wrong shape"),
    ("02.2", lambda scores: ..., "returns nothing yet"),
]


@pytest.mark.parametrize(("name", "answer", "words"), WRONG,
                         ids=[f"{name}-{words[:40]}" for name, _, words in WRONG])
def test_a_wrong_answer_is_named(name, answer, words):
    result = verdict(name, answer)
    assert not result.right
    assert words in " ".join(result.text.split()), result.text


@pytest.mark.parametrize("name", EXERCISES)
def test_at_least_three_wrong_answers_of_each_are_tried(name):
    assert sum(wrong[0] == name for wrong in WRONG) >= 3


def test_words_come_before_numbers_and_three_referees_are_shown(capsys):
    check("01.2", lambda a, b, dy: (a + b, dy, dy))
    title, words, *rest = capsys.readouterr().out.splitlines()
    assert title == "01.2, the backward pass of an addition that broadcasts: not yet."
    assert words.startswith("db: a sum is missing. b has shape (3,), dy (2, 3)")
    rows = {line[:24].strip(): line[24:].strip() for line in rest if line.startswith("  db")}
    # by hand: dy is [[1, 4, 9], [16, 25, 36]]
    assert rows == {
        "db, yours": "[[ 1., 4., 9.], [16., 25., 36.]]",
        "db, the library": "[17., 29., 45.]",
        "db, finite differences": "[17., 29., 45.]",
    }


def test_the_readme_shows_what_a_check_says():
    said = verdict("01.2", lambda a, b, dy: (a + b, dy, dy)).text
    assert said in (Path(__file__).parents[2] / "tutorials" / "README.md").read_text("utf-8")


def test_of_large_arrays_the_first_difference_is_shown():
    def answer(x, dy):
        y, dx = lesson_01.my_softmax(x, dy)
        if x.ndim == 3:
            dx = dx.copy()
            dx[1, 0, 2] += 0.5
        return y, dx

    text = verdict("01.4", answer).text
    assert "23 of its 24 numbers are right" in text
    assert "dx[1, 0, 2]: yours" in text and "finite differences" not in text


@pytest.mark.parametrize("name", EXERCISES)
def test_the_library_agrees_with_finite_differences(name):
    """What answers are compared with, against the slow definition, on every input of a check."""
    exercise = EXERCISES[name]
    for inputs in exercise.cases():
        right = exercise.library(inputs)
        assert sorted(right) == sorted(exercise.results)
        for result, source in exercise.gradients.items():
            slow = exercise.differences(inputs, source)
            np.testing.assert_allclose(right[result], slow, rtol=1e-6, atol=1e-6)


def test_adamw_agrees_with_the_first_step_worked_out_by_hand():
    # Whatever the gradient, m / (1 - beta1) = g and sqrt(v / (1 - beta2)) = |g|: a step of lr.
    first = next(EXERCISES["02.1"].cases())
    assert first["p"].tolist() == [1.0, -2.0] and first["lr"] == 0.1
    np.testing.assert_allclose(EXERCISES["02.1"].library(first)["p"], [0.9, -1.9], rtol=1e-6)


def test_an_answer_that_is_told_wrong_reads_otherwise_than_the_right_one():
    """Without its bias corrections; and with a mistake too small for the four digits shown."""
    no_correction = adamw_with({"move": lambda n: n["m"] / (np.sqrt(n["v"]) + n["eps"])})
    text = verdict("02.1", no_correction).text
    assert "the bias correction is missing" in text
    assert "p, yours        [ 0.95, -1.95]" in text and "p, the library  [ 0.9, -1.9]" in text
    nearly = verdict("01.1", lambda a, b, dy: (a * b + 1e-5, dy * b, dy * a)).text
    assert "y[0]: yours 10.00001, the library 10" in nearly


def test_the_optimizer_continued_by_a_check_is_the_one_that_runs_on():
    """The library's answer at step 3 is that of an optimizer which took all three steps."""
    p = Tensor([1.0, -2.0], "float64", requires_grad=True)
    optimizer = optim.AdamW([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    for step in (1, 2, 3):
        state = optimizer.state_dict()
        inputs = {"p": p.numpy(), "g": np.array([0.3, -step]), "m": state["m.0"],
                  "v": state["v.0"], "step": step, "lr": 0.1, "beta1": 0.9, "beta2": 0.99,
                  "eps": 1e-8, "weight_decay": 0.5}
        p.grad = Tensor(inputs["g"])
        optimizer.step()
        np.testing.assert_array_equal(EXERCISES["02.1"].library(inputs)["p"], p.numpy())


@pytest.mark.parametrize("name", ["1.1", "03.1", "", 1.1, None])
def test_an_unknown_exercise_lists_those_there_are(name):
    with pytest.raises(ValueError, match=r"there is no exercise .*01\.1, 01\.2"):
        check(name, print)
    with pytest.raises(ValueError, match="there is no exercise"):
        show_solution(name)


def test_a_solution_is_shown(capsys):
    show_solution("01.1")
    shown = capsys.readouterr().out
    assert shown.startswith("def my_multiply(a, b, dy):") and "da = dy * b" in shown
