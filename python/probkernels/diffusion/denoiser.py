"""``Denoiser``: wraps a network and converts its prediction to noise, data, velocity or score."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from .._core.registry import numbers_known
from ._net import PLAIN, Setting, call, check_state, flat, join, wide
from ._predictions import PREDICTIONS, conversion, edm_norm
from ._ranges import outside, refuse_outside
from .chain import VPDiscrete
from .process import Process, Time, double, spread

KINDS = ("eps", "x0")
Clip = float | tuple[float, float] | None


def times_of(t: Time, x: Tensor) -> Tensor:
    """Times in float64. A time per row moves to x's device; a 0-d time stays where it is, best on the CPU."""
    t = double(t)
    return t.to(x.device) if t.ndim else t


class Point(NamedTuple):
    """The coefficients of a denoiser at one time: numbers, or tensors 0-d or (B,)."""

    given: Tensor | float  # to the net, in place of t
    scale: Tensor | float | None  # of the net's input
    on_x: Tensor | float  # the prediction is on_x x + on_output output: of the data if there is clipping
    on_output: Tensor | float
    back_x: Tensor | float  # the prediction is back_x x - back_data x0 of clipped data
    back_data: Tensor | float

    def live(self) -> list[Tensor]:
        """The entries that carry a gradient."""
        return [value for value in self if isinstance(value, Tensor) and value.requires_grad]

    def with_live(self, values: Tensor) -> Point:
        """This point with the entries of :meth:`live` (k,) changed."""
        fresh = iter(values)
        entries: list[Any] = [next(fresh) if isinstance(v, Tensor) and v.requires_grad else v for v in self]
        return Point(*entries)


