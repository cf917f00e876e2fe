"""Values changed behind torch's version counters, given by functional calls, and differentiated by torch.func."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import probkernels as pk
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

pytestmark = pytest.mark.filterwarnings("ignore:probkernels.sparse.attach", "ignore:There is a performance drop")
BOTH = pytest.mark.parametrize("values", ["own", "weights"])


def make(values: str = "own", density: float = 0.4) -> tuple[nn.Sequential, pk.sparse.Adapter, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return model, pk.sparse.attach(model, density=density, values=values), torch.randn(4, 6, dtype=torch.float64)


def plain(adapter: pk.sparse.Adapter, values: dict[str, Tensor], x: Tensor, model: nn.Module | None = None) -> Tensor:
    """What a plain model computes whose weights hold the given values; differentiable in them."""
    state = dict((model or make()[0]).state_dict())
    for name, selection in adapter.selections.items():
        index = selection.to_index().long()
        flat = state[name].flatten()
        state[name] = flat.index_put((index,), values[name].to(flat.dtype)).view(state[name].shape)
    twin = copy.deepcopy(adapter.model)
    return functional_call(pk.sparse.Adapter.of(twin).detach(), state, (x,))


def named(adapter: pk.sparse.Adapter) -> dict[str, Tensor]:
    return {name: values.detach().clone() for name, values in adapter.named_values()}


def as_given(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}_values": v for name, v in values.items()}


# --- changes that no version counter tells ---


def by_data(adapter: pk.sparse.Adapter) -> None:
    for p in adapter.parameters():
        p.data.add_(1)


def by_vector(adapter: pk.sparse.Adapter) -> None:
    vector_to_parameters(parameters_to_vector(adapter.parameters()) + 1, adapter.parameters())


def in_inference_mode(adapter: pk.sparse.Adapter) -> None:
    with torch.inference_mode():
        for p in adapter.parameters():
            p.add_(1)


def by_new_data(adapter: pk.sparse.Adapter) -> None:
    for p in adapter.parameters():
        p.data = p.data + 1


@pytest.mark.parametrize("change", [by_data, by_vector, in_inference_mode, by_new_data])
def test_values_are_seen_however_they_were_changed(change: Callable[[Any], None]) -> None:
    model, adapter, x = make()
    expected = plain(adapter, {n: v + 1 for n, v in named(adapter).items()}, x)
    model(x)
    change(adapter)
    assert torch.equal(model(x), expected)
    change(adapter)
    adapter.sync()
    assert torch.equal(
        adapter.selections["0.weight"].gather(model[0]._parameters["weight"]), named(adapter)["0.weight"]
    )
    adapter.delta()
    change(adapter)
    assert torch.equal(adapter.delta().parts["0.weight"].values, named(adapter)["0.weight"])


def test_an_average_is_copied_in_and_taken_out_again() -> None:
    """As diffusers' EMAModel does it: copies of all parameters, written back by ``param.data.copy_``."""
    model, adapter, x = make()
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-2)
    shadow = [p.clone().detach() for p in model.parameters()]
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            for s, p in zip(shadow, model.parameters(), strict=True):
                s.sub_(0.1 * (s - p)) if p.requires_grad else s.copy_(p)
    live, stored = model(x).detach(), [p.detach().clone() for p in model.parameters()]
    for s, p in zip(shadow, model.parameters(), strict=True):
        p.data.copy_(s)
    names = [n for n, _ in model.named_parameters()]
    averaged = {n.removesuffix("_values"): s for n, s in zip(names, shadow, strict=True) if n.endswith("_values")}
    assert torch.equal(model(x), plain(adapter, averaged, x))
    assert not torch.allclose(model(x), live, rtol=1e-3)
    for s, p in zip(stored, model.parameters(), strict=True):
        p.data.copy_(s)
    assert torch.equal(model(x), live)


