"""Modules: names, ties, loading with a list of what is wrong, modes, what each layer computes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from tensor import Tensor, nn, random
from tensor.optim import SGD
from tests.tensor import slow_ops


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.manual_seed(0)


class Block(nn.Module):
    def __init__(self) -> None:
        self.ln = nn.LayerNorm(4)
        self.c_fc = nn.Conv1D(4, 8)
        self.head = nn.Linear(8, 3, bias=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.c_fc(self.ln(x)).gelu()))


class Model(nn.Module):
    """Children before own parameters, a list, a tie, and attributes that are neither."""

    def __init__(self) -> None:
        self.wte = nn.Embedding(5, 4)
        self.h = nn.ModuleList([Block(), Block()])
        self.scale = nn.Parameter(np.ones(4, np.float32))
        self.tied = self.wte.weight
        self.name = "model"
        self.constant = Tensor([1.0])
        self.nothing = None

    def forward(self, ids: object) -> Tensor:
        x = self.wte(ids) * self.scale
        return x @ self.tied.T


NAMES = [
    "scale", "tied", "h.0.ln.weight", "h.0.ln.bias", "h.0.c_fc.weight", "h.0.c_fc.bias",
    "h.0.head.weight", "h.1.ln.weight", "h.1.ln.bias", "h.1.c_fc.weight", "h.1.c_fc.bias",
    "h.1.head.weight",
]  # fmt: skip


def test_parameters_are_found_by_walking_attributes_and_a_tie_comes_once() -> None:
    model = Model()
    named = dict(model.named_parameters())
    assert sorted(named) == sorted(NAMES)
    assert [n for n, _ in model.named_parameters()] == list(model.state_dict())
    assert named["tied"] is model.wte.weight
    assert len(list(model.parameters())) == len(NAMES)
    assert model.num_parameters() == 20 + 4 + 2 * (4 + 4 + 32 + 8 + 24)
    assert all(p.requires_grad and p.dtype == np.float32 for p in model.parameters())


def test_names_are_those_of_the_attributes_in_order() -> None:
    assert [name for name, _ in Block().named_parameters()] == [
        "ln.weight", "ln.bias", "c_fc.weight", "c_fc.bias", "head.weight",
    ]  # fmt: skip
    assert [name for name, _ in Block().named_parameters("h.3.")][0] == "h.3.ln.weight"


def test_an_attribute_that_is_replaced_is_a_new_parameter() -> None:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(np.zeros((3, 2), np.float32))
    del layer.bias
    assert {n: p.shape for n, p in layer.named_parameters()} == {"weight": (3, 2)}


def test_state_dict_is_a_copy_and_loads_into_another_model() -> None:
    one, two = Model(), Model()
    state = one.state_dict()
    assert any((state[n] != v).any() for n, v in two.state_dict().items())
    two.load_state_dict(state)
    for name, value in two.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    state["scale"][:] = 9
    assert one.scale.tolist() == two.scale.tolist() == [1] * 4
    assert two.tied is two.wte.weight  # ties stay
    two.load_state_dict({n: Tensor(v) for n, v in one.state_dict().items()})
    two.load_state_dict({n: v.astype(np.float64) for n, v in one.state_dict().items()})
    assert two.scale.dtype == np.float32


def test_loading_lists_everything_that_is_wrong_and_changes_nothing() -> None:
    model = Model()
    before = model.state_dict()
    state = {n: v + 1 for n, v in before.items()}
    del state["h.1.ln.bias"]
    state["h.2.ln.bias"] = np.zeros(4)
    state["h.0.c_fc.weight"] = np.zeros((8, 4))
    state["scale"] = np.array(["a", "b", "c", "d"])
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    for text in [
        "Model",
        "missing: h.1.ln.bias (4,)",
        "unexpected: h.2.ln.bias (4,)",
        "misshapen: h.0.c_fc.weight is (8, 4), the model's is (4, 8)",
        "not numbers: scale is <U1",
    ]:
        assert text in str(caught.value)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_train_and_eval_reach_every_module() -> None:
    model = Model()
    assert model.training and all(m.training for m in model.modules())
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    block = model.h[0]
    x = Tensor([[1.0, 2.0, 4.0, 8.0]])
    assert block(x).tolist() == block(x).tolist()
    model.train()
    assert block(x).tolist() != block(x).tolist()
    assert nn.Dropout(0.5).eval()(x) is x
    assert sum(isinstance(m, nn.Dropout) for m in model.modules()) == 2


def test_zero_grad_forgets_every_gradient() -> None:
    model = Model()
    model([0, 1]).sum().backward()
    assert model.scale.grad is not None and model.wte.weight.grad is not None
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_tied_matrix_gets_the_gradient_of_both_uses() -> None:
    model = Model()
    model([0, 1]).sum().backward()
    w = model.wte.weight.numpy()
    expected = np.zeros_like(w)
    expected[[0, 1]] += w.sum(0)  # as embedding
    expected += w[0] + w[1]  # as output
    assert model.wte.weight.grad is not None
    np.testing.assert_allclose(model.wte.weight.grad.numpy(), expected, rtol=1e-5)


def test_to_and_astype_keep_ties_and_references() -> None:
    model = Model()
    weight = model.wte.weight
    assert model.to("cpu") is model
    assert model.astype("float64") is model
    assert model.tied is model.wte.weight is weight and weight.dtype == np.float64
    assert model([0, 1]).dtype == np.float64
    with pytest.raises(TypeError, match="float32 or float64, not int64"):
        model.astype("int64")
    with pytest.raises(TypeError, match="float16"):
        model.astype("float16")
    with pytest.raises(ValueError, match="device 'cuda'|cuda"):
        model.to("cuda:99")
    assert weight.dtype == np.float64


def test_a_model_can_be_copied_and_pickled() -> None:
    model = Model()
    expected = model([0, 3]).tolist()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model.wte))):
        weight = other.wte.weight if isinstance(other, Model) else other.weight
        assert isinstance(weight, nn.Parameter) and weight is not model.wte.weight
        weight.copy_(np.zeros((5, 4)))
    assert model([0, 3]).tolist() == expected
    other = copy.deepcopy(model)
    assert other.tied is other.wte.weight
    assert other([0, 3]).tolist() == expected
    SGD(other.parameters(), lr=1.0)  # leaves that require gradients


def test_module_list() -> None:
    modules = nn.ModuleList([nn.Dropout(0.1), nn.Dropout(0.2), nn.Dropout(0.3)])
    assert len(modules) == 3 and [m.p for m in modules] == [0.1, 0.2, 0.3]
    assert modules[1].p == 0.2 and modules[-1].p == 0.3
    with pytest.raises(IndexError):
        modules[3]
    assert len(nn.ModuleList([])) == 0
    many = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(12)])
    assert [n for n, _ in many.named_parameters()] == [f"{i}.weight" for i in range(12)]


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Empty defines no forward"):

        class Empty(nn.Module):
            pass

        Empty()(1)


def test_repr_shows_the_tree() -> None:
    text = repr(Model())
    assert text.startswith("Model(") and "h: ModuleList" in text and "(4, 8)" in text


def test_parameters_are_floats() -> None:
    with pytest.raises(TypeError, match=r"not int64; write 1.0 for 1"):
        nn.Parameter([1, 2])
    assert nn.Parameter([1.0]).requires_grad and isinstance(nn.Parameter([1.0]), Tensor)


# --- layers


def test_conv1d_has_its_weight_in_by_out_and_linear_out_by_in() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    conv, linear = nn.Conv1D(4, 6), nn.Linear(4, 6)
    assert conv.weight.shape == (4, 6) and linear.weight.shape == (6, 4)
    conv.bias.copy_(np.arange(6.0))
    linear.load_state_dict({"weight": conv.weight.numpy().T, "bias": conv.bias.numpy()})
    expected = x @ conv.weight.numpy() + np.arange(6)
    np.testing.assert_allclose(conv(Tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(linear(Tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert nn.Linear(4, 6, bias=False).bias is None


def test_initial_weights_are_normal_biases_zero_and_the_seed_decides() -> None:
    for make, name in [
        (lambda: nn.Conv1D(200, 300), "weight"),
        (lambda: nn.Linear(200, 300, std=0.02), "weight"),
        (lambda: nn.Embedding(200, 300), "weight"),
    ]:
        random.manual_seed(3)
        one = make().state_dict()
        random.manual_seed(3)
        two = make().state_dict()
        np.testing.assert_array_equal(one[name], two[name])
        assert abs(one[name].std() - 0.02) < 5 * 0.02 / np.sqrt(2 * one[name].size)
        assert abs(one[name].mean()) < 5 * 0.02 / np.sqrt(one[name].size)
        assert not one.get("bias", np.zeros(1)).any()
    assert abs(nn.Linear(200, 300, std=0.5).weight.numpy().std() - 0.5) < 0.01
    norm = nn.LayerNorm(7)
    assert norm.weight.tolist() == [1] * 7 and norm.bias.tolist() == [0] * 7


def test_layer_norm_and_embedding_use_their_parameters() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5))
    norm = nn.LayerNorm(5, eps=0.1).astype("float64")
    norm.load_state_dict({"weight": np.arange(5.0), "bias": np.arange(5.0) - 2})
    expected = slow_ops.layer_norm(x, np.arange(5.0), np.arange(5.0) - 2, 0.1)
    np.testing.assert_allclose(norm(Tensor(x)).numpy(), expected, rtol=1e-12)
    embedding = nn.Embedding(4, 3)
    rows = embedding([[3, 0], [1, 1]])
    np.testing.assert_array_equal(rows.numpy(), embedding.weight.numpy()[[[3, 0], [1, 1]]])


def test_dropout_layer_refuses_what_is_no_probability() -> None:
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"Dropout: p = {p}"):
            nn.Dropout(p)


def test_a_small_network_learns() -> None:
    """Everything together: a function that no linear model fits."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
    target = (x[:, :1] * x[:, 1:] > 0).astype(np.float32)

    class Network(nn.Module):
        def __init__(self) -> None:
            self.one, self.two = nn.Linear(2, 16, std=1.0), nn.Linear(16, 1, std=0.3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).tanh())

    network = Network()
    optimizer = SGD(network.parameters(), lr=0.3, momentum=0.9)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(network(Tensor(x)), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.6 and losses[-1] < 0.1
