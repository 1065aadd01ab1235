"""The hooks: what they capture, what they refuse, and that they leave the model as it was."""

import pytest
import torch
from torch import nn

from instsel.gradients.capture import GradientCapture


class Conv1D(nn.Module):
    """A linear map whose weight is (in, out), as GPT-2 has it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class Net(nn.Module):
    """A frozen entry; a trained map that runs twice, an in-place operation behind it; one that the loss ignores."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.entry = nn.Embedding(11, 4).requires_grad_(False)
        self.shared = nn.Linear(4, 4)
        self.conv = Conv1D(4, 3)
        self.unheard = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids):
        hidden = self.shared(self.entry(ids))
        hidden.mul_(2.0)
        hidden = self.dropout(torch.tanh(self.shared(hidden)))
        output = self.conv(hidden)
        self.unheard(output)
        return output.square().sum(dim=(1, 2))


def capture(model, ids):
    got, calls = {}, []

    def consume(name, gradient):
        calls.append(name)
        got[name] = gradient

    with GradientCapture(model) as hooks, hooks.batch(*ids.shape, consume):
        hooks.backward(model(ids).sum())
    assert sorted(calls) == sorted(hooks.shapes)
    return got


def by_autograd(model, ids):
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    model.eval()
    rows = [
        torch.autograd.grad(model(row[None]).sum(), list(trainable.values()), materialize_grads=True) for row in ids
    ]
    return {name: torch.stack(column) for name, column in zip(trainable, zip(*rows, strict=True), strict=True)}


@pytest.fixture
def ids():
    return torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(0))


def test_weights_biases_repeated_and_unheard_modules(ids):
    model = Net()
    got, wanted = capture(model, ids), by_autograd(model, ids)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-6)
    assert not got["unheard.weight"].any()
    assert got["shared.weight"].all()


def test_one_weight_of_two_modules_is_one_parameter(ids):
    model = Net()
    model.twin = nn.Linear(3, 4, bias=False)
    model.conv = nn.Linear(4, 4, bias=False)
    model.twin.weight = model.conv.weight
    model.unheard = nn.Identity()
    model.forward = lambda ids: model.twin(torch.tanh(model.conv(model.shared(model.entry(ids))))).square().sum((1, 2))
    got, wanted = capture(model, ids), by_autograd(model, ids)
    assert "twin.weight" not in got
    torch.testing.assert_close(got["conv.weight"], wanted["conv.weight"], rtol=1e-5, atol=1e-6)


def test_the_model_is_left_as_it_was_even_after_an_error(ids):
    model = Net()
    model.conv.eval()
    model.shared.bias.requires_grad_(False)
    before = [value.requires_grad for value in model.parameters()]
    capture(model, ids)
    with pytest.raises(RuntimeError, match="stop"), GradientCapture(model) as hooks:
        assert not any(value.requires_grad for value in model.parameters())
        assert not model.training
        with hooks.batch(3, 5, lambda name, gradient: None):
            raise RuntimeError("stop")
    assert [value.requires_grad for value in model.parameters()] == before
    assert model.training
    assert model.dropout.training
    assert not model.conv.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(value.grad is None for value in model.parameters())


def test_gradients_come_while_the_backward_pass_runs_the_last_layer_first(ids):
    names = []
    model = Net()
    with GradientCapture(model) as hooks, hooks.batch(3, 5, lambda name, gradient: names.append(name)):
        hooks.backward(model(ids).sum())
        assert names == ["conv.bias", "conv.weight", "shared.bias", "shared.weight"]


def test_bfloat16_gradients_are_summed_in_float32(ids):
    model = Net().to(torch.bfloat16)
    got = capture(model, ids)
    assert {gradient.dtype for gradient in got.values()} == {torch.float32}
    assert not torch.equal(got["conv.weight"], got["conv.weight"].bfloat16().float())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.LayerNorm(3), "part.weight belongs to a LayerNorm"),
        (nn.Embedding(3, 3), "part.weight belongs to a Embedding"),
        (nn.BatchNorm1d(3), "part is a BatchNorm1d: it mixes examples"),
        (nn.ParameterDict({"own": nn.Parameter(torch.zeros(1))}), "part.own belongs to a ParameterDict"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(part, message):
    model = Net()
    model.part = part
    with pytest.raises(ValueError, match=message):
        GradientCapture(model)


def test_frozen_layers_of_any_kind_are_welcome():
    model = Net()
    model.part = nn.LayerNorm(3).requires_grad_(False)
    assert "part.weight" not in GradientCapture(model).shapes


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        GradientCapture(Net().requires_grad_(False))


def test_a_module_that_is_not_called_is_named(ids):
    model = Net()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="spare.weight: its module was not called"):
        capture(model, ids)


def test_modules_that_see_tokens_apart_from_their_examples_are_named(ids):
    model = Net()
    model.forward = lambda ids: model.unheard(model.conv(model.shared(model.entry(ids))).flatten(0, 1)).sum(1)
    with pytest.raises(ValueError, match=r"unheard.weight: its module saw an input of shape \(15, 3\)"):
        capture(model, ids)
