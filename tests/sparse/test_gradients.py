"""Gradients of the values equal the gathered dense gradient, for every kind of module and way of running it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.tolerances import ELEMENTWISE

pytestmark = pytest.mark.filterwarnings("ignore:probkernels.sparse.attach", "ignore:Using padding='same'")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 12)
        self.head = nn.Linear(12, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


class Bare(nn.Module):
    """Parameters of its own, used in whatever way."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3, 1, 4))
        self.several = nn.ParameterList([torch.randn(4), torch.randn(4, 2)])

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale.exp() + self.several[0]) @ self.several[1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(6, 5, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


def ids(*shape: int, below: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(below, shape)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(9, 7), normal(4, 9)),
    "linear, many dims": (lambda: nn.Linear(9, 7, bias=False), normal(2, 3, 4, 9)),
    "linear, a vector": (lambda: nn.Linear(9, 7), normal(9)),
    "linear, nothing": (lambda: nn.Linear(9, 7), normal(0, 9)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), normal(2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), normal(2, 3, 7, 8)),
    "conv2d, same, circular": (lambda: nn.Conv2d(3, 5, 3, padding="same", padding_mode="circular"), normal(2, 3, 5, 6)),
    "conv2d, same, even": (lambda: nn.Conv2d(3, 5, (2, 3), padding="same"), normal(2, 3, 5, 6)),
    "conv2d, same, odd": (lambda: nn.Conv2d(3, 5, 3, padding="same"), normal(2, 3, 5, 6)),
    "conv2d, valid, depthwise": (lambda: nn.Conv2d(4, 4, 3, padding="valid", groups=4), normal(2, 4, 6, 6)),
    "conv2d, one image": (lambda: nn.Conv2d(3, 5, 3), normal(3, 7, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, padding=1), normal(1, 2, 4, 3, 5)),
    "transposed conv": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), normal(2, 3, 4, 4)),
    "embedding": (lambda: nn.Embedding(50, 6), ids(3, 4, below=50)),
    "embedding, more ids than rows": (lambda: nn.Embedding(5, 6), ids(30, below=5)),
    "embedding, padding": (lambda: nn.Embedding(50, 6, padding_idx=3), lambda: torch.tensor([3, 1, 3, 7, 1, 49, 0])),
    "embedding, padding, small": (
        lambda: nn.Embedding(8, 6, padding_idx=3),
        lambda: torch.tensor([3, 1, 3, 7, 1, 3, 0, 2]),
    ),
    "embedding, sparse": (lambda: nn.Embedding(50, 6, sparse=True), ids(9, below=50)),
    "embedding, by frequency": (lambda: nn.Embedding(50, 6, scale_grad_by_freq=True), ids(60, below=50)),
    "embedding, by frequency, sparse": (
        lambda: nn.Embedding(50, 6, scale_grad_by_freq=True, padding_idx=2),
        ids(60, below=50),
    ),
    "embedding bag": (lambda: nn.EmbeddingBag(20, 6), ids(5, 4, below=20)),
    "layer norm": (lambda: nn.LayerNorm(8), normal(3, 8)),
    "batch norm": (lambda: nn.BatchNorm2d(4), normal(5, 4, 3, 3)),
    "power norm": (lambda: pk.nn.PowerNorm(8), normal(5, 8)),
    "tied": (Tied, ids(3, 5, below=40)),
    "bare": (Bare, normal(2, 3, 5, 4)),
    "attention": (Attention, normal(2, 5, 8)),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), normal(2, 5, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM), normal(2, 4, 6)),
    "gru": (lambda: Recurrent(nn.GRU), normal(2, 4, 6)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(9, 7)), normal(4, 9)),
}
each_case = pytest.mark.parametrize("case", CASES)
DENSITIES = [0.03, 0.3, 0.8]  # an index list, a bitmap, and one above what is sampled


def build(case: str, dtype: torch.dtype, density: float, values: str = "own") -> tuple[Any, ...]:
    """A plain model, its adapted copy, the adapter and an input."""
    torch.manual_seed(0)
    make_model, make_input = CASES[case]
    plain = make_model().to(dtype)
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)  # norms start as ones and zeros
    adapted = copy.deepcopy(plain)
    adapter = pk.sparse.attach(adapted, density=density, select="random", values=values)
    x = make_input()
    return plain, adapted, adapter, x.to(dtype) if x.is_floating_point() else x


