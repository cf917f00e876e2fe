"""Every registered op, on each of its examples, under everything torch can do to a function.

An op registered tomorrow goes through all of this without a line of test code. Its values are checked against its
reference; its derivatives against finite differences where it has a forward mode (those are exact), and everywhere
against plain eager autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import probkernels.ops  # noqa: F401 - registers the ops
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from probkernels._core.registry import OPS, Op
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CPU = torch.device("cpu")


def examples(dtype: torch.dtype = torch.float64, *, differentiable: bool = False) -> list[Any]:
    """Every op on each of its examples, or only those that have a derivative."""
    return [
        pytest.param(op, args, id=f"{name}-{i}")
        for name, op in OPS.items()
        if op.differentiable or not differentiable
        for i, args in enumerate(op.examples(CPU, dtype))
    ]


each_example = pytest.mark.parametrize(("op", "args"), examples())
each_differentiable = pytest.mark.parametrize(("op", "args"), examples(differentiable=True))
each_other = pytest.mark.parametrize(("op", "args"), [p for p in examples() if not p.values[0].differentiable])


def first(params: list[Any]) -> list[Any]:
    """Each op's first example, for what follows from the kinds of its arguments and not from their values."""
    return [p for p in params if p.id.endswith("-0")]


each_first_differentiable = pytest.mark.parametrize(("op", "args"), first(examples(differentiable=True)))


def static_or_dynamic(*, differentiable: bool) -> list[Any]:
    """Each op's first example with dynamic shapes (Inductor compiles it with static ones), its second with static ones.

    A compilation is the slowest test here, and ``opcheck`` traces every example with dynamic shapes once more.
    """
    chosen = [p for p in examples() if p.values[0].differentiable == differentiable and p.id[-2:] in ("-0", "-1")]
    shapes = ["dynamic" if p.id.endswith("-0") else "static" for p in chosen]
    return [
        pytest.param(*p.values, kind == "dynamic", id=f"{p.id}-{kind}") for p, kind in zip(chosen, shapes, strict=True)
    ]


def copied(args: Any, change: Callable[[Tensor], Tensor] = Tensor.clone) -> Any:
    """The arguments with every tensor changed, those in lists too."""
    if isinstance(args, (list, tuple)):
        return type(args)(copied(arg, change) for arg in args)
    return change(args) if isinstance(args, Tensor) else args