class Denoiser(nn.Module):
    """Wraps a network and converts its output to noise, data, velocity or score.

    The conversions follow from x = alpha x0 + sigma eps. Where no signal or no noise is left, a prediction is its
    limit, or raises if it has none. Data may have any shape; pass complex data through ``torch.view_as_real``.

    Args:
        net: the network, called as ``net(x, t)``, or as ``net(x, t, cond)`` with a condition. x is (B, *S); t is (B,)
            in x's dtype, at least float32. The net gets copies and may write to them. A condition is a tensor, or
            nested tuples, lists, dicts and dataclasses that hold tensors and other values.
        process: the process that adds noise to the data.
        pred: what the net's output (B, *S) is. "eps": the noise. "x0": the data. "v": alpha eps - sigma x0. "score":
            -eps / sigma. "flow": eps - x0. "edm": F in x0 = c_skip y + c_out F(c_in y), with y = x / alpha; this net
            gets c_in y in place of x, and log(rho) / 4 in place of t unless ``time`` is given.
        clip: bounds on the predicted data: a number c for -c .. c, or a pair. Noise and score use the clipped data.
        dynamic: dynamic clipping by a quantile in (0, 1] of each sample's absolute values, interpolated as in numpy. A
            sample whose quantile exceeds ``clip`` is cut at the quantile and scaled down to ``clip``. A pair
            (quantile, bound) also bounds the quantile's value from above.
        time: a function of t that gives the net's time input. By default this input is log(rho) / 4 for "edm", the
            step t N - 1 for a :class:`VPDiscrete` process, and t itself otherwise.
        sigma_data: standard deviation of the data, for "edm".
        variance: True for a net whose output is (B, 2 C, ...) and whose second half places the variance of a step
            between two bounds. :func:`hybrid_loss` trains this half, :func:`learned_ancestral` uses it, and other
            samplers ignore it.

    Raises:
        TypeError: ``net`` is not a module, or ``process`` is not a :class:`Process`.
        ValueError: the prediction is unknown, or bounds are invalid.

    Reference:
        Salimans and Ho, Progressive Distillation, ICLR 2022, for v; Karras et al., NeurIPS 2022, for edm; Saharia et
        al., Imagen, NeurIPS 2022, for dynamic clipping; Ho and Salimans, 2022, for classifier-free guidance.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Denoiser
        >>> class Null(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(x)
        >>> denoiser = Denoiser(Null(), VP(), pred="x0")
        >>> x, t = torch.ones(2, 3), 0.5
        >>> bool(torch.allclose(denoiser.eps(x, t), x / denoiser.process.sigma(t)))
        True
    """

    combines = False  # whether calls combine the outputs of guidance themselves, and return one

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        pred: str = "eps",
        *,
        clip: Clip = None,
        dynamic: float | tuple[float, float] | None = None,
        time: Callable[[Tensor], Tensor] | None = None,
        sigma_data: float = 0.5,
        variance: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(message("Denoiser", "net", "a torch.nn.Module", checks.describe(net)))
        if not isinstance(process, Process):
            raise TypeError(message("Denoiser", "process", "a Process", checks.describe(process)))
        checks.one_of("Denoiser", "pred", pred, PREDICTIONS)
        checks.positive("Denoiser", "sigma_data", sigma_data)
        self.net, self.process, self.pred, self.time, self.sigma_data = net, process, pred, time, sigma_data
        self.clip, self.variance = _bounds(clip), variance
        self.dynamic = (dynamic, torch.inf) if isinstance(dynamic, (int, float)) else dynamic
        if self.dynamic is not None and not _fits(self.dynamic, self.clip):
            expected = "a quantile in (0, 1], with symmetric bounds in 'clip', or it and a number above them"
            raise ValueError(message("Denoiser", "dynamic", expected, repr(dynamic)))

    def forward(
        self, x: Tensor, t: Time, cond: Any = None, *, uncond: Any = None, guidance: float | Tensor | None = None
    ) -> Tensor:
        """The net's own output (B, *S), combined by guidance if ``guidance`` is given.

        Args:
            x: (B, *S) float, noised to time ``t``.
            t: times, 0-d or (B,).
            cond: the net's third argument; None calls the net without one.
            uncond: the null condition, for guidance only; one row may stand for the whole batch.
            guidance: w in u + w (c - u), where u and c are the outputs for ``uncond`` and ``cond``. The net is called
                once with 2B rows, ``uncond`` first. A number, or a tensor 0-d or (B,).
        """
        self._check(x, t)
        self.refuse_ends("", x, double(t))
        output = self.output_at(self._inputs(times_of(t, x)), x, cond, uncond=uncond, guidance=guidance)
        return output if guidance is None else output.to(x.dtype)

    def output(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """:meth:`forward` at times t (B,) on x's device, for callers that have called :meth:`refuse_ends`."""
        self._check(x, t)
        return self.output_at(self._inputs(t), x, cond)

    def eps(self, x: Tensor, t: Time, cond: Any = None, **guide: Any) -> Tensor:
        """The predicted noise (B, *S). Takes the arguments of :meth:`forward`."""
        return self.predict("eps", x, t, cond, **guide)

    def x0(self, x: Tensor, t: Time, cond: Any = None, **guide: Any) -> Tensor:
        """The predicted data (B, *S): E[x_0 | x_t] for a perfect net. Takes the arguments of :meth:`forward`."""
        return self.predict("x0", x, t, cond, **guide)

    def v(self, x: Tensor, t: Time, cond: Any = None, **guide: Any) -> Tensor:
        """The predicted velocity alpha eps - sigma x0 (B, *S). Takes the arguments of :meth:`forward`."""
        return self._predicted("v", x, t, cond, **guide)

    def score(self, x: Tensor, t: Time, cond: Any = None, **guide: Any) -> Tensor:
        """The predicted gradient of log p_t (B, *S). Takes the arguments of :meth:`forward`."""
        return self._predicted("score", x, t, cond, **guide)

    def predict(self, kind: str, x: Tensor, t: Time, cond: Any = None, **guide: Any) -> Tensor:
        """Calls :meth:`eps` or :meth:`x0`: ``kind`` is "eps" or "x0"."""
        checks.one_of("Denoiser", "kind", kind, KINDS)
        return self._predicted(kind, x, t, cond, **guide)

    def _predicted(self, kind: str, x: Tensor, t: Time, cond: Any, **guide: Any) -> Tensor:
        self._check(x, t)
        self.refuse_ends(kind, x, double(t))
        return self.predict_at(self.point(kind, times_of(t, x)), kind, x, cond, **guide)

    def predict_at(
        self,
        point: Point,
        kind: str,
        x: Tensor,
        cond: Any = None,
        *,
        uncond: Any = None,
        guidance: float | Tensor | None = None,
        setting: Setting = PLAIN,
    ) -> Tensor:
        """:meth:`predict` with coefficients that :meth:`point` or :meth:`points` computed before.

        ``setting`` holds the options that all calls of a sampling run share.
        """
        output = self.output_at(point, x, cond, uncond=uncond, guidance=guidance, setting=setting)
        return self.convert(point, kind, output, x)

    def convert(self, point: Point, kind: str, output: Tensor, x: Tensor) -> Tensor:
        """Converts the net's output (B, *S) at x (B, *S) to noise or data in x's dtype.

        Rounds once, at the end: the factors grow with 1 / alpha and would overflow in float16.
        """
        u = x.to(wide(x.dtype))
        value = spread(point.on_x, u) * u + spread(point.on_output, u) * output.to(u.dtype)
        if self.clip is not None:
            value = self._clipped(value)
            if kind != "x0":
                value = spread(point.back_x, u) * u - spread(point.back_data, u) * value
        return value.to(x.dtype)

    def point(self, kind: str, t: Tensor) -> Point:
        """The coefficients for predicting ``kind`` at times of any shape, in float64; "" asks for the output alone."""
        if not kind:
            return self._inputs(t)
        a, s = self.process.alpha(t), self.process.sigma(t)
        on_x, on_output = conversion(kind if self.clip is None else "x0", self.pred, a, s, self.sigma_data)
        back = conversion(kind, "x0", a, s, self.sigma_data)
        return self._inputs(t)._replace(on_x=on_x, on_output=on_output, back_x=back[0], back_data=-back[1])

    def _inputs(self, t: Tensor) -> Point:
        """:meth:`point` for callers that want the net's own output."""
        edm = self.pred == "edm"
        scale = 1 / edm_norm(self.process.alpha(t), self.process.sigma(t), self.sigma_data) if edm else None
        if self.time is not None:
            given = self.time(t)
        elif edm:
            given = self.process.rho(t).log() / 4
        else:
            given = self.process.index(t) if isinstance(self.process, VPDiscrete) else t
        return Point(given, scale, 0.0, 1.0, 0.0, 1.0)

    def points(self, kind: str, t: Tensor) -> list[Point]:
        """:meth:`point` at each time of t (n,), as numbers, so that a loop over steps computes nothing.

        An entry with a gradient to the times, the process or ``time`` stays a 0-d tensor.
        """
        columns = [_entries(value, len(t)) for value in self.point(kind, t)]
        return [Point(*row) for row in zip(*columns, strict=True)]

    def coefficients(self, kind: str, t: Time) -> tuple[Tensor, Tensor]:
        """p and q, float64 in t's shape, such that ``kind`` equals p x + q output before any clipping."""
        t = double(t)
        return conversion(kind, self.pred, self.process.alpha(t), self.process.sigma(t), self.sigma_data)

    def needs_signal(self, kind: str) -> bool:
        """Whether ``kind`` cannot be told from the output where no signal is left."""
        of_noise = self.pred in ("eps", "score") and (kind in ("x0", "v") or self.clip is not None)
        return (bool(kind) and of_noise) or self.needs_log_rho()

    def needs_noise(self, kind: str) -> bool:
        """Whether ``kind`` cannot be told from the output where no noise is left."""
        of_data = kind in ("eps", "v") and (self.pred == "x0" or self.clip is not None)
        of_noise = kind == "score" and (self.pred != "score" or self.clip is not None)
        return of_data or of_noise or self.needs_log_rho()

    def needs_log_rho(self) -> bool:
        """Whether the net is given log(rho) / 4, which is infinite at both ends."""
        return self.pred == "edm" and self.time is None

    @torch.no_grad()
    def refuse_ends(self, kind: str, x: Tensor, t: Tensor, op: str = "Denoiser") -> None:
        """Refuses times outside the process, and times without signal or noise where what is asked has no limit; ""
        asks for the output alone.

        Looks at t (B,) or 0-d where the caller holds it, so that times on the CPU need no wait for a GPU. Compilers,
        transforms of functions, meta and fake tensors and captures of CUDA graphs have no numbers to look at: there,
        such rows are infinite or NaN.
        """
        if not numbers_known(x, t):
            return
        ends = ("signal", self.needs_signal, self.process.alpha), ("noise", self.needs_noise, self.process.sigma)
        asked = [(name, size(t) == 0) for name, needs, size in ends if needs(kind)]
        wrong = outside(t, self.process.t_max)
        for _, gone in asked:
            wrong = wrong | gone
        if not bool(wrong.any()):  # one look, for a GPU waits for it
            return
        refuse_outside(op, t, self.process.t_max)
        name, gone = asked[0] if bool(asked[0][1].any()) else asked[-1]
        what = f"for '{kind}' of a net with pred {self.pred!r}" if kind else f"as pred is {self.pred!r}"
        hint = "there is no limit: take times a little further inside, or a network with another prediction"
        got = f"none at t = {checks.offender(t, gone)}"
        raise ValueError(message(op, "t", f"times with some {name} left, {what}", got, hint))

    def both(
        self, x: Tensor, t: Time, cond: Any = None, *, uncond: Any = None, guidance: float | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both halves, (B, *S) each, of a net with ``variance=True``: output and variance part.

        Takes the arguments of :meth:`forward`. Guidance combines outputs only; the variance part belongs to ``cond``.
        """
        if not self.variance:
            raise ValueError(message("Denoiser", "variance", "True, a net that has a second half", "False"))
        self._check(x, t)
        self.refuse_ends("", x, double(t))
        return self.both_at(self.point("x0", times_of(t, x)), x, cond, uncond=uncond, guidance=guidance)

    def both_at(
        self, point: Point, x: Tensor, cond: Any = None, *, guidance: float | Tensor | None = None, **how: Any
    ) -> tuple[Tensor, Tensor]:
        """:meth:`both` with coefficients that were computed before."""
        outputs = self._outputs(point, x, cond, guidance=guidance, **how)
        return mixed(outputs.chunk(2, 2)[0], guidance), outputs[-1].chunk(2, 1)[1]

    def output_at(
        self, point: Point, x: Tensor, cond: Any = None, *, guidance: float | Tensor | None = None, **how: Any
    ) -> Tensor:
        """:meth:`forward` with coefficients that were computed before."""
        return mixed(self.outputs_at(point, x, cond, guidance=guidance, **how), guidance)

    def outputs_at(self, point: Point, x: Tensor, cond: Any = None, **how: Any) -> Tensor:
        """The net's outputs (G, B, *S) that guidance combines: with ``uncond`` and ``cond``, or with ``cond`` alone."""
        outputs = self._outputs(point, x, cond, **how)
        return outputs.chunk(2, 2)[0] if self.variance else outputs

    def _outputs(
        self,
        point: Point,
        x: Tensor,
        cond: Any,
        *,
        uncond: Any = None,
        guidance: float | Tensor | None = None,
        setting: Setting = PLAIN,
    ) -> Tensor:
        """:meth:`outputs_at` with the half for variances, in one call of the net."""
        if guidance is None:
            if uncond is not None:
                hint = "guidance=1.0 is 'cond' alone; leave out uncond for that"
                raise ValueError(message("Denoiser", "guidance", "its strength, as uncond is given", "None", hint))
            return self._whole(point, x, cond, setting)[None]
        if cond is None or uncond is None:
            hint = "guidance compares the two; uncond is for instance the null token"
            missing = "cond" if cond is None else "uncond"
            raise ValueError(message("Denoiser", missing, "a condition, as guidance is given", "None", hint))
        check_guidance(guidance, x.shape[0])
        doubled = Point(*(c.repeat(2) if isinstance(c, Tensor) and c.ndim else c for c in point))  # type: ignore[arg-type]
        return self._whole(doubled, torch.cat([x, x]), join(uncond, cond, x), setting).unflatten(0, (2, x.shape[0]))

    def _whole(self, point: Point, x: Tensor, cond: Any, setting: Setting) -> Tensor:
        rows, precise, narrow = x.shape[0], wide(x.dtype), setting.dtype or x.dtype
        if point.scale is not None:
            x = x.to(precise)
            x = x * spread(point.scale, x)
        if isinstance(point.given, Tensor):
            given = point.given.to(device=x.device, dtype=precise).expand(rows).clone()
        else:
            given = torch.full((rows,), point.given, device=x.device, dtype=precise)
        shape = (rows, 2 * x.shape[1], *x.shape[2:]) if self.variance else tuple(x.shape)
        hint = "" if self.variance else "a net that also predicts variances needs variance=True"
        return call(self.net, x.to(narrow, copy=True), given, cond, shape, hint, setting)

    def _clipped(self, data: Tensor) -> Tensor:
        low, high = self.clip or (-torch.inf, torch.inf)
        if self.dynamic is None:
            return data.clamp(low, high)
        quantile, most = self.dynamic
        ranked = flat(data).abs().sort(1).values
        place = quantile * (ranked.shape[1] - 1)
        below, above = ranked[:, math.floor(place)], ranked[:, math.ceil(place)]
        reach = spread((below + (above - below) * (place % 1)).clamp(high, most), data)
        return torch.minimum(torch.maximum(data, -reach), reach) * (high / reach)

    def _check(self, x: Tensor, t: Time) -> None:
        check_state("Denoiser", "x", x)
        if isinstance(t, Tensor) and t.ndim and t.shape != x.shape[:1]:
            checks.shape("Denoiser", "t", t, x.shape[:1], "(or 0-d): one time a sample")


def check_guidance(guidance: object, rows: int) -> None:
    """Checks that guidance is a number or a tensor, of one weight or one a row."""
    if isinstance(guidance, Tensor) and guidance.numel() not in (1, rows):
        checks.shape("Denoiser", "guidance", guidance, (rows,), "(or 0-d): one weight a sample")
    if not isinstance(guidance, (Tensor, Real)) or isinstance(guidance, bool):
        raise TypeError(message("Denoiser", "guidance", "a number or a tensor", checks.describe(guidance)))


def mixed(outputs: Tensor, guidance: float | Tensor | None) -> Tensor:
    """u + w (c - u) (B, *S) of u and c in (2, B, *S), float32 at least. The output as it is without guidance, or if it
    is one already combined."""
    if guidance is None or len(outputs) == 1:
        return outputs[0]
    u, c = outputs.to(wide(outputs.dtype))
    return u + spread(guidance if isinstance(guidance, Tensor) else float(guidance), c) * (c - u)


def _entries(value: Tensor | float | None, n: int) -> list[Any]:
    """One value per time: a number, or a 0-d tensor if the value requires a gradient."""
    if not isinstance(value, Tensor):
        return [value] * n
    return list(value.expand(n)) if value.requires_grad else value.expand(n).tolist()


def _bounds(clip: Clip) -> tuple[float, float] | None:
    if clip is None:
        return None
    low, high = (-clip, clip) if isinstance(clip, (int, float)) else clip
    if not low < high:
        raise ValueError(message("Denoiser", "clip", "bounds low < high", repr(clip)))
    return float(low), float(high)


def _fits(dynamic: tuple[float, float], clip: tuple[float, float] | None) -> bool:
    quantile, most = dynamic
    return clip is not None and clip[0] == -clip[1] and 0 < quantile <= 1 and most >= clip[1]
