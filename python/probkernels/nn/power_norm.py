"""PowerNorm and PowerNormV: drop-in norms for transformers with batch-style inference."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .._core import checks
from .._core.errors import message
from .._core.pending import Pending
from .._core.registry import transforms_active
from ..ops.power_norm import FWD, STATS, V_FWD
from ._mean_square import MeanSquareNorm, _Call, move_towards
from ._phase import WarmUp
from ._sync import Reductions


class PowerNorm(WarmUp, Pending, MeanSquareNorm):
    """PowerNorm: divides each feature by a running root mean square, without centering or reductions at inference.

    In training y = weight z / sqrt(psi2 + eps) + bias, where z is x after group scaling and psi2 the running mean
    square *before* this batch. The exact gradient through the batch statistic would subtract a term; the backward
    subtracts nu, a running estimate of it. A forward that records gradients updates psi2, its ``backward()`` updates
    nu, and ``torch.autograd.grad`` does not update nu. A forward under ``no_grad``, a checkpoint's recomputation, and a
    batch without valid rows or with a non-finite statistic update nothing. State is float32 (float64 after
    ``.double()``).

    nu scales with the loss, including a GradScaler's scale, which a module cannot see. When the scale changes, call
    :meth:`rescale_nu` with new scale / old scale; before unscaled training, call it with 1 / last scale.

    Args:
        num_features: C, the size of the last dimension.
        eps: number added to mean squares under the root.
        alpha_fwd: decay of psi2 per step, in [0, 1).
        alpha_bkw: decay of nu per step, in [0, 1).
        affine: whether to learn a weight (C) and a bias (C).
        warmup_iters: number of initial training forwards that normalize by the batch's own mean square. psi2 is the
            cumulative mean of these.
        num_groups: number of groups of C / num_groups features. Each token's groups are first divided by their root
            mean square. fairseq's models use the number of attention heads. None: no group scaling, as ``fold_into``
            requires.
        batch_first: whether a 3-D x is (B, T, C). pad_mask is (B, T) either way, as in torch.nn.Transformer.
        backward_scale: denominators in grad_x: ``"running"`` (paper) or ``"batch"`` (official code).
        compat: ``"official"`` reproduces the semantics of the official module: batch denominators in the backward, a
            double update in warm-up, padding counts in nu's mean and gets a gradient. It sets
            ``backward_scale="batch"``.
        sync: a torch.distributed process group, or True for the default group. Statistics then cover the joint batch of
            all ranks. After warm-up, the next forward waits for the all-reduces, not the current one: until then, or
            until ``eval()`` or ``state_dict()``, buffers that you read directly lack the last step.
        device: device of parameters and state.
        dtype: dtype of parameters; float64 applies to the state too.

    Shape: x (..., C) -> (..., C); pad_mask x.shape[:-1] bool, True marks padding, or (B, T) for x (T, B, C).

    Raises:
        TypeError: x is not float32, float64, float16 or bfloat16; pad_mask is not bool.
        ValueError: a shape or setting is out of range.

    Reference: Shen et al., "PowerNorm: Rethinking Batch Normalization in Transformers", ICML 2020, arXiv:2003.07845.

    Example:
        >>> import torch, probkernels as pk
        >>> norm = pk.nn.PowerNorm(8)
        >>> x = torch.randn(16, 4, 8)
        >>> norm(x).square().mean().backward()
        >>> norm.running_psi2.shape, norm.iters.item()
        (torch.Size([8]), 1)
        >>> y = norm.eval()(x)
    """

    running_nu: Tensor
    iters: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        alpha_fwd: float = 0.9,
        alpha_bkw: float = 0.9,
        affine: bool = True,
        warmup_iters: int = 0,
        num_groups: int | None = None,
        batch_first: bool = False,
        backward_scale: str = "running",
        compat: str | None = None,
        sync: dist.ProcessGroup | bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, alpha_fwd, affine, num_groups, batch_first, device, dtype)
        checks.fraction(self._op, "alpha_bkw", alpha_bkw)
        checks.one_of(self._op, "backward_scale", backward_scale, ("running", "batch"))
        checks.one_of(self._op, "compat", compat, (None, "official"))
        checks.integer(self._op, "warmup_iters", warmup_iters, 0)
        self.alpha_bkw, self.warmup_iters, self.compat = alpha_bkw, warmup_iters, compat
        self.backward_scale = "batch" if compat == "official" else backward_scale
        self.sync = sync
        if self.sync is not None and self.backward_scale == "batch":
            hint = "batch denominators would wait for an all-reduce in every step"
            raise ValueError(message(self._op, "sync", "None with backward_scale='batch'", repr(sync), hint))
        self.register_buffer("running_nu", torch.zeros_like(self.running_psi2))
        self.register_buffer("iters", torch.zeros(1, dtype=torch.int64, device=device))
        self._saw_iters(0)
        self._count_in_backward = False
        self._make_probe()

    @property
    def sync(self) -> dist.ProcessGroup | bool | None:
        """The process group, True for the default one, or None."""
        return self._sync

    @sync.setter
    def sync(self, group: dist.ProcessGroup | bool | None) -> None:
        self._sync = group or None
        self._reductions = Reductions(group) if group else None

    def reset_running_stats(self) -> None:
        """Sets psi2 to 1, nu to 0 and iters to 0, as in a new module."""
        self._settle()
        super().reset_running_stats()
        self.running_nu.zero_()
        self.iters.zero_()
        self._saw_iters(0)

    def extra_repr(self) -> str:
        """The settings shown by print(module)."""
        mode = f", compat={self.compat!r}" if self.compat else f", backward_scale={self.backward_scale!r}"
        return f"{super().extra_repr()}, warmup_iters={self.warmup_iters}{mode}"

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Normalizes x (..., C); in training also updates the running state. See the class for pad_mask."""
        self._make_ready()
        mask = self._row_mask(x, pad_mask)
        if not self.training:
            self._settle(close=True)
            return self._evaluate(x)
        call = self._recomputed(x, mask)
        if call is not None:
            return self._normalize(x, mask, call.psi2, call.nu)[0]
        self._settle(close=True)
        batch = self._batch_mean_sq(x, mask) if self._warming_up else None
        if not torch.is_grad_enabled():
            y, mean_sq, psi2, _ = self._normalize(x, mask, self._denominator(batch, self.iters + 1), None)
            if torch.compiler.is_compiling():
                self._remember(_Call(psi2, None, mean_sq))
            else:
                self._remember(_Call(psi2.clone(), self.running_nu.clone(), mean_sq))
            return y
        self._refuse_transforms()
        self._count(batch)
        first = self._first_without_grad(x, mask)
        if first is None:
            psi2, nu = self._denominator(batch, self.iters), self.running_nu
        else:
            assert first.nu is not None
            psi2, nu = first.psi2, first.nu
        y, mean_sq, psi2, nu = self._normalize(x, mask, psi2, nu, rows=self._count_rows(x, mask))
        self._record(y, _Call(psi2.detach(), nu.detach(), mean_sq))
        self._update_psi2(mean_sq if batch is None else batch, batch is not None, x, mask)
        if batch is not None and not torch.compiler.is_compiling():
            self._end_warm_up()
        return y

    # --- forward ---

    def _refuse_transforms(self) -> None:
        if not torch.compiler.is_compiling() and transforms_active():
            raise NotImplementedError(
                f"{self._op}: in training its backward moves running_nu, which torch.func and vmap cannot. Hint: "
                "eval(), or PowerNormV with its running_psi2 given to functional_call"
            )

    def _normalize(
        self, x: Tensor, mask: Tensor | None, psi2: Tensor, nu: Tensor | None, rows: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y, the batch's mean square, and copies of the psi2 and nu that were used. ``rows``: of a new call."""
        if nu is not None:
            # The probe is 0; nu's pseudo-gradient arrives at it, and from its hook moves running_nu. Thus the
            # backward itself changes nothing, which is what compile and checkpointing need.
            learns = x.requires_grad or (self.weight is not None and self.weight.requires_grad)
            probe = self._probe
            if learns and rows is not None and self._reductions is not None:
                probe = self._reductions.probe(probe, rows)
            nu = nu + probe if learns else None
        official = self.compat == "official"
        batch_scale = self.backward_scale == "batch"
        return FWD.call(x, self.weight, self.bias, psi2, nu, mask, self._groups, self.epsilon, batch_scale, official)

    def _batch_mean_sq(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mean_sq = STATS.call(x.detach(), mask, self._groups, self.epsilon).to(self.running_psi2.dtype)
        if self._reductions is None:
            return mean_sq
        return self._reductions.mean_square_now(mean_sq, self._count_rows(x, mask))

    def _denominator(self, batch: Tensor | None, t: Tensor) -> Tensor:
        """psi2 (C) that forward number t divides by."""
        if batch is None:
            return self.running_psi2
        return torch.where((t <= self.warmup_iters) & torch.isfinite(batch), batch, self.running_psi2)

    def _update_psi2(self, mean_sq: Tensor, warming_up: bool, x: Tensor, mask: Tensor | None) -> None:
        if self._reductions is None or warming_up:  # in warm-up it is already that of the joint batch
            self._move_psi2(mean_sq, warming_up)
        else:
            self._reductions.mean_square(mean_sq, self._count_rows(x, mask), self._move_psi2)

    def _move_psi2(self, mean_sq: Tensor, warming_up: bool = False) -> None:
        psi2, rate = self.running_psi2, 1 - self.alpha_fwd
        if not warming_up:
            move_towards(psi2, mean_sq, rate)
            return
        one_in_t = self.iters.clamp(min=1).to(psi2.dtype).reciprocal()
        mean_sq = torch.where(torch.isfinite(mean_sq).all(), mean_sq, torch.nan)  # all features or none: one count
        if self.compat == "official":  # a cumulative mean until the last but one warm-up step, and always the average
            move_towards(psi2, mean_sq, torch.where(self.iters < self.warmup_iters, one_in_t, 0))
            move_towards(psi2, mean_sq, rate)
        else:
            move_towards(psi2, mean_sq, torch.where(self.iters <= self.warmup_iters, one_in_t, rate))

    # --- nu, moved from the hook on the probe ---

    def _make_probe(self) -> None:
        owner, nu = weakref.ref(self), weakref.ref(self.running_nu)
        self._probe = torch.zeros_like(self.running_nu).requires_grad_()
        self._probe_of = nu  # the tensor that the probe's gradients move: a functional call may give another

        def hook(probe: Tensor) -> None:
            module, state, grad = owner(), nu(), probe.grad
            probe.grad = None
            if module is not None and state is not None and grad is not None:
                module._nu_arrived(grad, state)

        self._probe.register_post_accumulate_grad_hook(hook)

    def _fit_probe(self) -> None:
        """Makes the probe anew where the state was replaced, by a loader of checkpoints or a functional call."""
        probe, nu = self._probe, self.running_nu
        if self._probe_of() is not nu or probe.device != nu.device or probe.dtype is not nu.dtype:
            self._make_probe()

    def _make_ready(self) -> None:
        super()._make_ready()
        if not torch.compiler.is_compiling():
            self._fit_probe()
            if self.training:
                self._follow_iters()

    def train(self, mode: bool = True) -> PowerNorm:
        """Sets training or evaluation mode, like every module."""
        self._fit_probe()  # compiled code cannot
        self._settle()
        super().train(mode)
        return self

    @torch.no_grad()
    def _nu_arrived(self, grad: Tensor, nu: Tensor) -> None:
        """``grad`` (C) is -mean(a x_hat), summed over the forwards of this backward whose state was ``nu``."""
        self._count_compiled()
        if self._reductions is None:
            self._move_nu(grad, nu)
        else:
            self._reductions.nu_arrived(partial(self._move_nu, nu=nu))

    def _move_nu(self, grad: Tensor, nu: Tensor | None = None) -> None:
        finite = torch.where(grad.abs() < float("inf"), grad, 0)  # also where loss scaling has overflowed
        (self.running_nu if nu is None else nu).sub_(finite, alpha=1 - self.alpha_bkw)

    # --- synchronized statistics ---

    @staticmethod
    def _count_rows(x: Tensor, mask: Tensor | None) -> Tensor | float:
        """Valid rows: a number, or a tensor so that a mask need not be read by the host."""
        return float(x.numel() // x.shape[-1]) if mask is None else (~mask).sum()

    def _settle(self, *, close: bool = False) -> None:
        """Applies what all-reduces have brought since the last forward; ``close``: a forward begins."""
        if self._reductions is None:
            return
        if close and self._reductions.open:
            self._reductions.close(self.running_nu, self._move_nu)
        if self._reductions.pending:
            self._reductions.settle()

    # --- moving, copying, loading ---

    def _state_names(self) -> tuple[str, ...]:
        return ("running_psi2", "running_nu", "iters")

    def _is_plausible(self) -> bool:
        started = 0 < int(self.iters) < 2**40 or (int(self.iters) == 0 and super()._is_plausible())
        return started and bool(self.running_psi2.isfinite().all() and self.running_nu.isfinite().all())

    def rescale_nu(self, factor: float) -> None:
        """Multiplies nu by ``factor``. Call it when the scale of the loss changes, because nu scales with the loss.

        Args:
            factor: new scale / old scale, for example 1 / 65536 when training continues without loss scaling.

        Raises:
            TypeError, ValueError: ``factor`` is not a positive number.

        Example:
            >>> import torch, probkernels as pk
            >>> norm, weight = pk.nn.PowerNorm(2), torch.tensor([1.0, 2.0])
            >>> (norm(torch.ones(3, 2)) * weight).mean().mul(1024).backward()
            >>> norm.rescale_nu(1 / 1024)
            >>> norm.running_nu
            tensor([0.0167, 0.0333])
        """
        checks.positive(f"{self._op}.rescale_nu", "factor", factor, "new scale of the loss over the old one")
        self._settle()
        self.running_nu.mul_(factor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PowerNorm:
        self._settle()
        super()._apply(fn, recurse)
        self._make_probe()
        return self

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        state = super().__getstate__()
        del state["_probe"], state["_probe_of"], state["_reductions"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.sync = self._sync
        self._make_probe()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._settle()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also takes checkpoints of the official MaskPowerNorm: running_phi and ema_gz of shape (1, C, 1, 1)."""
        self._settle()
        if prefix + "running_phi" in state_dict:
            state_dict[prefix + "running_psi2"] = state_dict.pop(prefix + "running_phi").flatten()
        if prefix + "ema_gz" in state_dict:
            state_dict[prefix + "running_nu"] = (1 - self.alpha_bkw) * state_dict.pop(prefix + "ema_gz").flatten()
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._fit_probe()
        iters = state_dict.get(prefix + "iters")
        if iters is not None and not iters.is_meta:
            self._saw_iters(int(iters))


class PowerNormV(MeanSquareNorm):
    """PN-V: divides each feature by the batch's root mean square, with the exact gradient.

    This is the paper's ablation between BatchNorm and PowerNorm: no centering, batch statistics in training, a running
    mean square in evaluation. Arguments, shapes, masks, errors and state updates are those of :class:`PowerNorm`.

    Example:
        >>> import torch, probkernels as pk
        >>> y = pk.nn.PowerNormV(8)(torch.randn(16, 4, 8))
        >>> torch.allclose(y.square().mean((0, 1)), torch.ones(8), atol=1e-3)
        True
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        alpha_fwd: float = 0.9,
        affine: bool = True,
        num_groups: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, alpha_fwd, affine, num_groups, batch_first, device, dtype)

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Normalizes x (..., C); in training also updates the running mean square."""
        self._make_ready()
        mask = self._row_mask(x, pad_mask)
        if not self.training:
            return self._evaluate(x)
        y, mean_sq = V_FWD.call(x, self.weight, self.bias, mask, self._groups, self.epsilon)
        if torch.is_grad_enabled() and self._recomputed(x, mask) is None:
            mean_sq = mean_sq.detach()
            self._record(y, _Call(mean_sq, None, mean_sq))
            move_towards(self.running_psi2, mean_sq, 1 - self.alpha_fwd)
        return y
