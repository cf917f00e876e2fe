"""Counter-current learning: the numbers of a small case, locality, symmetries, and forms that agree."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from probkernels.local_learning import CounterCurrent, CounterCurrentAutoencoder, linear_cka, mirror, weight_cosine
from probkernels.local_learning._local_losses import Rule, local_loss
from torch import Tensor, nn

X = [[1.0, -1.0], [0.5, 2.0]]
Y = torch.tensor([0, 1])
U1 = [[0.5, -0.25], [0.1, 0.3], [-0.2, 0.4]]
U2 = [[0.2, 0.1, -0.3], [0.4, -0.5, 0.6]]
V2 = [[0.3, -0.1], [0.2, 0.5], [-0.4, 0.6]]
V1 = [[0.1, 0.2, 0.3], [-0.3, 0.4, 0.5]]
TOP, CODES = "forward_net.4.weight", "feedback_net.0.weight"


def double(values: list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def net(*widths: int, bias: bool = False, activation: nn.Module | None = None) -> nn.Sequential:
    modules: list[nn.Module] = []
    for n, m in itertools.pairwise(widths):
        modules += [nn.Linear(n, m, bias=bias), copy.deepcopy(activation or nn.ELU())]
    return nn.Sequential(*modules[:-1]).double()


def small(**options: Any) -> CounterCurrent:
    model = CounterCurrent(net(2, 3, 2), **options)
    layers = [
        layer for part in (model.forward_net, model.feedback_net) for layer in part if isinstance(layer, nn.Linear)
    ]
    for layer, values in zip(layers, (U1, U2, V2, V1), strict=True):
        layer.weight.data = double(values)
    return model


def weight_of(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight").detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def batch(rows: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=g).double(), torch.randint(classes, (rows,), generator=g)


@pytest.mark.parametrize("form", CounterCurrent.forms)
def test_the_numbers_of_a_small_case(form: str) -> None:
    model = small()
    losses = model.gradients(double(X), Y, form=form)
    assert [round(float(loss), 9) for loss in losses] == [15.449750726, 7.560827317, 0.611126462]
    found = gradients(model)
    wanted = {
        "forward_net.0.weight": [[-3.59314334, 2.43522553], [-7.69758584, -0.32386495], [-1.39209868, -3.15556884]],
        "forward_net.2.weight": [[-0.22361907, 0.18863062, 0.26242961], [0.22361907, -0.18863062, -0.26242961]],
        "feedback_net.0.weight": [[-9.81139786, -5.26572143], [0.24434675, -1.57074817], [2.60148566, 0.67142316]],
        "feedback_net.2.weight": [[-9.45384377, -9.22155705, 7.82253092], [-0.74960422, 11.0890227, 11.01352152]],
    }
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], double(values), rtol=0, atol=1e-8)


def test_the_states_of_a_small_case() -> None:
    (_, a1, logits), (b0, b1, code) = small().states(double(X))
    wanted = {
        a1: [[0.75, -0.18126925, -0.45118836], [-0.22119922, 0.65, 0.7]],
        logits: [[0.26722958, 0.11992161], [-0.18923984, 0.00652031]],
        b1: [[0.3, 0.2, -0.32967995], [-0.09516258, 0.5, 0.6]],
        b0: [[-0.02890399, -0.17483998], [0.27048374, 0.52854877]],
        code: [[1.0, 0.0], [0.0, 1.0]],
    }
    for found, values in wanted.items():
        torch.testing.assert_close(found, double(values), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("loss", "wanted"), [("frobenius", [1.1238441826, 0.7429460479]), ("normalized", [0.3157564366, 0.1379922075])]
)
@pytest.mark.parametrize("form", CounterCurrent.forms)
def test_losses_of_unit_rows(loss: str, wanted: list[float], form: str) -> None:
    found = small(loss=loss, scale=1.0).gradients(double(X), Y, form=form)
    assert [float(value) for value in found[:2]] == pytest.approx(wanted, rel=0, abs=2e-10)


@pytest.mark.parametrize("loss", ["plain", "normalized", "frobenius"])
@pytest.mark.parametrize("ssl", [0.0, 0.3])
@pytest.mark.parametrize("flooding", [0.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
def test_closed_forms_equal_autograd(loss: str, ssl: float, flooding: float, bias: bool) -> None:
    torch.manual_seed(0)
    forward, feedback = net(6, 7, 7, 7, 5, 3, bias=bias), net(3, 5, 7, 7, 7, 6, bias=bias)
    model = CounterCurrent(forward, feedback, loss=loss, ssl=ssl, flooding=flooding)
    x, y = batch(9, 6, 3)
    losses = model.gradients(x, y, form="autograd")
    wanted = gradients(model)
    for form in ("auto", "closed", "batched", "blockwise"):
        found = model.gradients(x, y, form=form)
        torch.testing.assert_close(found, losses, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradients(model), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "activation", [nn.ELU(0.7), nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh(), nn.Sigmoid(), nn.Identity()], ids=str
)
@pytest.mark.parametrize("loss", ["plain", "normalized"])
def test_closed_forms_know_the_activations(activation: nn.Module, loss: str) -> None:
    torch.manual_seed(1)
    model = CounterCurrent(
        net(4, 6, 6, 6, 3, activation=activation), net(3, 6, 6, 6, 4, activation=activation), loss=loss
    )
    x, y = batch(8, 4, 3)
    model.gradients(x, y, form="autograd")
    wanted = gradients(model)
    for form in ("closed", "batched"):
        model.gradients(x, y, form=form)
        torch.testing.assert_close(gradients(model), wanted, rtol=1e-12, atol=1e-12)


def test_flooding_leaves_out_sure_samples() -> None:
    model = small(flooding=0.455, scale=1.0)
    states, feedback = model.states(double(X))
    chance = states[-1].softmax(1)[torch.arange(2), Y]
    kept = (1 - chance >= 0.455).double()[:, None]
    assert 0 < kept.sum() < 2
    target = torch.eye(2).double()
    want = (256 / 3) * ((kept * states[1]) @ feedback[1].mT - target).square().mean()
    torch.testing.assert_close(model.losses(double(X), Y)[1], want)


def test_each_loss_reaches_one_layer_of_each_network() -> None:
    torch.manual_seed(2)
    model = CounterCurrent(net(4, 5, 6, 3))
    x, y = batch(7, 4, 3)
    reach = []
    for loss in model.losses(x, y):
        grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
        names = [name for (name, _), grad in zip(model.named_parameters(), grads, strict=True) if grad is not None]
        reach.append(names)
    assert reach == [
        ["feedback_net.4.weight"],
        ["forward_net.0.weight", "feedback_net.2.weight"],
        ["forward_net.2.weight", "feedback_net.0.weight"],
        ["forward_net.4.weight"],
    ]
    model.gradients(x, y)
    states, _ = model.states(x)  # the output layer is softmax regression on the last hidden state
    delta = (states[-1].softmax(1) - nn.functional.one_hot(y, 3)) / 7
    torch.testing.assert_close(gradients(model)[TOP], delta.mT @ states[-2])


def test_order_of_classes_and_rows_does_not_matter() -> None:
    torch.manual_seed(3)
    model = CounterCurrent(net(4, 5, 6, 3), ssl=0.2)
    x, y = batch(7, 4, 3)
    wanted = model.gradients(x, y)
    turned, order, rows = copy.deepcopy(model), torch.tensor([2, 0, 1]), torch.randperm(7)
    turned.get_parameter(TOP).data = model.get_parameter(TOP).data[order]
    turned.get_parameter(CODES).data = model.get_parameter(CODES).data[:, order]
    torch.testing.assert_close(turned.gradients(x, order.argsort()[y]), wanted)
    torch.testing.assert_close(model.gradients(x[rows], y[rows]), wanted)


def test_fixed_feedback_makes_constant_targets() -> None:
    torch.manual_seed(4)
    model = CounterCurrent(net(4, 5, 6, 3))
    x, y = batch(20, 4, 3)
    before = [b.clone() for b in model.states(x)[1]]
    optimizer = torch.optim.SGD(model.forward_net.parameters(), lr=0.1)
    first = model.step(x, y, optimizer)
    for _ in range(50):
        last = model.step(x, y, optimizer)
    assert all(torch.equal(b, now) for b, now in zip(before, model.states(x)[1], strict=True))
    assert last[0] == first[0]
    assert all(now < then for now, then in zip(last[1:], first[1:], strict=True))
    # a hidden layer's gradient is that of a regression of its state, read out by the constant codes
    hidden = nn.functional.elu(x @ (u := model.get_parameter("forward_net.0.weight").detach().requires_grad_()).mT)
    target = nn.functional.one_hot(y, 3).double()
    (wanted,) = torch.autograd.grad(128 / 5 * (hidden @ before[1].mT - target).square().mean(), u)
    model.gradients(x, y)
    torch.testing.assert_close(gradients(model)["forward_net.0.weight"], wanted)


def test_products_of_a_step_are_counted() -> None:
    """Multiplications and additions of back-propagation at MNIST's size: 2.391 million per sample, the paper's 2.39.
    Counter-current learning has no chain of input gradients, but a second network for the codes."""
    from torch.utils.flop_counter import FlopCounterMode

    widths, rows = (784, 256, 256, 256, 256, 256, 10), 32
    plain = net(*widths).float()
    x, y = torch.randn(rows, 784), torch.randint(10, (rows,))
    with FlopCounterMode(display=False) as counter:
        nn.functional.cross_entropy(plain(x), y).backward()
    assert round(counter.get_total_flops() / rows / 1e6, 3) == 2.391
    model = CounterCurrent(plain)
    for form in ("autograd", "closed"):
        with FlopCounterMode(display=False) as counter:
            model.gradients(x, y, form=form)
        assert 2.5 < counter.get_total_flops() / rows / 1e6 < 2.6


@pytest.mark.parametrize("form", ["closed", "batched"])
def test_the_closed_form_saves_nothing(form: str) -> None:
    saved: list[int] = []
    model = CounterCurrent(net(4, 5, 5, 5, 3))
    x, y = batch(7, 4, 3)

    def pack(t: Tensor) -> Tensor:
        saved.append(t.nbytes)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model.gradients(x, y, form="autograd")
        assert saved
        saved.clear()
        model.gradients(x, y, form=form)
    assert saved == []


def test_each_network_is_clipped_by_itself() -> None:
    x, y = double(X), Y
    model = small()
    model.gradients(x, y)
    grads = gradients(model)
    optimizers = [torch.optim.SGD(part.parameters(), lr=1.0) for part in (model.forward_net, model.feedback_net)]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.step(x, y, *optimizers, max_norm=(0.5, 2.0))
    for part, bound in (("forward_net", 0.5), ("feedback_net", 2.0)):
        mine = {name: grad for name, grad in grads.items() if name.startswith(part)}
        norm = torch.cat([grad.flatten() for grad in mine.values()]).norm()
        for name, grad in mine.items():
            moved = before[name] - model.get_parameter(name).detach()
            torch.testing.assert_close(moved, grad * bound / (norm + 1e-6))


def test_there_is_one_warm_up() -> None:
    """Its factor rises over steps of the whole training, not of each epoch."""
    factors: list[float] = []

    class Watched(CounterCurrent):
        def step(self, *args: Any, factor: float = 1.0, **options: Any) -> list[Tensor]:
            factors.append(factor)
            return super().step(*args, factor=factor, **options)

    model = Watched(net(4, 5, 3))
    x, y = batch(8, 4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.fit(x, y, optimizer, epochs=3, batch_size=4, warm_up=4)
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_convolutions_agree_and_learn() -> None:
    torch.manual_seed(5)
    forward = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ELU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.ELU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 3, bias=False),
    ).double()  # fmt: skip
    model = CounterCurrent(forward, loss="normalized", scale=1.0, ssl=0.5, input_shape=(1, 8, 8))
    assert [tuple(b.shape[1:]) for b in model.states(torch.zeros(2, 1, 8, 8).double())[1]] == [
        (1, 8, 8), (4, 4, 4), (6, 2, 2), (3,)
    ]  # fmt: skip
    x, y = torch.rand(30, 1, 8, 8).double() * 0.1, torch.arange(30) % 3
    for k in range(3):
        x[y == k, :, 2 * k : 2 * k + 3] += 1.0
    losses = model.gradients(x, y, form="autograd")
    wanted = gradients(model)
    assert len(wanted) == 6
    torch.testing.assert_close(model.gradients(x, y), losses)
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-10, atol=1e-12)
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.3) for part in (model.forward_net, model.feedback_net)]
    model.fit(x, y, *optimizers, epochs=20, batch_size=10)
    assert float((model(x).argmax(1) == y).double().mean()) == 1.0


def test_the_autoencoder_learns_and_its_forms_agree() -> None:
    torch.manual_seed(6)
    layers = [
        nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Upsample(scale_factor=2), nn.Conv2d(6, 1, 3, padding=1, bias=False),
    ]  # fmt: skip
    model = CounterCurrentAutoencoder(nn.Sequential(*layers).double(), input_shape=(1, 8, 8))
    model.start_small(1)
    assert model.get_parameter("forward_net.4.weight").any() == 0 == weight_of(model.feedback_net[-1]).any()
    x = torch.linspace(0, 1, 8).double().expand(16, 1, 8, 8) * torch.rand(16, 1, 1, 1).double()
    model.gradients(x, form="autograd")
    wanted = gradients(model)
    model.gradients(x)
    torch.testing.assert_close(gradients(model), wanted, rtol=1e-10, atol=1e-12)
    optimizers = [torch.optim.SGD(part.parameters(), 0.05, 0.9) for part in (model.forward_net, model.feedback_net)]
    history = model.fit(x, None, *optimizers, epochs=60, batch_size=8, max_norm=0.5)
    assert history[-1][-1] < 0.3 * history[0][-1]


def test_the_autoencoder_losses_by_hand() -> None:
    model = CounterCurrentAutoencoder(net(4, 3, 4), scale=0.7, map_scale=0.4)
    x = torch.randn(5, 4).double()
    (a0, a1, a2), (b0, b1, _) = model.states(x)
    ca, cb = (m - m.mean(1, keepdim=True) for m in (a1, b1))
    maps = (ca / ca.norm(dim=1, keepdim=True) - cb / cb.norm(dim=1, keepdim=True)).square().mean()
    wanted = [(a0 - b0).square().mean(), 0.7 * (a1 - b1).square().mean() + 0.4 * maps, (a2 - x).square().mean()]
    torch.testing.assert_close(model.losses(x), wanted)


def test_diagnostics() -> None:
    model = small()
    model.get_parameter(CODES).data = model.get_parameter("forward_net.2.weight").data.mT.clone()
    cosines = [float(c) for c in model.angles()]
    assert cosines[1] == pytest.approx(1.0)
    u, v = double(U1).flatten(), double(V1).mT.flatten()
    assert cosines[0] == pytest.approx(float(u @ v / u.norm() / v.norm()))
    conv, back = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3)
    back.weight.data = conv.weight.data.transpose(0, 1).flip(2, 3)
    assert float(weight_cosine(conv, back).detach()) == pytest.approx(1.0)
    x, y = batch(12, 2, 2)
    states, feedback = model.states(x)
    a, b = states[1] - states[1].mean(0), feedback[1][y] - feedback[1][y].mean(0)
    wanted = (a.mT @ b).square().sum() / ((a.mT @ a).norm() * (b.mT @ b).norm())
    torch.testing.assert_close(model.cka(x, y)[1], wanted)
    q, _ = torch.linalg.qr(torch.randn(2, 2).double())
    torch.testing.assert_close(linear_cka(3 * states[0] @ q, states[0]), torch.ones(()).double())


def test_local_loss_of_a_row_of_zeros_has_finite_gradients() -> None:
    a, b = torch.zeros(2, 3, requires_grad=True), torch.randn(2, 3)
    loss = local_loss(a, b, torch.eye(2), None, Rule("normalized", 1.0, 0.0, 0.0))
    (grad,) = torch.autograd.grad(loss, a)
    assert grad.isfinite().all()


def test_mirror_is_made_of_the_same_kinds() -> None:
    forward = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5), nn.ELU(),
        nn.Dropout(), nn.Linear(5, 3),
    )  # fmt: skip
    kinds = [type(module) for module in mirror(forward, (2, 8, 8))]
    assert kinds == [
        nn.Linear, nn.ELU, nn.Linear, nn.Unflatten, nn.BatchNorm2d, nn.Tanh, nn.Upsample, nn.Conv2d
    ]  # fmt: skip
