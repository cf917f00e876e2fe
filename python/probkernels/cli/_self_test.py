"""Doctor's self-test: every op, on every usable backend, against its reference in float64, values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops as _ops  # noqa: F401 - registers them
from .._core import backend
from .._core.errors import BackendError
from .._core.registry import OPS, Op

# The question is whether a backend works on this machine; the test suite asks for far less error.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def examine_ops() -> list[dict[str, Any]]:
    """Per device and op: the chosen backend, why other backends were refused, and the self-test of each usable one."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [_examine(op, device) for device in devices for op in OPS.values()]


def problems(ops: Sequence[dict[str, Any]]) -> list[str]:
    """Problems of these ops: backends that should work but do not."""
    found = []
    for op in ops:
        where = f"{op['name']} on {op['device']}"
        if op["error"]:
            found.append(op["error"])
        if op["device"] == "cuda" and not any(usable in ("cuda", "triton") for usable in op["usable"]):
            reasons = "; ".join(
                f"{name}: {op['refused'][name]}" for name in ("cuda", "triton") if name in op["refused"]
            )
            found.append(f"{where}: torch has CUDA, but no GPU backend works: {reasons}")
        for test in op["self_tests"]:
            found += [f"{where}, backend {test['backend']}: {error}" for error in test["errors"]]
    return found


def _examine(op: Op, device: str) -> dict[str, Any]:
    dtype = _dtypes(op)[0]
    refused = backend.refusals(op, device, dtype)
    usable = [name for name in backend.BACKENDS if name not in refused]
    chosen, error = None, None
    try:
        chosen = backend.choose(op, device, dtype).name
    except BackendError as forced:
        error = str(forced)
    return {
        "name": op.name,
        "device": device,
        "chosen": chosen,
        "error": error,
        "usable": usable,
        "refused": refused,
        "self_tests": [{"backend": name, "errors": self_test(op, name, torch.device(device))} for name in usable],
    }


def _dtypes(op: Op) -> list[torch.dtype]:
    return [dtype for dtype in (torch.float32, torch.float64) if dtype in op.dtypes] or list(op.dtypes[:1])


def self_test(op: Op, name: str, device: torch.device) -> list[str]:
    """Runs the op's examples on backend ``name``. Returns what went wrong, or an empty string."""
    errors = []
    for dtype in _dtypes(op):
        for args in op.examples(device, dtype):
            try:
                wrong = _compare(op, name, args, TOLERANCE.get(dtype, 0.0))
            except Exception as error:  # whatever it is, it belongs into the diagnosis
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                errors.append(f"{str(dtype).removeprefix('torch.')}: {wrong}")
    return errors


def _compare(op: Op, name: str, args: tuple[Any, ...], tolerance: float) -> str | None:
    """Describes the first output or gradient with too large an error."""
    exact = [_each(arg, lambda t: t.double() if t.is_floating_point() else t) for arg in args]
    if not (op.differentiable or op.mutated):  # positions and counts of these values, not of more exact ones
        exact = list(args)
    with backend.use_backend(name):
        got, got_grads = _run(op, op.call, args)
    with backend.use_backend("reference"):
        _, expected_grads = _run(op, op.call, exact)
    expected, _ = _run(op, op.reference, exact)
    pairs = [(f"output {i}", *pair) for i, pair in enumerate(zip(got, expected, strict=True))]
    pairs += [(f"gradient of {key}", got_grads[key], expected_grads[key]) for key in got_grads]
    return next(
        (f"{what} is off by {error:.2g} of its size" for what, *pair in pairs if (error := _error(*pair)) > tolerance),
        None,
    )


def _each(arg: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An argument with its tensor, or every tensor of its list, changed."""
    if isinstance(arg, (list, tuple)):
        return [_each(item, change) for item in arg]
    return change(arg) if isinstance(arg, Tensor) else arg


def _run(op: Op, function: Callable[..., Any], args: Sequence[Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, or what an in-place op left behind, and the gradient of the sum of their weighted entries for every
    differentiable argument."""
    args = [_each(arg, Tensor.clone) for arg in args]
    leaves = {}
    for i in op.tensor_args if op.differentiable else ():
        if args[i] is not None and args[i].is_floating_point() and i not in op.constant:
            leaves[op.argument_names[i]] = args[i].requires_grad_()
    output = function(*args)
    outputs = op.tensors(args, op.mutated) if op.mutated else output if isinstance(output, tuple) else (output,)
    found = [o.detach() for o in outputs]
    loss = [(o * _ramp(o)).sum() for o in outputs if o.requires_grad]
    if not loss or not leaves:
        return found, {}
    grads = torch.autograd.grad(sum(loss[1:], loss[0]), list(leaves.values()), allow_unused=True)
    return found, {key: grad for key, grad in zip(leaves, grads, strict=True) if grad is not None}


def _ramp(output: Tensor) -> Tensor:
    """Weights from -1 to 1, the same for every dtype and device."""
    ramp = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
    return ramp.to(output.device, output.dtype)


def _error(got: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest entry; infinite if shapes or NaNs differ."""
    if got.shape != expected.shape:
        return float("inf")
    difference = (got.double() - expected.double()).abs()
    if not torch.equal(got.isnan(), expected.isnan()):
        return float("inf")
    scale = expected.double().nan_to_num().abs().max().clamp_min(1.0) if expected.numel() else 1.0
    return float(difference.nan_to_num().max() / scale) if got.numel() else 0.0
