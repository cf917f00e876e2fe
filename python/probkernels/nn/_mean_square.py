"""The base of PowerNorm and PowerNormV: parameters, running mean square, evaluation, folding, recomputation."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from .._core.registry import in_backward
from ..ops.power_norm import FWD, STATS, check_groups
from ..reference import power_norm as reference

REMEMBERED = 64  # forwards under no_grad in training, one of which a reentrant checkpoint may repeat


class _Epsilon(float):
    """A number that equals no number. torch's transformer layers take two norms with equal `eps` for LayerNorms, and in
    evaluation compute LayerNorms in their place."""

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = float.__hash__


class _Call:
    """What one training forward used. It lives as long as that forward's graph, which alone refers to it."""

    def __init__(self, psi2: Tensor, nu: Tensor | None, mean_sq: Tensor) -> None:
        self.psi2, self.nu, self.mean_sq = psi2, nu, mean_sq  # each (C)


def move_towards(state: Tensor, mean_sq: Tensor, rate: Tensor | float) -> None:
    """state += rate (mean_sq - state), except where mean_sq is NaN or infinite: a bad batch must not poison it."""
    state.lerp_(torch.where(mean_sq < float("inf"), mean_sq.to(state.dtype), state), rate)


def _check_linear(op: str, linear: Any) -> None:
    """Raises unless a plain Linear with the same weight and bias computes the same."""
    plain = isinstance(linear, nn.Linear) and _forward_of(linear) is nn.Linear.forward
    if not plain:
        raise TypeError(message(op, "linear", "an nn.Linear with torch's forward", checks.describe(linear)))
    _check_hooks(op, "linear", linear)


def _check_hooks(op: str, name: str, module: nn.Module) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError(message(op, name, "a layer without forward hooks", "one with hooks", "the new layer has none"))


def _forward_of(module: nn.Module) -> Any:
    """The forward that the user's class has, below the class of an adapter."""
    made: Any = type(module)
    return getattr(made, "_base", made).forward if "forward" not in module.__dict__ else module.__dict__["forward"]