def test_sharpness_aware_steps_see_the_climbed_values() -> None:
    model, adapter, x = make(density=0.9)
    model(x).square().mean().backward()
    climbed = {n: v.detach() + 0.5 * v.grad for n, v in adapter.named_values()}
    for p in adapter.parameters():
        p.data.add_(p.grad, alpha=0.5)
    got = torch.autograd.grad(model(x).square().mean(), adapter.parameters())
    leaves = {n: v.requires_grad_() for n, v in climbed.items()}
    expected = torch.autograd.grad(plain(adapter, leaves, x).square().mean(), list(leaves.values()))
    torch.testing.assert_close(got, expected)


def test_what_is_equal_is_not_written_again() -> None:
    model, adapter, x = make()
    with torch.no_grad():
        adapter.parameters()[0][0] = float("nan")  # equals itself
    loss = model(x).sum()
    versions = [p._version for p in model.parameters()]
    adapter.sync(), model.state_dict(), model(x), adapter.delta()
    assert [p._version for p in model.parameters()] == versions
    loss.backward()
    by_data(adapter)
    adapter.sync()
    assert [p._version for p in model.parameters()] != versions


def test_a_model_made_in_inference_mode_is_adapted() -> None:
    with torch.inference_mode():
        model = nn.Linear(6, 3)
        adapter = pk.sparse.attach(model, density=0.5)
        before = model(torch.ones(6))
        for p in adapter.parameters():
            p.add_(1)
        assert not torch.equal(model(torch.ones(6)), before)


# --- functional calls ---


@pytest.mark.parametrize("density", [0.1, 0.4, 0.9])
def test_a_functional_call_computes_with_what_it_is_given_and_writes_nothing(density: float) -> None:
    model, adapter, x = make(density=density)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.0)
    model(x).sum().backward()
    optimizer.step()
    loss, before = model(x).sum(), {n: p.detach().clone() for n, p in model.named_parameters()}
    fast = {n: v.clone() for n, v in named(adapter).items()}
    for _ in range(adapter.parameters()[0]._version):  # a version that the values have, too
        for v in fast.values():
            v.add_(1)
    expected = plain(adapter, fast, x)
    for recording in (True, False):
        with torch.set_grad_enabled(recording):
            assert torch.equal(functional_call(model, as_given(fast), (x,)), expected)
            mine = {n: nn.Parameter(v) for n, v in as_given(fast).items()}
            assert torch.equal(functional_call(model, mine, (x,)), expected)
    loss.backward()  # nothing that it needs was written
    for n, p in model.named_parameters():
        assert torch.equal(p, before[n])


def test_weights_that_a_functional_call_gives_are_used_whole_and_differentiated() -> None:
    model, adapter, x = make()
    other = {n: torch.randn_like(t).requires_grad_() for n, t in model.state_dict().items()}
    bare = copy.deepcopy(model)
    pk.sparse.Adapter.of(bare).detach()
    got, expected = functional_call(model, other, (x,)), functional_call(bare, other, (x,))
    assert torch.equal(got, expected)
    grads = [torch.autograd.grad(y.square().sum(), list(other.values())) for y in (got, expected)]
    torch.testing.assert_close(grads[0], grads[1])
    both = {**{n: t.detach() for n, t in other.items()}, **as_given(named(adapter))}
    assert torch.equal(functional_call(model, both, (x,)), plain(adapter, named(adapter), x, Holder(other)))
    frozen = {n: nn.Parameter(t.detach().clone(), requires_grad=False) for n, t in other.items()}
    functional_call(model, frozen, (x,))
    assert all(torch.equal(frozen[n], t) for n, t in other.items())


