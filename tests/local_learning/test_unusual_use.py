"""Uses that could go wrong in silence: half precision, copies, writes in place, hooks, unlike blocks, wrong labels."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probkernels import local_learning as ll
from torch import Tensor, nn

from tests.local_learning.noprop_nets import CLASSES, Block, data
from tests.local_learning.test_forward_gnn import LAYERS, blocks, widths

X, EDGES, Y, TRAIN, VAL = blocks()


def learner(kind: str, x: Tensor = X, edges: Tensor = EDGES, y: Tensor = Y, train: Tensor = TRAIN) -> Any:
    if kind == "links":
        model: Any = ll.ForwardLinks(widths("GCN", 6))
        return model.fit(x, edges, edges[:, :9], edges.flip(1)[:, :9], epochs=2, progress=False)
    if kind == "joint":
        model = ll.TopDownForward([ll.GCN(6, 8), ll.GCN(8, 8)], 3, form="none")
    elif kind == "single":
        model = ll.SingleForward(widths("SAGE", 6), 3)
    else:
        model = ll.ForwardForward(widths("GCN", 9 if kind == "labels" else 6), 3, form=kind)
    return model.fit(x, edges, y, train, VAL, epochs=2, progress=False)


KINDS = ["single", "labels", "virtual", "joint", "links"]


def judged(kind: str, model: Any) -> Tensor:
    if kind in ("labels", "virtual"):
        return torch.stack(model.layer_goodness(VAL))
    found: Tensor = model.predict_proba(EDGES[:, :20] if kind == "links" else None)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_learners_are_copied_and_saved(kind: str) -> None:
    model = learner(kind)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(judged(kind, other), judged(kind, model))


@pytest.mark.parametrize("kind", KINDS)
def test_writes_into_the_data_change_no_prediction(kind: str) -> None:
    given = [value.clone() for value in (X, EDGES, Y, TRAIN)]
    model = learner(kind, *given)
    before = judged(kind, model)
    for value in given:
        value.zero_()
    assert torch.equal(judged(kind, model), before)


def test_a_graph_keeps_its_edges() -> None:
    edges, layer = EDGES.clone(), ll.GAT(6, 8)
    graph = ll.Graph(edges, 40)
    edges.zero_()
    assert torch.equal(layer(X, graph), layer(X, EDGES))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("how", ["autocast", "bfloat16", "float16"])
def test_layers_in_half_precision(kind: str, how: str) -> None:
    layer = LAYERS[kind](6, 8)
    wanted = layer(X, EDGES)
    wanted.square().sum().backward()
    half = copy.deepcopy(layer)
    half.zero_grad()
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = half(X, EDGES)
    else:
        half = half.to(getattr(torch, how))
        found = half(X.to(getattr(torch, how)), EDGES)
        assert found.dtype == getattr(torch, how)
    torch.testing.assert_close(found.float(), wanted, rtol=0.03, atol=0.03)
    found.float().square().sum().backward()
    for p, q in zip(half.parameters(), layer.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and p.grad.dtype == p.dtype
        assert float((p.grad.float() - q.grad).norm()) < 0.03 * float(q.grad.norm())


def test_a_hub_in_half_precision() -> None:
    """A degree beyond the range of float16."""
    n = 70_000
    edges = torch.stack([torch.arange(1, n), torch.zeros(n - 1, dtype=torch.long)])
    layer = ll.SAGE(1, 1).half()
    with torch.no_grad():
        out = layer(torch.ones(n, 1, dtype=torch.float16), edges)[0]
    torch.testing.assert_close(out, (layer.neighbor_weight + layer.self_weight)[0] + layer.bias, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("x", [X.double(), X.bfloat16(), X.long()])
@pytest.mark.parametrize("kind", LAYERS)
def test_features_of_another_dtype_are_named(kind: str, x: Tensor) -> None:
    with pytest.raises(TypeError, match=r"'x': expected dtype torch\.float32, that of the layer"):
        LAYERS[kind](6, 8)(x, EDGES)


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_sparse_features_have_no_gradient_in_silence(layout: torch.layout) -> None:
    x = (X.to_sparse_csr() if layout is torch.sparse_csr else X.to_sparse_coo()).requires_grad_()
    with pytest.raises(ValueError, match="'x': expected sparse features without a gradient"):
        ll.GCN(6, 8)(x, EDGES)
    with torch.no_grad():
        torch.testing.assert_close(ll.GCN(6, 8)(x, EDGES).shape, (40, 8))


@pytest.mark.parametrize("kind", ["single", "labels", "joint"])
def test_judging_checks_labels_and_masks(kind: str) -> None:
    model = learner(kind)
    wrong: list[tuple[type[Exception], str, Tensor, Tensor]] = [
        (ValueError, "'y': expected classes 0 to 2 of the masked nodes, got 3", Y + 1, VAL),
        (ValueError, "'y': expected shape", Y[:, None], VAL),
        (ValueError, "'y': expected shape", Y[VAL], VAL),
        (TypeError, "'y': expected an integer tensor", Y.float(), VAL),
        (ValueError, "'mask': expected at least one node", Y, VAL & False),
        (TypeError, "'mask': expected a bool tensor", Y, VAL.nonzero()[:, 0]),
    ]
    for error, match, y, mask in wrong:
        with pytest.raises(error, match=match):
            model.layer_accuracy(y, mask)
    assert model.layer_accuracy(torch.where(VAL, Y, -1), VAL) == model.layer_accuracy(Y, VAL)


def test_judging_links_needs_both_kinds() -> None:
    model = learner("links")
    with pytest.raises(ValueError, match="'others': expected shape"):
        model.layer_auroc(EDGES, EDGES[:, :0])


def _net() -> ll.CounterCurrent:
    torch.manual_seed(0)
    return ll.CounterCurrent(nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 3)))


def _hooked(net: ll.CounterCurrent) -> None:
    net.forward_net[2].register_forward_hook(lambda module, args, out: 2 * out)


def _backward_hooked(net: ll.CounterCurrent) -> None:
    net.feedback_net[1].register_full_backward_hook(lambda module, into, out: (2 * into[0],))


def _parameter_hooked(net: ll.CounterCurrent) -> None:
    net.forward_net[0].weight.register_hook(lambda grad: 2 * grad)


def _accumulate_hooked(net: ll.CounterCurrent) -> None:
    def double(p: Tensor) -> None:
        assert p.grad is not None
        p.grad.mul_(2)

    net.forward_net[0].weight.register_post_accumulate_grad_hook(double)


def _patched(net: ll.CounterCurrent) -> None:
    layer = net.forward_net[0]
    layer.forward = lambda x: 5 * nn.functional.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("change", [_hooked, _backward_hooked, _parameter_hooked, _accumulate_hooked, _patched])
def test_closed_form_takes_no_changed_modules(change: Callable[[ll.CounterCurrent], None]) -> None:
    grads = []
    for form in ("autograd", "auto"):
        net = _net()
        change(net)
        net.gradients(X, Y, form=form)
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*grads)
    with pytest.raises(ValueError, match="for this form"):
        net.gradients(X, Y, form="closed")


def test_gradients_under_autocast() -> None:
    grads = []
    with torch.autocast("cpu", torch.bfloat16):
        for form in ("autograd", "auto"):
            net = _net()
            net.gradients(X, Y, form=form)
            grads.append([p.grad for p in net.parameters()])
        with pytest.raises(
            ValueError, match="'form': expected a form of autograd in an autocast region, got 'batched'"
        ):
            net.gradients(X, Y, form="batched")
    torch.testing.assert_close(*grads)


def test_optimizers_of_other_networks_are_refused() -> None:
    net, other = _net(), _net()
    before = copy.deepcopy(net.state_dict())
    wrong, right = (torch.optim.SGD(n.forward_net.parameters(), lr=1.0) for n in (other, net))
    with pytest.raises(ValueError, match="'optimizer_f': expected an optimizer of forward_net's parameters"):
        net.step(X, Y, wrong)
    with pytest.raises(ValueError, match="'optimizer_b': expected an optimizer of feedback_net's parameters"):
        net.fit(X, Y, right, right, epochs=1, batch_size=9)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Scaled(Block):
    """A block with attributes beside its layers."""

    def __init__(self, factor: Any, act: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.factor, self.act = factor, act

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.act(super().forward(z, x)) * self.factor


def _scaling(k: float) -> Callable[[Tensor], Tensor]:
    return lambda x: k * x


def _fit(first: nn.Module, second: nn.Module, **options: Any) -> list[float]:
    return ll.fit_noprop(ll.NoPropDT([first, second], CLASSES), *data(), epochs=1, progress=False, **options)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("factor", Scaled(1.0), Scaled(2.0)),
        ("factor", Scaled(torch.ones(1)), Scaled(torch.zeros(1))),
        ("factor", Scaled(1.0), Scaled(torch.ones(1))),
        ("act", Scaled(1.0), Scaled(1.0, torch.sin)),
        ("act", Scaled(1.0, nn.functional.elu), Scaled(1.0, nn.functional.relu)),
        ("act", Scaled(1.0, _scaling(1.0)), Scaled(1.0, _scaling(2.0))),
        ("net.0.weight.requires_grad", Scaled(1.0), Scaled(1.0)),
    ],
)
def test_stacked_blocks_agree_in_attributes(name: str, first: Block, second: Block) -> None:
    if "requires_grad" in name:
        second.net[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=rf"'blocks\[1\]': expected '{name}' as in blocks\[0\].*stacked=False"):
        _fit(first, second)
    before = second.net[0].weight.clone()
    assert len(_fit(first, second, stacked=False)) == 1
    assert torch.equal(before, second.net[0].weight) == ("requires_grad" in name)


def test_blocks_with_equal_attributes_are_stacked() -> None:
    one, other = (Scaled(torch.ones(1), _scaling(3.0)) for _ in range(2))
    assert len(_fit(one, other)) == 1


@pytest.mark.parametrize("negatives", [1, 2, None])
def test_forward_forward_loss_has_all_wrong_classes(negatives: int | None) -> None:
    torch.manual_seed(0)
    layer = ll.GCN(9, 8)
    given = copy.deepcopy(layer)
    model = ll.ForwardForward([layer], 3, negatives=negatives)
    loss = model.fit(X, EDGES, Y, TRAIN, epochs=1, progress=False).history_[0].losses[0]

    def logits(labels: Tensor) -> Tensor:
        shown = torch.where(TRAIN[:, None], torch.eye(3)[labels], 1 / 3)
        rows = torch.cat([X, shown], 1)
        rows = rows / rows.norm(dim=1, keepdim=True)
        return ll.goodness(given(rows, EDGES).relu())[TRAIN]

    assert model._data is not None
    wrong = model._wrong_classes(model._data)
    assert len(wrong) == (negatives or 2) and bool((wrong != Y).all())
    softplus = nn.functional.softplus
    wanted = softplus(-logits(Y)).mean() + torch.stack([softplus(logits(labels)).mean() for labels in wrong]).mean()
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
