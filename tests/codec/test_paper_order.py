"""The paper's algorithm beside ours: the same probabilities, and how many edges each goes through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from probkernels.circuits import Categorical, Circuit, Vtree, from_vtree, hclt
from probkernels.codec import Program, paper_conditionals

from .models import KINDS, C, model, rows
from .test_coder import conditionals


@pytest.mark.parametrize("kind", KINDS)
def test_conditionals_are_ratios_of_marginals_and_make_up_the_joint(kind: str) -> None:
    circuit = model(kind).double().requires_grad_(False)
    for row in rows(4, circuit.num_variables):
        found = paper_conditionals(circuit, row.tolist())
        missing = torch.ones(1, len(row), dtype=torch.bool)
        before = torch.ones(1, dtype=torch.float64)
        for variable, distribution in zip(found.order, found.conditionals, strict=True):
            missing[0, variable] = False
            tries = row.repeat(C, 1)
            tries[:, variable] = torch.arange(C)
            joint = circuit.log_prob(tries, missing.expand(C, -1)).exp()
            assert distribution == pytest.approx((joint / before).tolist(), rel=1e-9)
            before = joint[row[variable]]
        cost = sum(math.log(p[row[v]]) for v, p in zip(found.order, found.conditionals, strict=True))
        assert cost == pytest.approx(float(circuit.log_prob(row[None])), rel=1e-12)


def balanced(vtree: Vtree, units: int = 2) -> Circuit:
    circuit = Circuit(from_vtree(vtree, [Categorical(2)] * vtree.num_variables, units))
    circuit.reset(seed=0)
    return circuit


def test_in_the_same_order_the_program_has_the_same_conditionals() -> None:
    circuit, row = balanced(Vtree.balanced(range(8))), [0, 1, 1, 0, 1, 0, 0, 1]
    program, found = Program.from_circuit(circuit), paper_conditionals(circuit, row)
    assert program.order == found.order
    ours = conditionals(program, row)
    for variable, distribution in zip(found.order, found.conditionals, strict=True):
        assert ours[variable] == pytest.approx(distribution.tolist(), abs=2e-4)


def test_edges_grow_with_the_depth_in_the_papers_order_only() -> None:
    for count in (16, 64, 256):
        circuit = balanced(Vtree.balanced(range(count)))
        whole, papers = circuit.graph.num_edges, paper_conditionals(circuit, [1] * count).edges
        assert Program.from_circuit(circuit).multiplications == 2 * whole
        assert 0.5 * math.log2(count) < papers / whole < math.log2(count)


def test_a_hidden_tree_takes_two_passes() -> None:
    circuit = hclt(torch.randint(0, 3, (200, 40), generator=torch.Generator().manual_seed(0)), latents=4)
    program = Program.from_circuit(circuit)
    assert program.multiplications <= 2 * circuit.graph.num_edges
    found = paper_conditionals(circuit, [1] * 40)
    assert found.edges > 2 * program.multiplications


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="7 values"):
        paper_conditionals(model("hclt"), [0] * 6)


def test_distributions_sum_to_one() -> None:
    for p in paper_conditionals(model("mixture"), rows(1)[0].tolist()).conditionals:
        assert np.isclose(p.sum(), 1) and (p > 0).all()