class Holder(nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.held = {n: t.detach().clone() for n, t in state.items()}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.held


@BOTH
def test_inner_steps_of_meta_learning_are_differentiated_twice(values: str) -> None:
    model, adapter, x = make(values)
    if values == "own":
        start = {n: v.requires_grad_() for n, v in named(adapter).items()}
        real = start
    else:  # placeholders of zero: what is given is added
        start = {n: torch.zeros_like(v, memory_format=torch.contiguous_format) for n, v in named(adapter).items()}
        start = {n: v.requires_grad_() for n, v in start.items()}
        held = make()[0].state_dict()
        real = {n: s.gather(held[n]).requires_grad_() for n, s in adapter.selections.items()}

    def meta(run: Callable[[dict[str, Tensor]], Tensor], leaves: dict[str, Tensor]) -> Any:
        first = torch.autograd.grad(run(leaves).square().mean(), list(leaves.values()), create_graph=True)
        fast = {n: v - 0.5 * g for (n, v), g in zip(leaves.items(), first, strict=True)}
        loss = run(fast).sin().sum()
        return loss, torch.autograd.grad(loss, list(leaves.values()))

    got = meta(lambda v: functional_call(model, as_given(v), (x,)), start)
    expected = meta(lambda v: plain(adapter, v, x), real)
    torch.testing.assert_close(got, expected)


def test_an_ensemble_runs_under_vmap() -> None:
    models = [make()[0] for _ in range(3)]
    x = torch.randn(4, 6, dtype=torch.float64)
    for k, model in enumerate(models):
        with torch.no_grad():
            for p in pk.sparse.Adapter.of(model).parameters():
                p.add_(k)
    stacked, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0])
    got = vmap(lambda p, b: functional_call(skeleton, (p, b), (x,)))(stacked, buffers)
    torch.testing.assert_close(got, torch.stack([model(x) for model in models]))


# --- torch.func ---


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(6, 5), lambda: torch.randn(3, 6)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular"), lambda: torch.randn(3, 3, 5, 5)),
    "embedding": (lambda: nn.Embedding(9, 4, padding_idx=2), lambda: torch.randint(9, (3, 4))),
    "layer norm": (lambda: nn.LayerNorm(6), lambda: torch.randn(3, 6)),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(6, 2, 7, dropout=0.0, batch_first=True),
        lambda: torch.randn(3, 2, 6),
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def adapted(kind: str, density: float = 0.3) -> tuple[nn.Module, pk.sparse.Adapter, Tensor]:
    torch.manual_seed(0)
    make_model, make_input = KINDS[kind]
    model = make_model().double()
    x = make_input()
    adapter = pk.sparse.attach(model, density=density, select="random")
    return model, adapter, x.double() if x.is_floating_point() else x


@each_kind
@pytest.mark.parametrize("density", [0.05, 0.3, 0.8])
def test_gradients_by_sample(kind: str, density: float) -> None:
    model, adapter, x = adapted(kind, density)
    values = as_given(named(adapter))

    def loss(given: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, given, (sample.unsqueeze(0),)).square().sum()

    got = vmap(grad(loss), (None, 0))(values, x)
    for k in range(len(x)):
        model.zero_grad()
        model(x[k : k + 1]).square().sum().backward()
        for name, held in adapter.named_values():
            if held.numel():
                expected = torch.zeros_like(held) if held.grad is None else held.grad
                torch.testing.assert_close(got[f"{name}_values"][k], expected)


