"""PowerNorm in training against its authors' eager module, that module compiled, and the norms it competes with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from probkernels import nn
from probkernels._core import native
from probkernels._core.backend import choose
from probkernels._core.native import DTYPE_CODE
from probkernels.ops.power_norm import FWD, power_norm
from torch import Tensor

from ..case import TRAINED, Case, Inputs, Params, Provider, Result, Run, Task, Unavailable, Verdict, differentiable
from ..machine import cores
from ._power_norm_official import OfficialPowerNorm

EPS, ALPHA, BATCH = 1e-5, 0.9, 16
SHAPES = [(2048, 512), (8192, 1024), (65536, 64), (512, 8192)]  # rows, features; the last two tall and wide
VARIANTS = [(8, False), (8, True)]  # groups, mask
ELEMENT_PASSES = {"fwd": 2, "bwd": 3, "fwd+bwd": 5}  # x -> y; x, grad_y -> grad_x; and both


def grid(device: str) -> list[Params]:
    """CPU: float32, on one core and on all. GPU: bfloat16. Every shape plain, the main ones also in the variants."""
    if device == "cuda":
        points = [(shape, "bfloat16") for shape in ((8192, 4096), *SHAPES[2:])]
        threads, varied = [cores()], {(8192, 4096)}
    else:
        points = [(shape, "float32") for shape in SHAPES]
        threads, varied = sorted({1, cores()}), set(SHAPES[:2])
    return [
        {
            "device": device,
            "dtype": dtype,
            "threads": count,
            "rows": rows,
            "features": features,
            "groups": groups,
            "mask": mask,
        }
        for (rows, features), dtype in points
        for groups, mask in [(None, False), *(VARIANTS if (rows, features) in varied else [])]
        for count in threads
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x, grad_y (T, B, C); weight, bias (C) of x's dtype; psi2, nu (C) float32; pad_mask (T, B) or None."""
    shape = (params["rows"] // BATCH, BATCH, params["features"])

    def normal(*size: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return (torch.randn(*size) * scale + shift).to(device)

    c = params["features"]
    lengths = torch.linspace(shape[0] // 2, shape[0], BATCH).long()  # a quarter of the tokens is padding
    pad_mask = (torch.arange(shape[0])[:, None] >= lengths).to(device) if params["mask"] else None
    return {
        "x": normal(*shape).to(dtype).requires_grad_(),
        "grad_y": normal(*shape).to(dtype),
        "weight": normal(c, scale=0.1, shift=1).to(dtype).requires_grad_(),
        "bias": normal(c, scale=0.1).to(dtype).requires_grad_(),
        "psi2": normal(c).square() * 0.2 + 0.8,
        "nu": normal(c, scale=0.1).requires_grad_(),
        "pad_mask": pad_mask,
    }


def traffic(params: Params, mode: str) -> int:
    """Bytes that must move: the tensors of a row's length once each; vectors of length C are nothing beside them."""
    size = getattr(torch, params["dtype"]).itemsize
    return ELEMENT_PASSES[mode] * size * params["rows"] * params["features"]


def flops(params: Params, mode: str) -> int:
    """Arithmetic of an element, counted by hand."""
    forward, backward = (4, 10) if params["groups"] is None else (8, 15)
    per_element = {"fwd": forward, "bwd": backward, "fwd+bwd": forward + backward}[mode]
    return per_element * params["rows"] * params["features"]


# --- ours ---


def _op(inputs: Inputs, params: Params) -> Task:
    x, weight, bias, psi2, nu = (inputs[name] for name in ("x", "weight", "bias", "psi2", "nu"))
    settings = {"pad_mask": inputs["pad_mask"], "num_groups": params["groups"], "eps": EPS}
    return differentiable(
        lambda: power_norm(x, psi2, weight, bias, nu, **settings)[0], (x, weight, bias, nu), inputs["grad_y"]
    )


def _module(inputs: Inputs, params: Params) -> Task:
    """nn.PowerNorm in training, its state moving with every call."""
    x, nu, pad_mask = inputs["x"], inputs["nu"].detach(), inputs["pad_mask"]
    norm = nn.PowerNorm(x.shape[-1], EPS, ALPHA, ALPHA, num_groups=params["groups"], device=x.device, dtype=x.dtype)
    norm.load_state_dict({**norm.state_dict(), **{name: inputs[name] for name in ("weight", "bias")}})
    norm.running_psi2.copy_(inputs["psi2"])
    norm.running_nu.copy_(nu)
    mask = None if pad_mask is None else pad_mask.t()
    task = differentiable(lambda: norm(x, mask), (x, norm.weight, norm.bias), inputs["grad_y"])

    def outputs() -> list[Tensor]:
        return [*task.outputs(), (nu - norm.running_nu) / (1 - ALPHA)]  # the last is the gradient of nu

    return Task(task.modes, outputs)


def _kernel(inputs: Inputs, params: Params) -> Task:
    """The native kernels alone, into outputs made once: neither autograd nor the allocator."""
    if native.module is None:
        raise Unavailable(native.problem)
    x, grad_y, mask = inputs["x"].detach(), inputs["grad_y"], inputs["pad_mask"]
    weight, bias, psi2, nu = (inputs[n].detach().float() for n in ("weight", "bias", "psi2", "nu"))
    c, threads = x.shape[-1], params["threads"]
    y, grad_x = torch.empty_like(x), torch.empty_like(x)
    mean_sq, *grads = (torch.empty(c) for _ in range(4))

    def bind(name: str, *tensors: Tensor | None) -> Callable[[], None]:
        launcher = getattr(native.module, f"power_norm_{name}_cpu")
        rest = (x.numel() // c, c, params["groups"] or 0, EPS, threads)
        return lambda: launcher(DTYPE_CODE[x.dtype], *tensors, *rest)

    forward = bind("fwd", x, weight, bias, psi2, mask, y, mean_sq)
    backward = bind("bwd", x, grad_y, weight, psi2, psi2, nu, mask, grad_x, *grads)

    def both() -> None:
        forward()
        backward()

    def outputs() -> list[Tensor]:
        both()
        return [y, grad_x, *grads]

    return Task({"fwd": Run(forward), "bwd": Run(backward), "fwd+bwd": Run(both)}, outputs)


# --- the authors' module ---


def _official(inputs: Inputs, params: Params, *, compiled: bool) -> Task:
    """Past its warm-up, with the state of the inputs."""
    x, pad_mask = inputs["x"], inputs["pad_mask"]
    module = OfficialPowerNorm(x.shape[-1], params["groups"], 0, EPS, ALPHA, ALPHA).to(x.device)
    with torch.no_grad():
        module.weight.copy_(inputs["weight"])
        module.bias.copy_(inputs["bias"])
        module.running_phi.copy_(inputs["psi2"].reshape(module.running_phi.shape))
        module.ema_gz.copy_((inputs["nu"] / (1 - ALPHA)).reshape(module.ema_gz.shape))
    module.to(x.dtype)
    if compiled:
        torch.compiler.reset()  # or it would reuse another point's code, made for other thread counts
        options = {"cpp.threads": params["threads"]} if x.device.type == "cpu" else None
        module.normalize = torch.compile(module.normalize, dynamic=False, options=options)
    mask = None if pad_mask is None else pad_mask.t()
    return differentiable(lambda: module(x, mask), (x, module.weight, module.bias), inputs["grad_y"])


def _official_truth(inputs: Inputs, params: Params) -> Task:
    """Our reference in the official semantics: the batch's denominators backward, padding with a gradient."""
    x, weight, bias, psi2, nu, mask = (inputs[n] for n in ("x", "weight", "bias", "psi2", "nu", "pad_mask"))
    args = (psi2, nu, mask, params["groups"] or 0, EPS, True, True)
    return differentiable(lambda: FWD.call(x, weight, bias, *args)[0], (x, weight, bias), inputs["grad_y"])


# --- other norms: each is its own truth in float64. Liger and apex need a GPU; neither has run here yet. ---

Norm = Callable[[Tensor, Tensor, Tensor], Tensor]  # x, weight, bias -> y


def _norm(inputs: Inputs, params: Params, *, norm: Norm, bias: bool = True) -> Task:
    x, w, b = inputs["x"], inputs["weight"], inputs["bias"]
    return differentiable(lambda: norm(x, w, b), (x, w, b) if bias else (x, w), inputs["grad_y"])


def _batch_norm(inputs: Inputs, params: Params) -> Task:
    weight = inputs["weight"].detach()
    mean, var = torch.zeros_like(weight), torch.ones_like(weight)

    def norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.batch_norm(x.flatten(0, 1), mean, var, w, b, True, 1 - ALPHA, EPS).view_as(x)

    return _norm(inputs, params, norm=norm)


def _liger(inputs: Inputs, params: Params) -> Task:
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction

    return _norm(inputs, params, norm=lambda x, w, b: LigerLayerNormFunction.apply(x, w, b, EPS))


def _apex(inputs: Inputs, params: Params) -> Task:
    from apex.normalization.fused_layer_norm import fused_layer_norm_affine

    return _norm(inputs, params, norm=lambda x, w, b: fused_layer_norm_affine(x, w, b, w.shape, EPS))


_layer_norm = partial(_norm, norm=lambda x, w, b: F.layer_norm(x, w.shape, w, b, EPS))
_rms_norm = partial(_norm, norm=lambda x, w, b: F.rms_norm(x, w.shape, w, EPS), bias=False)


def judge(results: list[Result]) -> list[Verdict]:
    """The figures we hold ourselves to, where one of them is about these results' point."""
    params = results[0].params
    device, dtype, size = params["device"], params["dtype"], (params["rows"], params["features"])
    where = f"{size} {dtype} groups={params['groups']} threads={params['threads']}"
    op = f"ours_{choose(FWD, device, getattr(torch, dtype)).name}"  # what a user gets
    found = {(r.provider, r.mode): r for r in results if r.status == "ok"}
    verdicts = []

    def demand(provider: str, mode: str, least: float, peer: str | None = None) -> None:
        """At least ``least`` of the copy limit, or times faster than a peer."""
        r = found.get((provider, mode))
        figure = r and (r.of_limit if peer is None else r.faster_than.get(peer))
        if figure is not None:
            what = "share of the copy limit" if peer is None else f"times faster than {peer}"
            verdicts.append(Verdict(f"{provider} {mode}: {what}, {where}", figure, f">= {least}", figure >= least))

    plain = params["groups"] is None
    if device == "cpu" and size in SHAPES[:2] and plain:  # into outputs made once; what the op adds is in its own row
        demand("ours_kernel", "fwd+bwd", 40, "official_eager")
        demand("ours_kernel", "fwd+bwd", 1.8, "layer_norm")
        demand("ours_kernel", "fwd+bwd", 0.65)
    if device == "cuda" and size == (8192, 4096) and plain:
        demand(op, "fwd", 0.85)
        demand(op, "bwd", 0.85)
    return verdicts


CASE = Case(
    name="power_norm",
    modes=TRAINED,
    grid=grid,
    make=make,
    bytes=traffic,
    flops=flops,
    judge=judge,
    providers=(
        Provider("ours_cpu", _op, _op, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _op, _op, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("ours_triton", _op, _op, kind="ours", backend="triton", devices=("cuda",)),
        Provider("ours_module", _module, _op, kind="ours"),
        Provider("ours_kernel", _kernel, _op, kind="ours", devices=("cpu",)),
        Provider("official_eager", partial(_official, compiled=False), _official_truth),
        Provider("official_compiled", partial(_official, compiled=True), _official_truth),
        Provider("layer_norm", _layer_norm, _layer_norm),
        Provider("rms_norm", _rms_norm, _rms_norm),
        Provider("batch_norm", _batch_norm, _batch_norm),
        Provider("liger_layer_norm", _liger, _layer_norm, devices=("cuda",)),
        Provider("apex_layer_norm", _apex, _layer_norm, devices=("cuda",)),
    ),
)