class MeanSquareNorm(nn.Module):
    """Base of the norms that divide features by a mean square: state (C), affine parameters (C), evaluation."""

    running_psi2: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        alpha_fwd: float,
        affine: bool,
        num_groups: int | None,
        batch_first: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self._op = type(self).__name__
        checks.integer(self._op, "num_features", num_features)
        checks.positive(self._op, "eps", eps)
        checks.fraction(self._op, "alpha_fwd", alpha_fwd)
        self.num_features, self.num_groups = num_features, num_groups
        self.epsilon, self.alpha_fwd, self.batch_first = float(eps), alpha_fwd, batch_first
        self._groups = check_groups(self._op, num_features, num_groups)
        state_dtype = torch.float64 if dtype is torch.float64 else torch.float32
        self.register_buffer("running_psi2", torch.ones(num_features, device=device, dtype=state_dtype))
        if affine:
            self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
            self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        self._calls: list[weakref.ref[_Call]] = []
        self._without_grad: deque[_Call] = deque(maxlen=REMEMBERED)
        self._unchecked = self.running_psi2.is_meta  # state that a loader will bring, or forget

    @property
    def eps(self) -> float:
        """``epsilon`` as torch's norms call it. It equals no number, see _Epsilon: compare ``epsilon``."""
        if torch.compiler.is_compiling():  # which does not know the class; NaN equals nothing either
            return float("nan")
        return _Epsilon(self.epsilon)

    def reset_running_stats(self) -> None:
        """Sets the running mean square to 1, as in a new module."""
        self.running_psi2.fill_(1)

    def reset_parameters(self) -> None:
        """Resets the running statistics, the weight to 1 and the bias to 0."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """The settings shown by print(module)."""
        return (
            f"{self.num_features}, eps={self.epsilon}, num_groups={self.num_groups}, affine={self.weight is not None}"
        )

    def fold_into(self, linear: nn.Linear) -> nn.Linear:
        """Folds this norm into the next layer: a new Linear that equals ``linear(self(x))`` in eval mode.

        Args:
            linear: the next layer; its ``in_features`` must equal this norm's ``num_features``.

        Raises:
            TypeError: ``linear`` has a forward of its own, or one of the two has forward hooks.
            ValueError: the features differ, or group scaling is on (it depends on x and cannot be folded).

        Example:
            >>> import torch, probkernels as pk
            >>> norm, linear = pk.nn.PowerNorm(4).eval(), torch.nn.Linear(4, 3)
            >>> x = torch.randn(2, 4)
            >>> torch.allclose(norm.fold_into(linear)(x), linear(norm(x)), atol=1e-6)
            True
        """
        op = f"{self._op}.fold_into"
        if self._groups:
            hint = "fold only norms with num_groups=None"
            raise ValueError(message(op, "self", "a norm without group scaling", f"num_groups={self.num_groups}", hint))
        _check_linear(op, linear)
        _check_hooks(op, "self", self)
        if linear.in_features != self.num_features:
            expected = f"in_features {self.num_features}"
            raise ValueError(message(op, "linear", expected, f"in_features {linear.in_features}"))
        scale = torch.rsqrt(self.running_psi2 + self.epsilon)
        if self.weight is not None:
            scale = scale * self.weight
        folded = nn.Linear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None or self.bias is not None,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        with torch.no_grad():
            folded.weight.copy_(linear.weight * scale)
            if folded.bias is not None:
                shift = 0 if self.bias is None else linear.weight @ self.bias.to(linear.weight.dtype)
                folded.bias.copy_(shift if linear.bias is None else linear.bias + shift)
        return folded

    # --- for the subclasses ---

    def _row_mask(self, x: Tensor, pad_mask: Tensor | None) -> Tensor | None:
        """Checks x, and gives pad_mask the shape of x's rows: fairseq and torch keep it (B, T) for x (T, B, C)."""
        checks.float_tensor(self._op, "x", x, "cast it, for example with x.float()")
        if x.is_nested:
            hint = "torch.nn.TransformerEncoder(..., enable_nested_tensor=False) keeps x dense"
            raise ValueError(message(self._op, "x", "a dense tensor", "a nested tensor", hint))
        if x.dim() == 0 or x.shape[-1] != self.num_features:
            raise ValueError(message(self._op, "x", f"shape (..., {self.num_features})", f"shape {tuple(x.shape)}"))
        if pad_mask is None:
            return None
        checks.bool_tensor(self._op, "pad_mask", pad_mask, "True marks padding")
        if self.batch_first or x.dim() != 3:
            checks.shape(self._op, "pad_mask", pad_mask, x.shape[:-1], "(x without its features)")
            return pad_mask
        hint = "pass batch_first=True to the module for x (B, T, C)"
        checks.shape(self._op, "pad_mask", pad_mask, (x.shape[1], x.shape[0]), "(B, T) for x (T, B, C)", hint)
        return pad_mask.t()

    def _evaluate(self, x: Tensor) -> Tensor:
        """x / sqrt(psi2 + eps) * weight + bias, without touching the state."""
        args = (x, self.weight, self.bias, self.running_psi2, None, None, self._groups, self.epsilon, False, False)
        if torch.compiler.is_compiling():  # plain torch, which a compiler fuses with its neighbors and export knows
            return reference.power_norm_fwd(*args)[0]
        return FWD.call(*args)[0]

    def _record(self, y: Tensor, call: _Call) -> None:
        """Ties ``call`` to y's graph, so that a checkpointed segment's recomputation can find it."""
        if not torch.compiler.is_compiling() and y.grad_fn is not None:
            y.grad_fn._power_norm_call = call  # type: ignore[attr-defined]
            self._calls[:] = [ref for ref in self._calls if ref() is not None]
            self._calls.append(weakref.ref(call))

    def _remember(self, call: _Call) -> None:
        """Keeps what a training forward under no_grad used: a reentrant checkpoint's backward will repeat it."""
        if not torch.compiler.is_compiling():
            self._without_grad.append(call)

    def _first_without_grad(self, x: Tensor, pad_mask: Tensor | None) -> _Call | None:
        """The forward under no_grad that this one repeats, if a reentrant checkpoint's backward is recomputing it."""
        if torch.compiler.is_compiling() or not in_backward() or not self._without_grad:
            return None
        calls = list(self._without_grad)[::-1]  # of equal ones the newest
        mean_sq = STATS.call(x.detach(), pad_mask, self._groups, self.epsilon)
        distance = self._distance(calls, mean_sq)
        nearest = int(distance.argmin())
        if bool(distance[nearest] <= 1e-5 * mean_sq.sum()):
            self._without_grad.remove(calls[nearest])
            return calls[nearest]
        if len(calls) == REMEMBERED:
            raise RuntimeError(
                f"{self._op}: a reentrant checkpoint recomputes a forward with more than {REMEMBERED} later ones under"
                " no_grad. Hint: use_reentrant=False remembers every forward"
            )
        return None

    @staticmethod
    def _distance(calls: Sequence[_Call], mean_sq: Tensor) -> Tensor:
        """(calls) how far the batch statistic of each is from mean_sq (C)."""
        return torch.stack([(call.mean_sq - mean_sq).abs().sum() for call in calls])

    def _recomputed(self, x: Tensor, pad_mask: Tensor | None) -> _Call | None:
        """The earlier call that this forward repeats, if a non-reentrant checkpoint's backward is recomputing it."""
        if torch.compiler.is_compiling() or not in_backward():
            return None
        live = [call for ref in self._calls if (call := ref()) is not None]
        if not live or (len(live) == 1 and not self._without_grad):
            return live[0] if live else None
        # Several calls await their backward: the one with the same batch statistic, found without a host sync.
        mean_sq = STATS.call(x.detach(), pad_mask, self._groups, self.epsilon)
        distance = self._distance(live, mean_sq)
        if self._without_grad and bool(self._distance(self._without_grad, mean_sq).min() < distance.min()):
            return None  # a reentrant checkpoint repeats another one
        nearest = distance.argmin()

        def pick(of: Callable[[_Call], Tensor]) -> Tensor:
            return torch.stack([of(call) for call in live])[nearest]

        nu = None if live[0].nu is None else pick(lambda call: call.nu)  # type: ignore[arg-type, return-value]
        return _Call(pick(lambda call: call.psi2), nu, mean_sq)

    def _state_names(self) -> tuple[str, ...]:
        return ("running_psi2",)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MeanSquareNorm:
        before = {name: getattr(self, name) for name in self._state_names()}
        super()._apply(fn, recurse)
        for name, old in before.items():  # .half() and .bfloat16() must not round running state
            new = getattr(self, name)
            if new.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, old.to(device=new.device))
        self._leave_meta(before["running_psi2"])
        return self

    def _leave_meta(self, before: Tensor) -> None:
        """Initializes state that comes from the meta device (for instance by to_empty) as in a new module."""
        if before.is_meta and not self.running_psi2.is_meta:
            with torch.no_grad():
                self.reset_running_stats()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Also takes a LayerNorm's checkpoint, which has no statistics: those on meta start as in a new module."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        psi2, weight = self.running_psi2, self.weight
        if psi2.is_meta and prefix + "running_psi2" not in state_dict and weight is not None and not weight.is_meta:
            for name in self._state_names():
                setattr(self, name, torch.empty_like(getattr(self, name), device=weight.device))
            self._leave_meta(psi2)

    def _make_ready(self) -> None:
        """Checks once, before the first forward, state that was made on the meta device."""
        if self._unchecked and not torch.compiler.is_compiling() and not self.running_psi2.is_meta:
            if not self._is_plausible():
                hint = "call reset_running_stats() where the checkpoint has none, as that of a LayerNorm"
                got = f"what nobody wrote, for example {self.running_psi2[:3].tolist()}"
                raise ValueError(message(self._op, "running_psi2", "statistics of a checkpoint", got, hint))
            self._unchecked = False

    def _is_plausible(self) -> bool:
        """Whether the state can be statistics rather than uninitialized memory."""
        return bool((self.running_psi2.isfinite() & (self.running_psi2 > 1e-30)).all())

    def __getstate__(self) -> dict[str, Any]:
        calls: dict[str, Any] = {"_calls": [], "_without_grad": deque(maxlen=REMEMBERED)}
        return {**self.__dict__, **calls}  # graphs are not copied, so neither are their calls