@each_kind
def test_vmap_over_inputs_is_differentiated_from_outside(kind: str) -> None:
    model, adapter, x = adapted(kind)
    vmap(lambda sample: model(sample.unsqueeze(0)))(x).square().sum().backward()
    got = [p.grad for p in adapter.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for p, g in zip(adapter.parameters(), got, strict=True):
        torch.testing.assert_close(g, p.grad)


@pytest.mark.parametrize("kind", ["linear", "conv", "layer norm"])
def test_jacobians_in_both_modes(kind: str) -> None:
    model, adapter, x = adapted(kind)
    bare = pk.sparse.Adapter.of(copy.deepcopy(model)).detach()
    with torch.no_grad():
        bare.load_state_dict(model.state_dict())
    expected = jacrev(bare)(x)
    torch.testing.assert_close(jacrev(model)(x), expected)
    torch.testing.assert_close(jacfwd(model)(x), expected)
    values, tangent = as_given(named(adapter)), {n: torch.randn_like(v) for n, v in as_given(named(adapter)).items()}
    got = jvp(lambda v: functional_call(model, v, (x,)), (values,), (tangent,))[1]
    step = 1e-6
    ends = [
        functional_call(model, {n: v + s * step * tangent[n] for n, v in values.items()}, (x,)) for s in (1.0, -1.0)
    ]
    torch.testing.assert_close(got, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        pushed = torch.autograd.forward_ad.unpack_dual(model(dual)).tangent
    torch.testing.assert_close(pushed, jvp(bare, (x,), (torch.ones_like(x),))[1])
    hessian(lambda v: functional_call(model, v, (x,)).square().sum())(values)


@pytest.mark.parametrize("kind", ["linear", "conv", "embedding", "layer norm"])
def test_batched_gradients_of_the_sampled_backward(kind: str) -> None:
    model, adapter, x = adapted(kind)
    y = model(x)
    cotangents = torch.randn(3, *y.shape, dtype=y.dtype)
    leaves = [p for p in adapter.parameters() if p.numel()]
    got = torch.autograd.grad(y, leaves, cotangents, retain_graph=True, is_grads_batched=True)
    for k in range(3):
        torch.testing.assert_close(
            [g[k] for g in got], list(torch.autograd.grad(y, leaves, cotangents[k], retain_graph=True))
        )


def test_a_compiled_functional_call_computes_with_what_it_is_given() -> None:
    model, adapter, x = make()
    given = as_given({n: v + 1 for n, v in named(adapter).items()})
    expected = functional_call(model, given, (x,))
    run = torch.compile(lambda v, x: functional_call(model, v, (x,)), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(given, x), expected)
    torch.testing.assert_close(run(as_given(named(adapter)), x), model(x))


def test_export_holds_values_and_weights() -> None:
    model, _, x = make()
    made = torch.export.export(model, (x,))
    torch.testing.assert_close(made.module()(x), model(x))


# --- values that live in the weights ---


def test_what_is_given_for_a_placeholder_is_added() -> None:
    model, adapter, x = make("weights")
    held = {n: s.gather(model.state_dict()[n]) for n, s in adapter.selections.items()}
    zeros = as_given(named(adapter))
    assert torch.equal(functional_call(model, zeros, (x,)), model(x))
    moved = functional_call(model, {n: v + 0.5 for n, v in zeros.items()}, (x,))
    torch.testing.assert_close(moved, plain(adapter, {n: v + 0.5 for n, v in held.items()}, x))


def test_placeholders_that_were_written_to_are_refused() -> None:
    model, adapter, x = make("weights")
    vector_to_parameters(torch.ones(adapter.count).double(), adapter.parameters())
    with pytest.raises(ValueError, match="values='own'"):
        model(x)
    with pytest.raises(ValueError, match="values='own'"):
        model.state_dict()


# --- what is refused ---


def test_a_merged_model_refuses_given_values() -> None:
    model, adapter, x = make()
    given = as_given(named(adapter))
    adapter.merge(0.5)
    with pytest.raises(ValueError, match="unmerge"):
        functional_call(model, given, (x,))
    with pytest.raises(ValueError, match="unmerge"):
        vmap(lambda sample: functional_call(model, given, (sample,)))(x)


@BOTH
def test_a_merged_model_takes_aliases_of_its_own_values(values: str) -> None:
    model, adapter, x = make(values)
    adapter.merge(0.5)
    aliases = {name: nn.Parameter(p.detach()) for name, p in model.named_parameters()}
    assert torch.equal(functional_call(model, aliases, (x,)), model(x))


def test_replaced_values_are_refused() -> None:
    model, adapter, x = make()
    model[0].weight_values = nn.Parameter(named(adapter)["0.weight"] + 1)
    model(x).sum().backward()
    assert model[0].weight_values.grad is not None
    for wrong in (adapter.delta, adapter.parameters, model.state_dict):
        with pytest.raises(ValueError, match="weight_values"):
            wrong()