def weighted(y: Tensor) -> Tensor:
    return (
        (y.float() if y.dtype in (torch.half, torch.bfloat16) else y)
        .mul(torch.linspace(-1, 2, y.numel()).view_as(y))
        .sum()
    )


def dense_grads(model: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {n: g.to_dense() if g.is_sparse else g for n, g in found.items()}


def assert_values_match(
    adapter: pk.sparse.Adapter, dense: dict[str, Tensor], dtype: torch.dtype, slack: float = 1
) -> None:
    rtol, atol = (slack * t for t in ELEMENTWISE[dtype])
    selections = adapter.selections
    for name, values in adapter.named_values():
        if values.grad is None:
            assert values.numel() == 0 or not dense[name].any(), name
            continue
        expected = selections[name].gather(dense[name]).to(values.dtype)
        scale = dense[name].abs().max().item() if dense[name].numel() else 1.0
        torch.testing.assert_close(values.grad, expected, rtol=rtol, atol=atol * max(scale, 1), msg=name)


@each_case
@pytest.mark.parametrize("density", DENSITIES)
def test_gradients_are_the_gathered_dense_ones(case: str, density: float) -> None:
    plain, adapted, adapter, x = build(case, torch.float64, density)
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for _ in range(2)]
    outputs = [plain(inputs[0]), adapted(inputs[1])]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
    for y in outputs:
        weighted(y).backward()
    assert_values_match(adapter, dense_grads(plain), torch.float64, slack=10)
    if x.is_floating_point():
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-11, atol=1e-11)
    assert all(p.grad is None for n, p in adapted.named_parameters() if not n.endswith("_values"))


@pytest.mark.parametrize("case", ["linear", "conv2d", "embedding", "attention", "tied"])
def test_gradients_with_values_in_the_weights(case: str) -> None:
    plain, adapted, adapter, x = build(case, torch.float64, 0.3, values="weights")
    weighted(plain(x)).backward()
    weighted(adapted(x)).backward()
    assert_values_match(adapter, dense_grads(plain), torch.float64, slack=10)
    assert all(values.untyped_storage().nbytes() == 8 for values in adapter.parameters())


@pytest.mark.parametrize("case", ["linear", "linear, many dims", "conv2d", "embedding"])
def test_float32_gradients_hold_the_sheets_bound(case: str) -> None:
    plain, adapted, adapter, x = build(case, torch.float32, 0.3)
    weighted(plain(x)).backward()
    weighted(adapted(x)).backward()
    for name, values in adapter.named_values():
        expected = adapter.selections[name].gather(dense_grads(plain)[name])
        assert (values.grad - expected).norm() <= 3e-7 * expected.norm()


@pytest.mark.parametrize("case", ["linear", "conv2d", "embedding", "encoder layer"])
def test_under_no_grad_and_in_evaluation_the_weight_itself_is_used(case: str) -> None:
    plain, adapted, _, x = build(case, torch.float32, 0.3)
    plain.eval(), adapted.eval()
    with torch.no_grad():
        assert torch.equal(adapted(x), plain(x))
    with torch.inference_mode():
        assert torch.equal(adapted(x), plain(x))


# --- autocast, checkpointing, compile ---


@pytest.mark.parametrize("case", ["linear", "linear, many dims", "conv2d", "conv1d", "tied", "encoder layer"])
def test_autocast_computes_in_bfloat16_with_float32_gradients(case: str) -> None:
    plain, adapted, adapter, x = build(case, torch.float32, 0.3)
    outputs = []
    for model in (plain, adapted):
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(model(x))
        weighted(outputs[-1]).backward()
    assert outputs[1].dtype is outputs[0].dtype
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-2, atol=1e-2)
    assert all(values.grad.dtype is torch.float32 for values in adapter.parameters())
    exact, _, _, _ = build(case, torch.float32, 0.3)
    weighted(exact(x)).backward()
    dense = dense_grads(exact)
    for name, values in adapter.named_values():
        expected = adapter.selections[name].gather(dense[name])
        assert (values.grad - expected).norm() < 0.02 * expected.norm() + 1e-3


