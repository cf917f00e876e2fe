"""A family from outside the package works everywhere in a circuit: a layer and a family object are all it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from probkernels.circuits import (
    EM,
    Circuit,
    Graph,
    Input,
    Product,
    cauchy_schwarz_divergence,
    describe,
    grow,
    hclt_graph,
    load,
    save,
)
from probkernels.circuits.families import FAMILIES, Family, Shapes, family_from_json, family_to_json
from probkernels.circuits.inputs import Evidence, Inputs, TableInputs
from torch import Tensor, nn

from tests.circuits.models import MIXED


class BinomialInputs(TableInputs):
    def __init__(self, variables: list[int], units: int, categories: int) -> None:
        super().__init__(variables, units, categories)
        self.logit = nn.Parameter(torch.empty(len(variables), units))

    def reset(self, generator: torch.Generator, data: Evidence | None) -> None:
        self.logit.data.copy_(torch.randn(self.logit.shape, generator=generator))

    def log_table(self) -> Tensor:
        k = torch.arange(self.categories).to(self.logit)
        chosen = torch.tensor([math.log(math.comb(self.categories - 1, i)) for i in range(self.categories)])
        p, q = nn.functional.logsigmoid(self.logit), nn.functional.logsigmoid(-self.logit)
        return chosen.to(p)[:, None] + k[:, None] * p[:, None] + (self.categories - 1 - k)[:, None] * q[:, None]

    @torch.no_grad()
    def em_update_(self, statistics: Tensor, step: float, pseudocount: float) -> None:
        counts = statistics + pseudocount / self.categories
        k = torch.arange(self.categories).to(counts)[:, None]
        mean = (counts * k).sum(1) / counts.sum(1) / (self.categories - 1)
        self.logit.copy_(torch.logit(torch.lerp(self.logit.sigmoid(), mean, step), eps=1e-6))


@dataclass(frozen=True)
class Binomial(Family):
    def make_layer(self, variables: list[int], units: int) -> Inputs:
        return BinomialInputs(variables, units, self.categories)

    def parameter_shapes(self, variables: int, units: int) -> Shapes:
        return {"logit": (variables, units)}

    def free_parameters(self) -> int:
        return 1

    def add_noise(self, named: dict[str, Tensor], spread: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"logit": named["logit"] + spread * torch.randn(named["logit"].shape, generator=generator)}


VALUES = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(3))


def tree(seed: int = 0) -> Circuit:
    return Circuit(hclt_graph([1, -1, 1], [Binomial(3), Binomial(4), Binomial(3)], latents=2), seed=seed).double()


def test_a_family_of_ones_own_is_trained_grown_and_saved(tmp_path: Path) -> None:
    circuit = tree()
    assert circuit.log_prob(VALUES).exp().sum().item() == pytest.approx(1)
    x = tree(seed=5).sample(300, seed=0)
    history = EM(circuit, batch_size=None, pseudocount=0.1).fit(x, epochs=5, progress=False)
    assert history.train[-1] > history.train[0]
    torch.testing.assert_close(grow(circuit, noise=0.0).log_prob(x), circuit.log_prob(x))
    assert grow(circuit, x, fraction=0.5).log_prob(VALUES).exp().sum().item() == pytest.approx(1)
    save(circuit, tmp_path / "circuit")
    assert torch.equal(load(tmp_path / "circuit").log_prob(x), circuit.log_prob(x))
    assert "Binomial(4)" in describe(circuit)


def test_queries_of_a_family_of_ones_own_equal_their_definitions() -> None:
    p, q = tree(0), tree(1)
    log_p, log_q = p.log_prob(VALUES), q.log_prob(VALUES)
    torch.testing.assert_close(p.overlap(q), (log_p + log_q).logsumexp(0))
    assert cauchy_schwarz_divergence(p, q) > 0
    graph = Graph([*(Input(v, 1, Binomial(3)) for v in range(3)), Product((0, 1, 2))])
    one, other = Circuit(graph, seed=0).double(), Circuit(graph, seed=1).double()
    values = torch.cartesian_prod(*[torch.arange(3)] * 3)
    log_p, log_q = one.log_prob(values), other.log_prob(values)
    torch.testing.assert_close(one.entropy(), -(log_p.exp() * log_p).sum())
    torch.testing.assert_close(one.kl(other), (log_p.exp() * (log_p - log_q)).sum())


@pytest.mark.parametrize(
    "name", ["Categorical", "Bernoulli", "Indicator", "Gaussian", "DiscretizedLogistic", "Binomial"]
)
def test_families_say_what_their_layers_hold(name: str) -> None:
    cls = FAMILIES[name]
    family = cls({"Bernoulli": 2, "Gaussian": 0}.get(name, 3))
    units = family.fixed_units or 2
    layer = family.make_layer([4, 1], units)
    assert {key: tuple(t.shape) for key, t in layer.state_dict().items()} == family.parameter_shapes(2, units)
    assert family_from_json(family_to_json(family)) == family
    assert set(map(type, MIXED)) <= set(FAMILIES.values())