def results(op: Op, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What ``function`` returns and what it leaves in the arguments that the op changes; ``args`` stay as they are."""
    args = copied(args)
    returned = function(*args)
    return (*(() if returned is None else tupled(returned)), *op.tensors(args, op.mutated))


def tupled(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


class Case:
    """An op on an example as a function of its differentiable tensors alone."""

    def __init__(self, op: Op, args: tuple[Any, ...]) -> None:
        self.op, self.args = op, args
        self.active = [
            i for i in op.tensor_args if args[i] is not None and args[i].is_floating_point() and i not in op.constant
        ]
        self.values = [args[i].clone() for i in self.active]
        outputs = self.outputs(*self.leaves())
        generator = torch.Generator().manual_seed(1)
        self.cotangents = [torch.randn(o.shape, generator=generator, dtype=o.dtype) * o.requires_grad for o in outputs]
        pads = dict(zip(op.argument_names, args, strict=True)).get("pad_mask")
        if (
            pads is not None and outputs[0].dim() > 1
        ):  # padding rows are constants, which finite differences do not know
            self.cotangents[0][pads] = 0

    def full(self, values: tuple[Tensor, ...]) -> list[Any]:
        args = list(self.args)
        for i, value in zip(self.active, values, strict=True):
            args[i] = value
        return args

    def outputs(self, *values: Tensor) -> tuple[Tensor, ...]:
        return tupled(self.op.call(*self.full(values)))

    def scalar(self, *values: Tensor) -> Tensor:
        """A nonlinear number made of all differentiable outputs."""
        return self.combine(self.outputs(*values))

    def reference_scalar(self, *values: Tensor) -> Tensor:
        return self.combine(tupled(self.op.reference(*self.full(values))))

    def combine(self, outputs: tuple[Tensor, ...]) -> Tensor:
        return sum(((o * c).sum().sin() + (o * c).sum() for o, c in zip(outputs, self.cotangents, strict=True)))

    def leaves(self) -> list[Tensor]:
        return [v.clone().requires_grad_() for v in self.values]

    def grads(self, function: Callable[..., Tensor] | None = None) -> tuple[Tensor, ...]:
        leaves = self.leaves()
        found = (function or self.scalar)(*leaves)
        # an input of which only the shape counts has gradient 0
        return torch.autograd.grad(found, leaves, materialize_grads=True)

    def has_forward_mode(self) -> bool:
        try:
            torch.func.jvp(self.outputs, tuple(self.values), tuple(self.values))
        except NotImplementedError:
            return False
        return True


def same(got: Any, expected: Any) -> None:
    for g, e in zip(tupled(got), tupled(expected), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-10)


@each_example
def test_value_equals_reference_and_inputs_stay(op: Op, args: tuple[Any, ...]) -> None:
    first = results(op, op.call, args)
    same(first, results(op, op.reference, args))
    for got, again in zip(first, results(op, op.call, args), strict=True):
        assert torch.equal(got, again), "two runs differ"
    after = copied(args)
    op.call(*after)
    for i in set(op.tensor_args) - set(op.mutated):
        for old, new in zip(op.tensors(args, [i]), op.tensors(after, [i]), strict=True):
            assert torch.equal(old, new), f"'{op.argument_names[i]}' was modified"


@each_example
def test_strides_do_not_matter(op: Op, args: tuple[Any, ...]) -> None:
    strided = copied(args, lambda t: torch.stack([t, t], -1)[..., 0])
    if op.mutated:
        returned = op.call(*strided)
        assert returned is None
        same(tuple(op.tensors(strided, op.mutated)), results(op, op.call, args))
    else:
        same(op.call(*strided), op.call(*args))


@each_example
def test_views_that_negate_when_read(op: Op, args: tuple[Any, ...]) -> None:
    """As ``z.conj().imag`` is one. Torch refuses to change several of them in place."""
    lazy = copied(args, lambda t: torch._neg_view(-t) if t.is_floating_point() else t.clone())
    try:
        returned = op.call(*lazy)
    except RuntimeError as refusal:
        assert op.mutated, refusal
        return
    same(tuple(op.tensors(lazy, op.mutated)) if op.mutated else returned, results(op, op.call, args))


@each_other
def test_there_is_no_gradient(op: Op, args: tuple[Any, ...]) -> None:
    """Results carry none; what is changed in place must not ask for one."""
    leaves = copied(args, lambda t: t.clone().requires_grad_() if t.is_floating_point() else t.clone())
    if op.mutated:
        with pytest.raises(NotImplementedError, match="in place and has no gradient"):
            op.call(*leaves)
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="in place and has no gradient"):
            op.call(*copied(args, lambda t: forward_ad.make_dual(t.clone(), t) if t.is_floating_point() else t.clone()))
        versions = [t._version for t in op.tensors(leaves, op.mutated)]
        with torch.no_grad():
            op.call(*leaves)
        assert all(t._version > v for t, v in zip(op.tensors(leaves, op.mutated), versions, strict=True))
        same(tuple(t.detach() for t in op.tensors(leaves, op.mutated)), results(op, op.call, args))
    else:
        assert not any(output.requires_grad for output in tupled(op.call(*leaves)))
        same(op.call(*leaves), op.call(*args))


@pytest.mark.parametrize(("op", "args", "dynamic"), static_or_dynamic(differentiable=False))
def test_compile_fullgraph_without_gradient(op: Op, args: tuple[Any, ...], dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(op.call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    same(results(op, compiled, args), results(op, op.call, args))


@each_differentiable
def test_derivatives_are_exact_where_forward_mode_exists(op: Op, args: tuple[Any, ...]) -> None:
    case = Case(op, args)
    if not case.has_forward_mode():
        pytest.skip("estimates a gradient by definition; its op test compares it with the paper's numbers")

    torch.autograd.gradcheck(case.scalar, case.leaves(), check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    torch.autograd.gradgradcheck(case.scalar, case.leaves(), fast_mode=True)
    same(case.grads(), case.grads(case.reference_scalar))


@each_differentiable
def test_forward_mode_is_right_or_refused(op: Op, args: tuple[Any, ...]) -> None:
    case = Case(op, args)
    tangents = tuple(torch.randn_like(v) for v in case.values)
    if not case.has_forward_mode():
        with pytest.raises(NotImplementedError), forward_ad.dual_level():
            case.outputs(*(forward_ad.make_dual(v, t) for v, t in zip(case.values, tangents, strict=True)))
        return
    expected = sum((g * t).sum() for g, t in zip(case.grads(), tangents, strict=True))
    same(torch.func.jvp(case.scalar, tuple(case.values), tangents)[1], expected)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(v, t) for v, t in zip(case.values, tangents, strict=True)]
        same(forward_ad.unpack_dual(case.scalar(*duals)).tangent, expected)
    twice = torch.func.jacfwd(torch.func.jacfwd(case.scalar))(*case.values)
    same(twice, torch.func.jacrev(torch.func.jacrev(case.scalar))(*case.values))


@each_differentiable
def test_constant_arguments_refuse_derivatives(op: Op, args: tuple[Any, ...]) -> None:
    for i in op.constant:
        changed = list(args)
        changed[i] = args[i].clone().requires_grad_()
        with pytest.raises(NotImplementedError, match=op.argument_names[i]):
            op.call(*changed)


@each_differentiable
def test_functional_transforms_equal_autograd(op: Op, args: tuple[Any, ...]) -> None:
    case = Case(op, args)
    everything = tuple(range(len(case.values)))
    expected = case.grads()
    same(torch.func.grad(case.scalar, everything)(*case.values), expected)
    same(torch.func.jacrev(case.scalar, everything)(*case.values), expected)
    batch = [torch.stack([v, 1.5 * v + 0.1]) for v in case.values]
    looped = [torch.func.grad(case.scalar, everything)(*(b[k] for b in batch)) for k in range(2)]
    stacked = tuple(torch.stack(pair) for pair in zip(*looped, strict=True))
    same(torch.func.vmap(torch.func.grad(case.scalar, everything))(*batch), stacked)
    only_first = (0, *(None,) * (len(case.values) - 1))
    mapped = torch.func.vmap(case.outputs, in_dims=only_first)(batch[0], *case.values[1:])
    same(tuple(m[1] for m in mapped), case.outputs(batch[0][1], *case.values[1:]))
    none = torch.func.vmap(case.outputs, in_dims=only_first)(batch[0][:0], *case.values[1:])
    assert [n.shape for n in none] == [m[:0].shape for m in mapped]


@each_differentiable
def test_hessian(op: Op, args: tuple[Any, ...]) -> None:
    case = Case(op, args)

    def of_first(value: Tensor) -> Tensor:
        return case.scalar(value, *case.values[1:])

    if not case.has_forward_mode():
        with pytest.raises(NotImplementedError):
            torch.func.hessian(of_first)(case.values[0])
        return
    same(torch.func.hessian(of_first)(case.values[0]), torch.autograd.functional.hessian(of_first, case.values[0]))


@pytest.mark.parametrize(("op", "args", "dynamic"), static_or_dynamic(differentiable=True))
def test_compile_fullgraph(op: Op, args: tuple[Any, ...], dynamic: bool) -> None:
    torch._dynamo.reset()
    case = Case(op, args)
    compiled = torch.compile(case.scalar, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    same(case.grads(compiled), case.grads())
    with torch.no_grad():
        same(compiled(*case.values), case.scalar(*case.values))


@each_first_differentiable
def test_compile_inductor(op: Op, args: tuple[Any, ...]) -> None:
    """Without the derivative of what is itself another op's derivative: torch's own operations, those of the reference,
    which take Inductor up to half a minute each. Other tests trace them."""
    torch._dynamo.reset()
    case = Case(op, args)
    compiled = torch.compile(case.scalar, fullgraph=True)
    if op.through_reference and op.family != op.name:
        with torch.no_grad():
            same(compiled(*case.values), case.scalar(*case.values))
    else:
        same(case.grads(compiled), case.grads())


@each_first_differentiable
def test_transforms_inside_compile(op: Op, args: tuple[Any, ...]) -> None:
    """A gradient by ``jacrev``, and by ``grad`` under ``vmap``."""
    case = Case(op, args)
    torch._dynamo.reset()
    jacobian = torch.compile(torch.func.jacrev(case.scalar), fullgraph=True, backend="aot_eager")
    same(jacobian(*case.values), case.grads()[0])
    torch._dynamo.reset()
    batch = [torch.stack([v, v]) for v in case.values]
    mapped = torch.func.vmap(torch.func.grad(case.scalar))
    same(torch.compile(mapped, fullgraph=True, backend="aot_eager")(*batch)[1], case.grads()[0])


@each_example
def test_fake_and_meta_agree_with_real_outputs(op: Op, args: tuple[Any, ...]) -> None:
    real = results(op, op.call, args)
    meta = results(op, op.call, copied(args, lambda t: t.to("meta")))
    with torch._subclasses.FakeTensorMode() as mode:
        fake = results(op, op.call, copied(args, mode.from_tensor))
    for r, m, f in zip(real, meta, fake, strict=True):
        assert (r.shape, r.dtype, r.stride()) == (m.shape, m.dtype, m.stride()) == (f.shape, f.dtype, f.stride())


@each_differentiable
def test_export(op: Op, args: tuple[Any, ...]) -> None:
    case = Case(op, args)

    class Module(torch.nn.Module):
        def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
            return case.outputs(*values)

    exported = torch.export.export(Module(), tuple(case.values)).module()
    same(exported(*case.values), case.outputs(*case.values))


@pytest.mark.parametrize(("op", "args"), examples(torch.float32))
def test_autocast_keeps_the_result(op: Op, args: tuple[Any, ...]) -> None:
    plain = results(op, op.call, args)
    with torch.autocast("cpu", torch.bfloat16):
        inside = results(op, op.call, args)
    for p, i in zip(plain, inside, strict=True):
        assert torch.equal(p, i)


@pytest.mark.parametrize("reentrant", [False, True], ids=["nonreentrant", "reentrant"])
@each_differentiable
def test_checkpoint(op: Op, args: tuple[Any, ...], reentrant: bool) -> None:
    case = Case(op, args)
    leaves = case.leaves()
    checkpoint(case.scalar, *leaves, use_reentrant=reentrant).backward()
    same(tuple(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves), case.grads())


@each_example
def test_opcheck(op: Op, args: tuple[Any, ...]) -> None:
    if op.differentiable:
        case = Case(op, args)
        args = tuple(case.full(tuple(case.leaves())))
    torch.library.opcheck(op.op, copied(args) if op.mutated else args)
