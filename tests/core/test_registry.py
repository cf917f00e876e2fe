"""Kinds of ops that the registrar knows beside differentiable ones, each sent through the composition suite."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from probkernels._core.backend import Backend
from probkernels._core.registry import OPS, Op
from probkernels.cli import _self_test
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from tests.compose import test_compose as compose

CPU = torch.device("cpu")
NUMBERS = itertools.count()  # a name can be registered only once in a process
SUITE = (
    compose.test_value_equals_reference_and_inputs_stay,
    compose.test_strides_do_not_matter,
    compose.test_views_that_negate_when_read,
    compose.test_there_is_no_gradient,
    compose.test_fake_and_meta_agree_with_real_outputs,
    compose.test_opcheck,
)


def add_all_(targets: list[Tensor], addend: Tensor, amount: float) -> None:
    for target in targets:
        target.add_(addend, alpha=amount)


def add_all_kernel_(_: Backend, targets: list[Tensor], addend: Tensor, amount: float) -> None:
    for target in targets:
        target.copy_(target + amount * addend)


def small(x: Tensor, bound: float) -> Tensor:
    return x.abs() < bound


Define = Callable[..., Op]


@pytest.fixture
def define() -> Iterator[Define]:
    """define(kernel) registers an in-place op of lists; define() an op of positions. Both are forgotten afterwards."""
    names = []

    def make(kernel: Callable[..., None] | None = None) -> Op:
        names.append(name := f"test_op_{next(NUMBERS)}")
        x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
        if kernel is None:
            return Op(
                name,
                "(Tensor x, float bound) -> Tensor",
                reference=small,
                kernels={},
                fake=lambda x, bound: torch.empty_like(x, dtype=torch.bool),
                examples=lambda device, dtype: [(x, 0.5)],
                differentiable=False,
            )
        return Op(
            name,
            "(Tensor(a!)[] targets, Tensor addend, float amount) -> ()",
            reference=add_all_,
            kernels={"cpu": kernel},
            fake=lambda *args: None,
            examples=lambda device, dtype: [([x, 2 * x], x + 1, 0.5), ([x], x, 2.0)],
        )

    yield make
    for name in names:
        OPS.pop(name, None)


def suite(op: Op) -> None:
    for args in op.examples(CPU, torch.float64):
        for test in SUITE:
            test(op, args)
        for dynamic in (False, True):
            compose.test_compile_fullgraph_without_gradient(op, args, dynamic)


def test_ops_that_work_in_place_compose(define: Define) -> None:
    op = define(add_all_kernel_)
    suite(op)
    assert _self_test.self_test(op, "cpu", CPU) == []
    with pytest.raises(NotImplementedError, match="vmap over an op that works in place"):
        torch.func.vmap(lambda t: op.call([t], t, 1.0))(torch.ones(2, 3))
    op.call([], torch.ones(3), 1.0)  # nothing to do


def test_an_op_in_place_counts_versions_and_refuses_inference_tensors(define: Define) -> None:
    def kernel(_: Backend, targets: list[Tensor], addend: Tensor, amount: float) -> None:
        for t in targets:
            t.numpy()[:] += amount * addend.numpy()  # torch does not see this write

    op, target, addend = define(kernel), torch.ones(4), torch.ones(4)
    base, leaf = torch.zeros(8), torch.ones(4, requires_grad=True)
    product = leaf * target  # saves target
    op.call([target, base[:4]], addend, 1.0)
    assert (target._version, base._version, addend._version) == (1, 1, 0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    with torch.inference_mode():
        inside = torch.ones(4)
        op.call([inside, target], addend, 1.0)
        assert inside.tolist() == [2] * 4 and target.tolist() == [3] * 4
    assert target._version == 2
    with pytest.raises(RuntimeError, match=r"'targets': .*got an inference tensor outside"):
        op.call([target, inside], addend, 1.0)


def test_modes_subclasses_and_the_profiler_see_an_op_in_place(define: Define) -> None:
    op, target, addend, names = define(add_all_kernel_), torch.ones(4), torch.ones(4), []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    class Own(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append("own")

    with Seen():
        op.call([target], addend, 1.0)
    assert names == [f"probkernels.{op.name}.default"] and target.tolist() == [2] * 4
    op.call([torch.ones(4).as_subclass(Own)], addend, 1.0)
    assert names[1:] == ["own"]
    with torch.autograd.profiler.profile() as profile:
        op.call([torch.ones(4)], addend, 1.0)
    assert f"probkernels::{op.name}" in {event.name for event in profile.function_events}
    with FakeTensorMode():
        op.call([torch.ones(4)], torch.ones(4), 1.0)  # a kernel would find no memory


def test_ops_without_gradient_compose(define: Define) -> None:
    op = define()
    suite(op)
    x = torch.linspace(-1, 1, 5)
    gradient = torch.func.grad(lambda t: (t * op.call(t, 0.5)).sum())
    assert gradient(x).tolist() == [0, 0, 1, 0, 0] == torch.compile(gradient, backend="aot_eager")(x).tolist()


@pytest.mark.parametrize("wrong", ["value", "input"])
def test_the_suite_finds_a_wrong_op(define: Define, wrong: str) -> None:
    def kernel_(backend: Backend, targets: list[Tensor], addend: Tensor, amount: float) -> None:
        add_all_kernel_(backend, targets, addend, amount + (wrong == "value"))
        if wrong == "input":
            addend.zero_()

    op = define(kernel_)
    args: tuple[Any, ...] = op.examples(CPU, torch.float64)[0]
    with pytest.raises(AssertionError):
        compose.test_value_equals_reference_and_inputs_stay(op, args)


OPAQUE = {
    "philox": (torch.zeros(3, 2, 3), torch.tensor([5, 0, 2**40]), 0, 0, 2**33, True),
    "gates": (torch.linspace(-2, 2, 6).view(2, 3), None, 2**40 + 5, 1, 3, "times_smooth", True, 1.5),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_opaque_parts_of_references(name: str) -> None:
    """One op to compilers and transforms, each slice of a batch under its own call."""
    op, args = getattr(torch.ops.probkernels, f"reference_{name}").default, OPAQUE[name]
    torch.library.opcheck(op, args)
    x, *rest = args
    outputs = torch.func.vmap(lambda t: op(t, *rest), in_dims=1)(torch.stack([x, x + 1], 1))
    for i in range(2):
        compose.same(tuple(o[i] for o in compose.tupled(outputs)), op(x + i, *rest))


def test_compilers_do_not_trace_random_numbers() -> None:
    """Numbers that are to come out to the bit take hundreds of operations each."""
    for op in (OPS["stochastic_gate_bwd"], OPS["linear_step"]):
        graph = make_fx(op.reference)(*op.examples(CPU, torch.float64)[0])
        assert len(graph.graph.nodes) < 80
