"""All tensors of a call are on one device: the registrar checks it for every op, before a kernel reads an address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import probkernels as pk
import pytest
import torch
from probkernels._core.registry import OPS, Op
from probkernels.bnn import AdaptiveSGHMC
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.compose.test_compose import copied, each_example


def places(op: Op, args: tuple[Any, ...]) -> list[tuple[int, int | None, str]]:
    """Index of each tensor among the arguments, its place in a list or None, and its name."""
    found: list[tuple[int, int | None, str]] = []
    for i in op.tensor_args:
        name, arg = op.argument_names[i], args[i]
        if isinstance(arg, list):
            found += [(i, k, f"{name}[{k}]") for k in range(len(arg))]
        elif arg is not None:
            found.append((i, None, name))
    return found


def moved(args: tuple[Any, ...], i: int, k: int | None) -> tuple[Any, ...]:
    """The arguments with one tensor on another device."""
    changed = [list(arg) if isinstance(arg, list) else arg for arg in copied(args)]
    if k is None:
        changed[i] = changed[i].to("meta")
    else:
        changed[i][k] = changed[i][k].to("meta")
    return tuple(changed)


def with_gradient(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with gradients to come, so that the call goes through the op's autograd function."""
    return copied(args, lambda t: t.detach().requires_grad_() if t.is_floating_point() else t)


@each_example
def test_a_tensor_on_another_device_is_refused(op: Op, args: tuple[Any, ...]) -> None:
    every = places(op, args)
    first = every[0][2]
    for i, k, name in every if len(every) > 1 else []:
        wrong = moved(args, i, k)
        named, where = (name, "cpu") if name != first else (every[1][2], "meta")
        expected = f"{op.name}: argument '{named}': expected the device of '{first}' ({where})"
        calls = [(op.call, wrong), (op.op, wrong)] + [(op.call, with_gradient(wrong))] * op.differentiable
        for call, given in calls:
            with torch.set_grad_enabled(op.differentiable), pytest.raises(ValueError) as caught:
                call(*given)
            assert str(caught.value).startswith(expected)


def test_compilers_and_forward_mode_are_told_too() -> None:
    op = OPS["sum_layer"]
    args = op.examples(torch.device("cpu"), torch.float32)[0]
    wrong = moved(args, 1, None)
    with FakeTensorMode() as mode, pytest.raises(ValueError, match="expected the device of 'x'"):
        op.call(*(mode.from_tensor(t) for t in wrong))
    with pytest.raises(ValueError, match="expected the device of 'x'"):
        torch.func.jvp(lambda t: op.call(t, args[1].to("meta")), (args[0],), (args[0],))
    with pytest.raises(ValueError, match="expected the device of 'x'"):
        torch.func.vmap(lambda t: op.call(t, args[1].to("meta")))(args[0][None])


PAYLOAD, SIZES = pk.ops.rans_encode_pmf(torch.zeros(1, 4, dtype=torch.int32), torch.ones(1, 4, 3))
ENDS, CDF = torch.tensor([0, int(SIZES[0])]), pk.ops.quantize_cdf(torch.ones(3))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: pk.ops.rans_encode(torch.zeros(1, 4, dtype=torch.int32), CDF.to("meta")), "cdf"),
        (lambda: pk.ops.rans_encode_pmf(torch.zeros(1, 4, dtype=torch.int32), torch.ones(3, device="meta")), "pmf"),
        (lambda: pk.ops.rans_decode(PAYLOAD[0], ENDS, CDF.to("meta"), 4), "cdf"),
        (lambda: pk.ops.rans_decode(PAYLOAD[0], ENDS.to("meta"), CDF, 4), "offsets"),
        (lambda: pk.ops.rans_decode_pmf(PAYLOAD[0], ENDS, torch.ones(3, device="meta"), 4), "pmf"),
        (lambda: pk.ops.adaptive_decode(PAYLOAD[0], ENDS, ENDS.to("meta"), 1, 4), "starts"),
        (lambda: pk.ops.RansCoder(2).push(torch.zeros(2, dtype=torch.int32), CDF.to("meta")), "cdf"),
    ],
)
def test_public_coders_name_the_users_argument(call: Callable[[], Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"argument '{name}': expected the device of"):
        call()


@pytest.mark.parametrize(
    "make",
    [lambda net: pk.optim.SaRAAdamW(net, threshold=0.3, lr=0.1), lambda net: AdaptiveSGHMC(net.parameters(), seed=3)],
    ids=["SaRAAdamW", "AdaptiveSGHMC"],
)
def test_optimizers_launch_once_a_device(make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """The middle layer on meta stands for one on a second device. The others move as if it were beside them."""
    steps = []
    for place in ("cpu", "meta"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        before = [net[k].weight.detach().clone() for k in (0, 2)]
        optimizer = make(net)
        net[1].to(place)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        steps.append([net[k].weight.detach() - old for k, old in zip((0, 2), before, strict=True)])
    for first, second in zip(*steps, strict=True):
        assert torch.equal(first, second) and bool(first.any())
