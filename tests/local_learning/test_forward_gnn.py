"""Single-forward learning: the sheet's oracles, layers, caching, bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from probkernels import local_learning as ll
from probkernels.local_learning import _layers, graph
from torch import nn

PATH = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
LAYERS = {"GCN": ll.GCN, "SAGE": ll.SAGE, "GAT": ll.GAT}


def unit_gcn() -> ll.GCN:
    layer = ll.GCN(2, 2)
    nn.init.eye_(layer.weight)
    return layer


def still(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


def blocks(n: int = 40, classes: int = 3, width: int = 6, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """A small stochastic block model: features, edges, classes, training and validation masks."""
    gen = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    chance = torch.where(y[:, None] == y, 0.5, 0.05)
    upper = (torch.rand(n, n, generator=gen) < chance).triu(1)
    edges = (upper | upper.t()).nonzero().t()
    x = F.one_hot(y, width).float() + torch.randn(n, width, generator=gen)
    place = torch.randperm(n, generator=gen)
    return x, edges, y, place < n // 2, (place >= n // 2) & (place < 3 * n // 4)


def widths(kind: str, first: int, count: int = 2) -> list[nn.Module]:
    torch.manual_seed(1)
    return [LAYERS[kind](first if at == 0 else 8, 8) for at in range(count)]


def tiny(layer: nn.Module, **options: Any) -> ll.SingleForward:
    virtual = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    model = ll.SingleForward([layer], 2, virtual=virtual, optimizer=still, **options)
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 0])
    return model.fit(x, PATH, y, torch.tensor([True, True, False]), epochs=1, progress=False)


def test_hidden_states_logits_and_loss_by_hand() -> None:
    model = tiny(unit_gcn())
    assert model._graph.gcn(torch.float32).dense().diagonal().reciprocal().tolist() == pytest.approx([3, 4, 2, 2, 2])
    h = model.states()[0]
    expected = [[0.62200846, 0], [0.28867513, 0.75], [0.35355339, 0.70710678], [0.76180167, 0], [0, 0.70710678]]
    torch.testing.assert_close(h, torch.tensor(expected))
    logits = model.logits(h, torch.tensor([True, True, False]))
    torch.testing.assert_close(logits, torch.tensor([[0.47384709, 0], [0.2199132, 0.53033008]]))
    assert model.history_[0].losses == pytest.approx([0.51698342], abs=1e-6)


def test_unidirectional_class_nodes_send_nothing() -> None:
    model = tiny(unit_gcn(), bidirectional=False)
    assert model._graph.edge_index[:, 4:].tolist() == [[0, 1], [3, 4]]


def test_training_a_layer_leaves_the_lower_ones_alone() -> None:
    x, edges, y, train, val = blocks()
    one, two = (ll.SingleForward(widths("GCN", 6, count), 3) for count in (1, 3))
    two.layers[0].load_state_dict(one.layers[0].state_dict())
    one.fit(x, edges, y, train, val, epochs=6, progress=False)
    two.fit(x, edges, y, train, val, epochs=6, progress=False)
    for name, value in one.layers[0].state_dict().items():
        assert torch.equal(value, two.layers[0].state_dict()[name])


def test_the_loss_of_a_layer_has_no_derivative_in_others() -> None:
    x, edges, y, train, _ = blocks()
    model = ll.SingleForward(widths("SAGE", 6), 3).fit(x, edges, y, train, epochs=1, progress=False)
    call = _layers.frozen(model.layers[1], graph.Features(model.states()[0]).normalized(), model._graph)
    loss = F.cross_entropy(model.logits(call(), train), y[train])
    grads = [torch.autograd.grad(loss, list(layer.parameters()), allow_unused=True, retain_graph=True)
             for layer in model.layers]  # fmt: skip
    assert all(grad is None for grad in grads[0])
    assert all(grad is not None for grad in grads[1])


@pytest.mark.parametrize("kind", ["GCN", "SAGE"])
def test_cached_propagation_gives_the_same_loss_and_gradients(kind: str) -> None:
    x, edges, _, train, _ = blocks()
    layer = widths(kind, 6, 1)[0].double()
    found = []
    for cached in (True, False):
        given, nodes = graph.Features(x.double()).normalized(), ll.Graph(edges, 40)
        call = _layers.frozen(layer, given, nodes) if cached else (lambda: layer(given.dense(), edges).relu())  # noqa: B023
        loss = call()[train].square().sum()
        found.append([loss, *torch.autograd.grad(loss, list(layer.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sparse_features_equal_dense_ones(kind: str, layout: torch.layout) -> None:
    x, edges, y, train, val = blocks()
    x = torch.where(x > 0.5, x, 0.0).double()
    x[3] = 0
    given = x.to_sparse_csr() if layout is torch.sparse_csr else x.to_sparse_coo()
    probs = []
    for features in (x, given):
        layers = [layer.double() for layer in widths(kind, 6)]
        model = ll.SingleForward(layers, 3).fit(features, edges, y, train, val, epochs=20, progress=False)
        probs.append(model.predict_proba())
    torch.testing.assert_close(*probs)


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_equal_their_definitions(kind: str) -> None:
    """Against dense matrices. Node 4 is isolated, node 0 has a self loop that is given twice."""
    edges = torch.tensor([[0, 0, 0, 1, 2, 3, 1], [0, 0, 1, 2, 3, 1, 0]])
    layer = LAYERS[kind](3, 4, **({"heads": 2} if kind == "GAT" else {})).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(5, 3, dtype=torch.float64)
    counts = torch.zeros(5, 5, dtype=torch.float64).index_put_((edges[1], edges[0]), torch.ones(7).double(), True)
    looped = counts.clone().fill_diagonal_(1)
    if kind == "GCN":
        root = looped.sum(1).rsqrt()
        expected = root[:, None] * looped * root @ x @ layer.weight.t() + layer.bias
    elif kind == "SAGE":
        mean = counts / counts.sum(1, keepdim=True).clamp(min=1)
        expected = mean @ x @ layer.neighbor_weight.t() + x @ layer.self_weight.t() + layer.bias
    else:
        parts = []
        for head in range(2):
            h = x @ layer.weight[2 * head : 2 * head + 2].t()
            scores = F.leaky_relu((h @ layer.target_attention[head])[:, None] + h @ layer.source_attention[head], 0.2)
            weights = looped * scores.exp()
            parts.append(weights / weights.sum(1, keepdim=True) @ h)
        expected = torch.cat(parts, 1) + layer.bias
    torch.testing.assert_close(layer(x, edges), expected)
    torch.testing.assert_close(layer(x, ll.Graph(edges, 5)), expected)
    inputs = [x.requires_grad_(), *layer.parameters()]
    assert torch.autograd.gradcheck(lambda *_: layer(x, edges), inputs)


def test_relabeling_permutes_the_probabilities() -> None:
    x, edges, y, train, val = blocks()
    virtual, order = torch.randn(3, 6), torch.tensor([2, 0, 1])
    probs = []
    for labels, features in ((y, virtual), (order[y], virtual[order.argsort()])):
        model = ll.SingleForward([layer.double() for layer in widths("GCN", 6)], 3, virtual=features.double())
        model.fit(x.double(), edges, labels, train, val, epochs=10, progress=False)
        probs.append(model.predict_proba())
    torch.testing.assert_close(probs[0], probs[1][:, order], rtol=1e-10, atol=1e-10)


def saved_bytes(step: Any) -> int:
    kept = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.data_ptr()] = t.nbytes
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        step()
    return sum(kept.values())


def test_bytes_kept_for_backward_do_not_grow_with_depth() -> None:
    x, edges, y, train, _ = blocks(width=8)
    most = []
    for depth in (2, 4, 8):
        model = ll.SingleForward(widths("GCN", 8, depth), 3).fit(x, edges, y, train, epochs=1, progress=False)
        inputs, kept = [model._features, *map(graph.Features, model.states()[:-1])], []
        for layer, given in zip(model.layers, inputs, strict=True):
            loss = model._loss(_layers.frozen(layer, given.normalized(), model._graph), model._data)
            kept.append(saved_bytes(lambda loss=loss: loss().backward()))
        most.append(max(kept))
    assert most[0] == most[1] == most[2] > 0


def test_without_edges_a_layer_is_linear_with_prototypes() -> None:
    """One-way class edges leave the nodes alone."""
    x, _, y, train, _ = blocks()
    layer = ll.GCN(6, 5)
    model = ll.SingleForward([layer], 3, bidirectional=False)
    model.fit(x, torch.empty(2, 0, dtype=torch.long), y, train, epochs=3, progress=False)
    h = F.linear(F.normalize(x), layer.weight, layer.bias).relu()
    prototypes = model.states()[0][40:]
    torch.testing.assert_close(model.predict_proba(), (h @ prototypes.t()).softmax(1))


def test_prediction_averages_layers_and_training_reports_them() -> None:
    x, edges, y, train, val = blocks()
    model = ll.SingleForward(widths("GCN", 6, 3), 3).fit(x, edges, y, train, val, epochs=60, patience=9, progress=False)
    probs = model.layer_probs()
    torch.testing.assert_close(model.predict_proba(), sum(probs) / 3)
    torch.testing.assert_close(model.predict_proba(val), model.predict_proba()[val])
    assert model.layer_accuracy(y, val, cumulative=True) == pytest.approx(
        [max(report.scores) for report in model.history_]
    )
    assert all(report.scores.index(max(report.scores)) == report.best for report in model.history_)
    assert len(model.layer_accuracy(y, val)) == 3


def test_validation_comes_every_second_epoch_and_stops_early() -> None:
    x, edges, y, train, val = blocks()
    model = ll.SingleForward(widths("GCN", 6, 1), 3, optimizer=still)
    model.fit(x, edges, y, train, val, epochs=50, patience=3, progress=False)
    assert (len(model.history_[0].losses), len(model.history_[0].scores), model.history_[0].best) == (8, 4, 0)


class Foreign(nn.Module):
    """A module as PyG writes them: its own `propagate`, only tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        assert type(x) is torch.Tensor and x.layout is torch.strided and type(edge_index) is torch.Tensor
        return self.propagate(edge_index, x=self.lin(x))

    def propagate(self, edge_index: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x.index_add(0, edge_index[1], x[edge_index[0]])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_modules_are_layers() -> None:
    x, edges, y, train, val = blocks()
    model = ll.SingleForward([Foreign(), ll.GAT(8, 8)], 3)
    model.fit(x.to_sparse_csr(), edges, y, train, val, epochs=60, progress=False)
    assert [report.losses[-1] < report.losses[0] for report in model.history_] == [True, True]
    assert model.predict_proba(train).argmax(1).eq(y[train]).double().mean() > 0.6


def test_isolated_nodes_empty_classes_and_unread_labels() -> None:
    x, edges, y, train, val = blocks()
    edges = edges[:, (edges > 3).all(0)]
    y = y.clone()
    y[~train & ~val] = -7
    model = ll.SingleForward(widths("GCN", 6), 4)  # class 3 has no node
    model.fit(x, edges, y, train, val, epochs=30, progress=False)
    probs = model.predict_proba()
    assert probs.shape == (40, 4) and probs.isfinite().all()
    torch.testing.assert_close(probs.sum(1), torch.ones(40))
    assert math.isfinite(model.history_[0].losses[-1])


NOBODY, WRONG = torch.zeros(40, dtype=torch.bool), torch.full((40,), 3)
AWAY = torch.tensor([[0, 1], [1, 40]])
BAD: dict[str, tuple[type[Exception], str, Any]] = {
    "edge out of range": (ValueError, r"'edge_index'.* 0 to 39, got 40 at \[1, 1\]", {"edge_index": AWAY}),
    "negative edge": (ValueError, r"'edge_index'.*got -1", {"edge_index": torch.tensor([[-1], [1]])}),
    "edges as floats": (TypeError, "'edge_index': expected an integer tensor", {"edge_index": torch.ones(2, 3)}),
    "edges in rows": (ValueError, r"shape \(2, E\), got shape \(3, 2\)", {"edge_index": torch.ones(3, 2).long()}),
    "label out of range": (ValueError, "'y': expected classes 0 to 2 of the masked nodes, got 3", {"y": WRONG}),
    "labels of other nodes": (ValueError, r"'y': expected shape \(40,\)", {"y": torch.zeros(39).long()}),
    "no training node": (ValueError, "'train_mask': expected at least one node", {"train_mask": NOBODY}),
    "mask of numbers": (TypeError, "'train_mask': expected a bool tensor", {"train_mask": torch.ones(40)}),
    "masks overlap": (ValueError, "'val_mask': expected nodes outside 'train_mask'", {"val_mask": ~NOBODY}),
    "NaN": (ValueError, "'x': expected finite numbers", {"x": torch.full((40, 6), math.nan)}),
    "integer features": (TypeError, "'x': expected dtype float32 or float64", {"x": torch.ones(40, 6).long()}),
    "no epochs": (ValueError, "'epochs'", {"epochs": 0}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    error, match, change = BAD[case]
    x, edges, y, train, val = blocks()
    given = {"x": x, "edge_index": edges, "y": y, "train_mask": train, "val_mask": val, "progress": False, **change}
    with pytest.raises(error, match=match):
        ll.SingleForward(widths("GCN", 6), 3).fit(**given)


def test_bad_layers_are_named() -> None:
    x, edges, y, train, _ = blocks()
    with pytest.raises(TypeError, match="'layers': expected a list of modules"):
        ll.SingleForward([], 3)
    with pytest.raises(ValueError, match="layers with parameters, got layer 1, a ReLU"):
        ll.SingleForward([ll.GCN(6, 8), nn.ReLU()], 3)
    layer = ll.GCN(6, 6)
    with pytest.raises(ValueError, match="got layers 0 and 1 that share one"):
        ll.SingleForward([layer, layer], 3)
    with pytest.raises(ValueError, match="expected in_features=8 in layer 1, got 9"):
        ll.SingleForward([ll.GCN(6, 8), ll.GCN(9, 8)], 3).fit(x, edges, y, train)
    with pytest.raises(ValueError, match="'heads': expected a divisor"):
        ll.GAT(6, 8, heads=3)
    with pytest.raises(RuntimeError, match="call fit first"):
        ll.SingleForward([layer], 3).predict()
    with pytest.raises(ValueError, match="'virtual'"):
        ll.SingleForward([layer], 3, virtual=torch.ones(2, 6)).fit(x, edges, y, train)
    with pytest.raises(ValueError, match=r"expected shape \(n, 6\), got shape \(40, 7\)"):
        layer(torch.ones(40, 7), edges)
