"""Forward-forward, top-down and link learners; layers that train in two processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from probkernels import local_learning as ll
from probkernels.local_learning import _nodes, forward_forward, graph
from torch import nn

from tests.local_learning.test_forward_gnn import PATH, blocks, still, tiny, unit_gcn, widths
from tests.nn.test_distributed import on_two_processes


def test_goodness_of_nothing_is_minus_theta() -> None:
    logit = ll.goodness(torch.zeros(1, 4))
    assert logit.tolist() == [-2]
    assert float(F.softplus(-logit)) == pytest.approx(2.126928, abs=1e-6)
    assert float(F.softplus(logit)) == pytest.approx(0.126928, abs=1e-6)
    assert float(forward_forward.goodness_loss(logit, [logit, logit])) == pytest.approx(2.253856, abs=1e-6)


def test_label_appending_by_hand() -> None:
    """Node 0 of the path has class 0, node 1 class 1; node 2 is unlabeled. The layer passes all columns on."""
    layer = ll.GCN(4, 4)
    nn.init.eye_(layer.weight)
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 0])
    train = torch.tensor([True, True, False])
    model = ll.ForwardForward([layer], 2, optimizer=still).fit(x, PATH, y, train, epochs=1, progress=False)
    third = torch.tensor([1.0, 1.0, 0.5, 0.5]) / math.sqrt(2.5)

    def losses(one: list[float], two: list[float], sign: float) -> torch.Tensor:
        a, b = (torch.tensor(rows) / math.sqrt(2) for rows in (one, two))
        h = torch.stack([a / 2 + b / math.sqrt(6), a / math.sqrt(6) + b / 3 + third / math.sqrt(6)])
        return F.softplus(sign * (h.square().sum(1) - 2)).mean()

    expected = losses([1, 0, 1, 0], [0, 1, 0, 1], -1) + losses([1, 0, 0, 1], [0, 1, 1, 0], 1)
    assert model.history_[0].losses == pytest.approx([float(expected)], abs=1e-6)


def test_virtual_worlds_join_true_and_wrong_classes() -> None:
    x, edges, y, train, _ = blocks(classes=4)
    model = ll.ForwardForward(widths("GCN", 6), 4, form="virtual")
    model.fit(x, edges, y, train, epochs=1, progress=False)
    worlds = model._training_worlds(model._data)
    members, classes = train.nonzero()[:, 0], []
    for world in worlds:
        new = world.graph.edge_index[:, edges.shape[1] :]
        assert torch.equal(new[0, : len(members)], members)
        assert torch.equal(new[:, len(members) :], new[:, : len(members)].flip(0))
        classes.append(new[1, : len(members)] - 40)
    assert torch.equal(classes[0], y[train])
    assert torch.equal(torch.stack(classes).sort(0).values, torch.arange(4)[:, None].expand(4, len(members)))
    following = model._next(model.layers[0], worlds)
    assert all(world.x is following[0].x for world in following)
    assert [world.graph for world in following] == [world.graph for world in worlds]


@pytest.mark.parametrize("form", ["labels", "virtual"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_forward_forward_learns_and_sparse_equals_dense(form: str) -> None:
    x, edges, y, train, val = blocks()
    x = torch.where(x > 0.5, x, 0.0).double()
    test, found = ~(train | val), []
    for features in (x, x.to_sparse_csr()):
        layers = [layer.double() for layer in widths("SAGE", 9 if form == "labels" else 6)]
        model = ll.ForwardForward(layers, 3, form=form)
        model.fit(features, edges, y, train, val, epochs=40, patience=10, progress=False)
        found.append(model.layer_goodness(test))
    torch.testing.assert_close(*found)
    assert all(report.losses[-1] < report.losses[0] for report in model.history_)
    assert torch.equal(model.predict(test), sum(found[0]).argmax(1))
    scores = torch.stack(model.layer_goodness(val, context=train)).sum(0)
    assert _nodes.accuracy(scores, y[val]) == pytest.approx(max(model.history_[-1].scores))
    with pytest.raises(ValueError, match="'context': expected training and validation nodes outside 'mask'"):
        model.layer_goodness(val, context=val)


def test_goodness_of_a_class_permutes_with_it() -> None:
    x, edges, y, train, val = blocks()
    order, found = torch.tensor([2, 0, 1]), []
    layer = ll.GCN(9, 8).double()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    for labels, permutation in ((y, torch.arange(3)), (order[y], order)):
        layer.load_state_dict(state)
        with torch.no_grad():
            layer.weight[:, 6 + permutation] = state["weight"][:, 6:]
        model = ll.ForwardForward([layer], 3, optimizer=still)
        model.fit(x.double(), edges, labels, train, epochs=1, progress=False)
        found.append(model.layer_goodness(val)[0][:, permutation])
    torch.testing.assert_close(*found)


def top_down(form: str, depth: int = 3) -> list[nn.Module]:
    torch.manual_seed(2)
    if form != "input":
        return [ll.GCN(6 if at == 0 else 8, 8).double() for at in range(depth)]
    last = depth - 1
    return [ll.GCN((6 if at == 0 else 8) + (3 if at == last else 8), 8).double() for at in range(depth)]


def quick(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def joint_fit(form: str, alternating: bool = False, **options: Any) -> ll.TopDownForward:
    x, edges, y, train, val = blocks()
    layers = top_down(form)
    model = ll.TopDownForward(layers, 3, form=form, alternating=alternating, optimizer=quick)
    return model.fit(x.double(), edges, y, train, val, progress=False, **options)


def test_what_a_layer_reads_and_what_its_loss_judges() -> None:
    model = joint_fit("input", epochs=1)
    joint, states = model._joint, [torch.rand(43, 8, dtype=torch.float64) for _ in range(3)]
    first, middle, last = (joint._input(at, states).dense() for at in range(3))
    unit = F.normalize
    torch.testing.assert_close(middle, torch.cat([unit(states[0]), unit(states[2])], 1))
    torch.testing.assert_close(first[:, 6:], unit(states[1]))
    train = blocks()[3]
    torch.testing.assert_close(last[:40][~train][:, 8:], torch.full((20, 3), 3**-0.5, dtype=torch.float64))
    torch.testing.assert_close(last[40:, 8:], torch.eye(3, dtype=torch.float64))
    judged = joint_fit("loss", epochs=1)._joint.embedding(0, states[0], states)
    torch.testing.assert_close(judged, (states[0] + unit(states[1]) + unit(states[2])) / 3)


def test_alternating_layers_read_fresh_states() -> None:
    model = joint_fit("input", epochs=1)
    joint = model._joint
    start = joint.start()
    together, in_turn = joint.step(start, [[0, 1, 2]]), joint.step(start, [[0, 2], [1]])
    assert torch.equal(together[0], in_turn[0]) and torch.equal(together[2], in_turn[2])
    torch.testing.assert_close(in_turn[1], joint.run(1, [in_turn[0], start[1], in_turn[2]]).detach())
    assert not torch.equal(together[1], in_turn[1])


@pytest.mark.parametrize(("form", "alternating"), [("input", False), ("input", True), ("loss", False), ("none", False)])
def test_top_down_learns(form: str, alternating: bool) -> None:
    model = joint_fit(form, alternating, epochs=40)
    assert sum(r.losses[-1] for r in model.history_) < 0.9 * sum(r.losses[0] for r in model.history_)
    probs = model.predict_proba()
    torch.testing.assert_close(probs.sum(1), torch.ones(40, dtype=torch.float64))
    val = blocks()[4]
    assert _nodes.accuracy(probs[val], blocks()[2][val]) == pytest.approx(max(model.history_[0].scores))


def test_one_layer_of_the_joint_form_is_the_single_forward_layer() -> None:
    x, edges, y, train, val = blocks()
    found = []
    for kind in (ll.SingleForward, ll.TopDownForward):
        torch.manual_seed(0)
        options: dict[str, Any] = {"form": "none"} if kind is ll.TopDownForward else {}
        model = kind([ll.GCN(6, 8)], 3, **options).fit(x, edges, y, train, val, epochs=20, progress=False)
        found.append(model.predict_proba())
    assert torch.equal(*found)


def _joint_in_processes(rank: int) -> dict[str, Any]:
    found = {}
    for form, alternating in (("input", True), ("loss", False)):
        torch.manual_seed(rank)  # the layers of the first process count
        model = joint_fit(form, alternating, epochs=6, group=dist.group.WORLD)
        states = [layer.state_dict() for layer in model.layers]
        found[form] = {"states": states, "probs": model.predict_proba(), "losses": [r.losses for r in model.history_]}
    return found


def test_two_processes_train_the_layers_as_one_does() -> None:
    results = on_two_processes(_joint_in_processes)
    for form, alternating in (("input", True), ("loss", False)):
        alone = joint_fit(form, alternating, epochs=6)
        for result in results:
            assert torch.equal(result[form]["probs"], alone.predict_proba())
            assert result[form]["losses"] == [report.losses for report in alone.history_]
            for mine, theirs in zip(alone.layers, result[form]["states"], strict=True):
                assert all(torch.equal(value, theirs[name]) for name, value in mine.state_dict().items())


def pairs_of(edges: torch.Tensor) -> list[torch.Tensor]:
    """Links and other pairs, to train on and to validate with."""
    links = edges[:, edges[0] < edges[1]]
    far = torch.ones(40, 40).index_put_((edges[0], edges[1]), torch.zeros(())).triu(1).nonzero().t()
    others = far[:, torch.randperm(far.shape[1], generator=torch.Generator().manual_seed(0))[: links.shape[1]]]
    half = links.shape[1] // 2
    return [links[:, :half], others[:, :half], links[:, half:], others[:, half:]]


@pytest.mark.parametrize("loss", ["cross_entropy", "goodness"])
def test_link_losses_by_hand(loss: str) -> None:
    model = ll.ForwardLinks([unit_gcn()], loss=loss, optimizer=still)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    model.fit(x, PATH, torch.tensor([[0], [1]]), torch.tensor([[0], [2]]), epochs=1, progress=False)
    unit = x / x.norm(dim=1, keepdim=True)
    a = torch.tensor([[3, 6**0.5, 0], [6**0.5, 2, 6**0.5], [0, 6**0.5, 3]]) / 6
    h = a @ unit
    linked, other = (h[0] * h[1], h[0] * h[2])
    if loss == "goodness":
        expected = F.softplus(2 - linked.square().sum()) + F.softplus(other.square().sum() - 2)
        probs = (linked.square().sum() - 2).sigmoid()
    else:
        expected = (F.softplus(-linked.sum()) + F.softplus(other.sum())) / 2
        probs = linked.sum().sigmoid()
    assert model.history_[0].losses == pytest.approx([float(expected)], abs=1e-6)
    torch.testing.assert_close(model.predict_proba(torch.tensor([[0], [1]])), probs[None])


@pytest.mark.parametrize(("loss", "joint"), [("cross_entropy", False), ("goodness", False), ("cross_entropy", True)])
def test_links_are_learned(loss: str, joint: bool) -> None:
    x, edges, *_ = blocks()
    links, others, val_links, val_others = pairs_of(edges)
    messages = torch.cat([links, links.flip(0)], 1)
    torch.manual_seed(0)
    layers = [ll.GCN(6 + 8, 8), ll.GCN(8, 8)] if joint else [ll.GCN(6, 8), ll.GCN(8, 8)]
    model = ll.ForwardLinks(layers, loss=loss, top_down=joint)
    model.fit(x, messages, links, others, val_links, val_others, epochs=30, progress=False)
    assert all(report.losses[-1] < report.losses[0] for report in model.history_)
    best = max(model.history_[-1].scores)
    area = ll.links._area(model.predict_proba(torch.cat([val_links, val_others], 1)), (val_links, val_others))
    assert area == pytest.approx(best) and len(model.layer_auroc(val_links, val_others)) == 2
    changed = model.predict_proba(val_links, edges)
    assert not torch.equal(changed, model.predict_proba(val_links))
    assert torch.equal(model.predict_proba(val_links, messages), model.predict_proba(val_links))


def test_bad_variants_are_named() -> None:
    x, edges, y, train, _ = blocks()
    links, others, *_ = pairs_of(edges)
    with pytest.raises(ValueError, match=r"'form'.*did you mean 'labels'"):
        ll.ForwardForward([ll.GCN(6, 8)], 3, form="label")
    with pytest.raises(ValueError, match="'negatives': expected 1 to 2, got 3"):
        ll.ForwardForward([ll.GCN(6, 8)], 3, negatives=3)
    with pytest.raises(ValueError, match="expected in_features=9 in layer 0, got 6"):
        ll.ForwardForward([ll.GCN(6, 8)], 3).fit(x, edges, y, train)
    with pytest.raises(ValueError, match=r"expected equal widths for form \"loss\", got \[8, 7\]"):
        ll.TopDownForward([ll.GCN(6, 8), ll.GCN(8, 7)], 3, form="loss").fit(x, edges, y, train)
    with pytest.raises(ValueError, match="expected in_features=11 in layer 1, got 8"):
        ll.TopDownForward([ll.GCN(14, 8), ll.GCN(8, 8)], 3).fit(x, edges, y, train)
    with pytest.raises(ValueError, match=r"'widths'.*got layer 0 without out_features"):
        ll.TopDownForward([nn.PReLU()], 3)
    with pytest.raises(ValueError, match="pass widths"):
        ll.TopDownForward([ll.GCN(6, 8)], 3, form="none", widths=[7]).fit(x, edges, y, train, progress=False)
    model = ll.ForwardLinks([ll.GCN(6, 8)])
    with pytest.raises(ValueError, match="'links': expected nodes 0 to 39, got 40"):
        model.fit(x, edges, torch.tensor([[0], [40]]), others)
    with pytest.raises(ValueError, match="'others': expected shape"):
        model.fit(x, edges, links, others[:, :0])
    with pytest.raises(ValueError, match="'val_others'"):
        model.fit(x, edges, links, others, links)
    with pytest.raises(RuntimeError, match="call fit first"):
        model.predict_proba(links)


def test_top_down_takes_sparse_features() -> None:
    x, edges, y, train, _ = blocks()
    found = []
    for features in (x, x.to_sparse_coo()):
        torch.manual_seed(0)
        layers = [ll.SAGE(14, 8), ll.GAT(8 + 3, 8)]
        model = ll.TopDownForward(layers, 3).fit(features, edges, y, train, epochs=5, progress=False)
        found.append(model.predict_proba())
    torch.testing.assert_close(*found)
    assert isinstance(graph.given_features("fit", x.to_sparse_coo()), graph.SparseMatrix)
    assert tiny(unit_gcn()).predict().tolist()[:2] == [0, 1]
