"""A PV-RNN over whole sequences in one pass: ops, their kernel calls, derivatives and ``pvrnn_scan``."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.backend import Backend
from .._core.errors import message
from .._core.native import DTYPE_CODE
from .._core.registry import Op, numbers_known
from ..reference import pvrnn_scan as reference

__all__ = ["pvrnn_scan"]

KINDS = ("cpu", "cuda")
DTYPES = (torch.float32, torch.float64)
NAME = "pvrnn_scan"
INPUTS = (
    "Tensor h0, Tensor noise, Tensor weight, Tensor bias, Tensor z_weight, Tensor leak, Tensor? adapt, Tensor? lengths"
)
RULE = "bool start, float low, float high"


class PVRNNScan(NamedTuple):
    """What :func:`pvrnn_scan` returns."""

    d: Tensor
    z: Tensor
    stats: Tensor
    kl: Tensor
    last: Tensor


# --- kernels ---


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None or tensor.numel() == 0 else tensor.contiguous()


def _sizes(h0: Tensor, noise: Tensor, adapt: Tensor | None) -> tuple[int, ...]:
    return (*noise.shape[:2], h0.shape[1], noise.shape[2], 0 if adapt is None else adapt.shape[1])


def _fake(h0: Tensor, noise: Tensor, *_: Any) -> tuple[Tensor, ...]:
    rows, steps, z = noise.shape
    shapes = ((rows, steps, h0.shape[1]), (rows, steps, z), (rows, steps, 4, z), (rows, steps, z), h0.shape)
    return tuple(h0.new_empty(shape) for shape in shapes)


def _bwd_fake(h0: Tensor, noise: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return h0.new_empty(*noise.shape[:2], weight.shape[0]), h0.new_empty(h0.shape), noise.new_empty(noise.shape)


def _kernel(run: Backend, *args: Any) -> tuple[Tensor, ...]:
    *tensors, start, low, high = args
    h0, noise, *_, adapt, _ = tensors
    outputs = _fake(h0, noise)
    dense = [_dense(t) for t in tensors[6:]]
    sizes = _sizes(h0, noise, adapt)
    run.launch(
        NAME, DTYPE_CODE[h0.dtype], *(t.contiguous() for t in tensors[:6]), *dense, *outputs, *sizes, start, low, high
    )
    return outputs


def _bwd_kernel(run: Backend, *args: Any) -> tuple[Tensor, ...]:
    *tensors, start, low, high = args
    h0, noise, weight, *_ = tensors
    adapt = tensors[6]
    outputs = _bwd_fake(h0, noise, weight)
    inputs = [t.contiguous() for t in tensors[:6]] + [_dense(t) for t in tensors[6:8]]
    inputs += [t.contiguous() for t in tensors[8:]]
    sizes = _sizes(h0, noise, adapt)
    run.launch(NAME + "_bwd", DTYPE_CODE[h0.dtype], *inputs, *outputs, *sizes, start, low, high)
    return outputs


# --- derivatives: the kernel walks back through time; gradients of the weights are products over all steps at once ---


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.start, ctx.low, ctx.high = inputs
    ctx.save_for_backward(*tensors, *output[:2])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    *inputs, d, z = ctx.saved_tensors
    h0, noise, adapt = inputs[0], inputs[1], inputs[6]
    pre, into_h0, into_noise = BACKWARD.call(*inputs, d, *grads, ctx.start, ctx.low, ctx.high)
    needs = ctx.needs_input_grad
    into_weights: tuple[Tensor | None, ...] = (None, None, None)
    if any(needs[2:5]):  # not in error regression, where the weights are at rest
        with torch.autocast(h0.device.type, enabled=False):
            into_weights = _weight_gradients(pre, h0, d, z, needs[2:5])
    into_adapt = None
    if adapt is not None and needs[6]:
        into_adapt = pre.narrow(1, 0, adapt.shape[1]).narrow(2, h0.shape[1] + 2 * noise.shape[2], adapt.shape[2])
        into_adapt = into_adapt.contiguous()
    return into_h0, into_noise, *into_weights, None, into_adapt, None, None, None, None


def _weight_gradients(
    pre: Tensor, h0: Tensor, d: Tensor, z: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Those of weight, bias and z_weight that are needed. Old vmaps of batched gradients know no flatten and no t."""
    size, rows = h0.shape[1], pre.reshape(-1, pre.shape[2])
    into_weight = into_bias = into_z = None
    if needs[0]:
        before = torch.cat([h0.tanh()[:, None], d.narrow(1, 0, d.shape[1] - 1)], 1)
        into_weight = rows.transpose(0, 1) @ before.reshape(-1, size)
    if needs[1]:
        into_bias = rows.sum(0)
    if needs[2]:
        into_z = rows.narrow(1, 0, size).transpose(0, 1) @ z.reshape(rows.shape[0], z.shape[2])
    return into_weight, into_bias, into_z