def test_autocast_gradients_are_not_rounded_to_bfloat16() -> None:
    _, adapted, adapter, x = build("linear, many dims", torch.float32, 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        weighted(adapted(x)).backward()
    grad = adapter.parameters()[0].grad
    assert not torch.equal(grad, grad.bfloat16().float())


@pytest.mark.parametrize("case", ["linear", "conv2d", "embedding", "attention", "encoder layer"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(case: str, reentrant: bool) -> None:
    if reentrant and case == "embedding":
        pytest.skip("reentrant checkpointing needs an input with a gradient")
    _, adapted, adapter, x = build(case, torch.float64, 0.3)
    x.requires_grad_(x.is_floating_point())
    weighted(adapted(x)).backward()
    expected = [values.grad.clone() for values in adapter.parameters()]
    adapted.zero_grad()
    weighted(checkpoint(adapted, x, use_reentrant=reentrant)).backward()
    for values, grad in zip(adapter.parameters(), expected, strict=True):
        assert torch.equal(values.grad, grad)


@pytest.mark.parametrize("case", ["linear", "conv2d, same, even", "embedding, padding", "bare", "encoder layer"])
def test_compiles_whole(case: str) -> None:
    _, adapted, adapter, x = build(case, torch.float64, 0.3)
    y = adapted(x)
    weighted(y).backward()
    expected = [values.grad.clone() for values in adapter.parameters()]
    adapted.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(adapted, backend="aot_eager", fullgraph=True)
    z = compiled(x)
    torch.testing.assert_close(z, y)
    weighted(z).backward()
    for values, grad in zip(adapter.parameters(), expected, strict=True):
        torch.testing.assert_close(values.grad, grad, rtol=1e-11, atol=1e-12)


def test_a_compiled_model_trains_and_sees_every_step() -> None:
    torch.manual_seed(0)
    eager = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    other = copy.deepcopy(eager)
    losses = []
    for model, run in ((eager, eager), (other, torch.compile(other, backend="aot_eager", fullgraph=True))):
        optimizer = torch.optim.AdamW(pk.sparse.attach(model, density=0.4).parameters(), lr=1e-2)
        losses.append([])
        for _ in range(5):
            optimizer.zero_grad()
            loss = run(torch.linspace(-1, 1, 24).view(4, 6)).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0]
    torch.testing.assert_close(losses[1], losses[0])


@pytest.mark.parametrize("case", ["linear", "conv2d", "embedding", "layer norm"])
@pytest.mark.parametrize("values", ["own", "weights"])
def test_second_derivatives_are_the_gathered_dense_ones(case: str, values: str) -> None:
    """Penalties on gradients, of which once_differentiable would silently drop a part."""
    model, adapted, adapter, x = build(case, torch.float64, 0.3, values)

    def penalize(net: nn.Module, leaves: list[Tensor]) -> None:
        leaf = x.detach().clone().requires_grad_(x.is_floating_point())
        y = net(leaf)
        found = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        if net is model:
            found = tuple(adapter.selections[name].gather(g) for (name, _), g in zip(trained, found, strict=True))
        if leaf.requires_grad:  # a penalty on the input's gradient, to which a constant comes down
            found += torch.autograd.grad(y.sum(), leaf, create_graph=True)
        sum(g.square().sum() for g in found).backward()

    trained = [(name, p) for name, p in adapter.named_values() if p.numel()]
    penalize(model, [model.get_parameter(name) for name, _ in trained])
    penalize(adapted, [p for _, p in trained])
    for name, found in trained:
        torch.testing.assert_close(found.grad, adapter.selections[name].gather(model.get_parameter(name).grad))


def test_no_dense_gradient_of_a_sampled_weight_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    _, adapted, _, x = build("linear, many dims", torch.float32, 0.3)
    y = weighted(adapted(x))
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = op(*args, **(kwargs or {}))
            aliases = [t.data_ptr() for t in args if isinstance(t, Tensor)]
            if isinstance(made, Tensor) and made.data_ptr() not in aliases:
                sizes.append(made.shape == adapted.weight.shape)
            return made

    with Watch(), pk.use_backend("cpu"):
        y.backward()
    assert sizes
    assert not any(sizes)