# --- the ops ---


def _inputs(dtype: torch.dtype, device: torch.device, rows: int, steps: int, d: int, z: int, k: int) -> list[Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).div(2).to(device, dtype)

    leak = torch.linspace(1.0, 0.25, d, device=device, dtype=dtype)
    tensors = [normal(rows, d), normal(rows, steps, z), normal(d + 4 * z, d), normal(d + 4 * z), normal(d, z), leak]
    return [*tensors, normal(rows, k, 2 * z) if k else None]


def _examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Posterior steps and then prior steps; and sequences of several lengths that continue."""
    lengths = torch.tensor([2, 1], device=device)
    return [
        (*_inputs(dtype, device, 2, 3, 3, 2, 2), None, True, -5.0, 2.0),
        (*_inputs(dtype, device, 2, 2, 2, 1, 2), lengths, False, -5.0, 2.0),
    ]


def _bwd_examples(device: torch.device, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    found = []
    for inputs in _examples(torch.device("cpu"), torch.float64):
        *tensors, start, low, high = inputs
        outputs = reference.pvrnn_scan(*inputs)
        grads = [torch.linspace(-1, 2, t.numel(), dtype=torch.float64).view(t.shape) for t in outputs]
        wide = [*tensors, outputs[0], *grads]
        there = [t if t is None else t.to(device, dtype if t.is_floating_point() else t.dtype) for t in wide]
        found.append((*there, start, low, high))
    return found


LEAK = {"leak": "time constants are fixed numbers"}

OP = Op(
    NAME,
    f"({INPUTS}, {RULE}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.pvrnn_scan,
    kernels=dict.fromkeys(KINDS, _kernel),
    fake=_fake,
    setup=_setup,
    backward=_backward,
    examples=_examples,
    constant=LEAK,
    dtypes=DTYPES,
)

BACKWARD = Op(
    NAME + "_bwd",
    f"({INPUTS}, Tensor d, Tensor grad_d, Tensor grad_z, Tensor grad_stats, Tensor grad_kl, Tensor grad_last, {RULE}) "
    "-> (Tensor, Tensor, Tensor)",
    family=NAME,
    reference=reference.pvrnn_scan_bwd,
    kernels=dict.fromkeys(KINDS, _bwd_kernel),
    fake=_bwd_fake,
    examples=_bwd_examples,
    dtypes=DTYPES,
)

# --- the public function ---


def _check_shapes(h0: Tensor, noise: Tensor, given: dict[str, Tensor | None]) -> None:
    for name, tensor in {"h0": h0, "noise": noise, **given}.items():
        if tensor is None or name == "lengths":
            continue
        checks.float_tensor(NAME, name, tensor)
        checks.same_device(NAME, name, tensor, h0, "h0")
    if h0.dim() != 2 or h0.shape[1] == 0:
        raise ValueError(message(NAME, "h0", "shape (sequences, units)", f"shape {tuple(h0.shape)}"))
    if noise.dim() != 3 or noise.shape[0] != h0.shape[0] or noise.shape[1] == 0:
        wanted = f"shape ({h0.shape[0]}, steps, latents) with at least one step"
        raise ValueError(message(NAME, "noise", wanted, f"shape {tuple(noise.shape)}"))
    d, z = h0.shape[1], noise.shape[2]
    rows, like = d + 4 * z, "(of the units of 'h0' and the latents of 'noise')"
    for name, shape in {"weight": (rows, d), "bias": (rows,), "z_weight": (d, z), "leak": (d,)}.items():
        tensor = given[name]
        assert tensor is not None
        checks.shape(NAME, name, tensor, shape, like)
    adapt = given["adapt"]
    if adapt is not None:
        steps = min(adapt.shape[1], noise.shape[1]) if adapt.dim() == 3 else noise.shape[1]
        checks.shape(NAME, "adapt", adapt, (h0.shape[0], steps, 2 * z), "(at most the steps of 'noise')")


def _check_lengths(lengths: Tensor, noise: Tensor) -> None:
    checks.integer_tensor(NAME, "lengths", lengths)
    checks.shape(NAME, "lengths", lengths, noise.shape[:1], "(one length for each sequence)")
    checks.same_device(NAME, "lengths", lengths, noise, "noise")
    if numbers_known(lengths):
        wrong = (lengths < 0) | (lengths.long() > noise.shape[1])
        if bool(wrong.any()):
            wanted = f"lengths 0 to {noise.shape[1]}"
            raise ValueError(message(NAME, "lengths", wanted, checks.offender(lengths, wrong)))


def pvrnn_scan(
    h0: Tensor,
    noise: Tensor,
    weight: Tensor,
    bias: Tensor,
    z_weight: Tensor,
    leak: Tensor,
    adapt: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    start: bool = True,
    log_sigma: tuple[float, float] = (-20.0, 5.0),
) -> PVRNNScan:
    """A variational recurrent network (PV-RNN) over whole sequences, forward and backward in one kernel each.

    With ``d = tanh(h)`` of the step before, the rows of ``weight @ d + bias`` are the input of the D units and the
    pre-activations of the prior's mean and log sigma and of the posterior's mean and log sigma. Means pass through
    tanh; log sigmas are clamped, without a gradient outside the clamp. ``adapt`` is added to the posterior's
    pre-activations. Then ``z = mean + sigma * noise`` and ``h += leak * (input + z_weight @ z - h)``. A step at or
    beyond K takes z from the prior. Layers are blocks of D and Z: all of them read the step before, so a network of
    layers is one with zeros in its weights.

    Args:
        h0: (S, D) potentials before the first step; zeros for a new sequence.
        noise: (S, T, Z) standard normal numbers.
        weight: (D + 4 Z, D).
        bias: (D + 4 Z,).
        z_weight: (D, Z).
        leak: (D,), 1 / time constant of each unit.
        adapt: (S, K, 2 Z) vectors A of the posterior, K <= T: those of the mean, then those of the log sigma. None
            generates from the prior.
        lengths: (S,) integers; outputs beyond a length are zero.
        start: whether the prior of the first step is N(0, I). False continues from ``h0``.
        log_sigma: bounds of the log sigmas.

    Tensors are float32, or float64 if ``h0`` is; half precision is computed in float32.

    Returns:
        d: (S, T, D) states.
        z: (S, T, Z) latents.
        stats: (S, T, 4, Z): the prior's mean and log sigma, and those of the distribution that z was drawn from.
        kl: (S, T, Z) divergence of the posterior from the prior; 0 in steps without ``adapt``.
        last: (S, D) potentials after the last step of each sequence: ``h0`` of what follows.

        Differentiable in all but ``leak`` and ``lengths``. Second derivatives and forward mode run in plain torch.

    Raises:
        TypeError: a dtype or type is wrong.
        ValueError: a shape, device, length or bound is wrong.
        NotImplementedError: a gradient of ``leak`` is asked for.

    Backends: C++ (CPU), CUDA, plain torch.

    Reference: Ahmadi and Tani, "A Novel Predictive-Coding-Inspired Variational RNN Model for Online Prediction and
    Recognition", Neural Computation 31(11), 2019.

    Example:
        >>> import torch, probkernels as pk
        >>> h0, noise = torch.zeros(1, 2), torch.zeros(1, 3, 1)  # two units, three steps, one latent
        >>> weight, bias, z_weight = torch.zeros(6, 2), torch.zeros(6), torch.tensor([[1.0], [-1.0]])
        >>> adapt = torch.full((1, 3, 2), 0.5)
        >>> scan = pk.ops.pvrnn_scan(h0, noise, weight, bias, z_weight, torch.ones(2), adapt)
        >>> scan.z.squeeze().tolist() == [torch.tensor(0.5).tanh().item()] * 3
        True
        >>> scan.kl.shape, scan.last.shape
        (torch.Size([1, 3, 1]), torch.Size([1, 2]))
    """
    given = {"weight": weight, "bias": bias, "z_weight": z_weight, "leak": leak, "adapt": adapt}
    _check_shapes(h0, noise, given)
    if lengths is not None:
        _check_lengths(lengths, noise)
        lengths = lengths.long()
    try:
        low, high = (float(bound) for bound in log_sigma)
    except (TypeError, ValueError) as error:
        raise TypeError(message(NAME, "log_sigma", "two numbers", checks.describe(log_sigma))) from error
    if not low < high:
        raise ValueError(message(NAME, "log_sigma", "a lower bound below the upper one", f"({low}, {high})"))
    dtype = torch.float64 if h0.dtype is torch.float64 else torch.float32
    tensors = [t if t is None else t.to(dtype) for t in (h0, noise, *given.values())]
    return PVRNNScan(*OP.call(*tensors, lengths, bool(start), low, high))
