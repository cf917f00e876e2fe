"""``Guided``: a denoiser whose predicted data are changed, by measurements, classifiers or other guidance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ._net import PLAIN, Setting, flat, outside_inference, replaced, wide
from .denoiser import Denoiser, Point, check_guidance, mixed
from .process import double, spread


class Predicted(NamedTuple):
    """One prediction, as a :class:`Change` sees it.

    x (B, *S) is the noised state, ``data`` (B, *S) the denoiser's prediction D of the clean data, and t (0-d or (B,))
    the time in float64; alpha and sigma are the process at t, in the shape that multiplies x.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import Predicted
        >>> one = torch.ones(1, 1)
        >>> seen = Predicted(one, 2 * one, torch.tensor(0.5), one, 0.5 * one)
        >>> seen.along(one)  # + sigma^2 / alpha, so that the score rises by one
        tensor([[2.2500]])
    """

    x: Tensor
    data: Tensor
    t: Tensor
    alpha: Tensor | float
    sigma: Tensor | float

    def along(self, score: Tensor) -> Tensor:
        """The data (B, *S) whose score, that of x, is larger by ``score`` (B, *S): Tweedie's formula."""
        return self.data + self.sigma**2 / self.alpha * score

    def gradient(self, value: Tensor) -> Tensor:
        """The gradient (B, *S) of the sum of ``value`` with respect to x, through the network if the change asks for
        it. It has a graph where gradients are enabled outside."""
        return self.pull(torch.ones_like(value), value)

    def pull(self, v: Tensor, value: Tensor | None = None) -> Tensor:
        """J^T v (B, *S), for the Jacobian J of ``value``, by default of the data, with respect to x."""
        value = self.data if value is None else value
        if not value.requires_grad:
            return torch.zeros_like(self.x)
        graph = torch.is_grad_enabled()
        (found,) = torch.autograd.grad(value, self.x, v, retain_graph=True, create_graph=graph, allow_unused=True)
        return torch.zeros_like(self.x) if found is None else found


class Change(nn.Module):
    """Base of changes to a prediction: ``forward(predicted)`` returns the new data (B, *S).

    A subclass sets ``through_net`` to True if it differentiates with respect to x. Its tensors that require a gradient
    are parameters or buffers, so that every gradient mode of :func:`sample` knows of them.

    Example:
        >>> from probkernels.diffusion import Change, Predicted
        >>> class Shrink(Change):
        ...     def forward(self, predicted: Predicted):
        ...         return 0.9 * predicted.data
        >>> Shrink().through_net
        False
    """

    through_net = False

    def forward(self, predicted: Predicted) -> Tensor:
        """The new data (B, *S)."""
        raise NotImplementedError


class ClassifierGuidance(Change):
    """Adds ``weight`` times the gradient of log p(y | x_t) of a classifier of noised data to the score.

    Args:
        log_prob: maps x (B, *S) and t (B,) to log p(y | x) (B,), differentiably; a module's parameters get gradients.
        weight: the weight, a number.

    Reference:
        Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, NeurIPS 2021.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, ClassifierGuidance, Denoiser, Guided
        >>> class Null(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(x)
        >>> guide = ClassifierGuidance(lambda x, t: -0.5 * (x - 1).square().sum(1), weight=2.0)
        >>> guided = Guided(Denoiser(Null(), VP(), pred="score"), guide)
        >>> guided.score(torch.zeros(1, 2), 0.5).detach().round()
        tensor([[2., 2.]])
    """

    through_net = True

    def __init__(self, log_prob: Callable[[Tensor, Tensor], Tensor], weight: float = 1.0) -> None:
        super().__init__()
        if not callable(log_prob):
            raise TypeError(message("ClassifierGuidance", "log_prob", "a function", checks.describe(log_prob)))
        self.log_prob, self.weight = log_prob, checks.number("ClassifierGuidance", "weight", weight)

    def forward(self, predicted: Predicted) -> Tensor:
        """See the base."""
        x, t = predicted.x, predicted.t
        with torch.enable_grad():
            value = self.log_prob(x, t.to(x).expand(len(x)))
        if tuple(value.shape) != (len(x),):
            got = f"shape {tuple(value.shape)}"
            raise ValueError(message("ClassifierGuidance", "log_prob", f"a result of shape ({len(x)},)", got))
        return predicted.along(self.weight * predicted.gradient(value))


class Guided(Denoiser):
    """A denoiser whose prediction of the data is changed in every call, so in every solver and gradient mode.

    Classifier-free guidance comes first: ``cond``, ``uncond`` and ``guidance`` of :func:`sample` belong to ``model``.
    Then each change replaces the data; noise and score follow from them.

    Args:
        model: the denoiser.
        changes: each a :class:`Change`, applied in this order.
        weight: w(t), a function of the time t (0-d or (B,), float64) that multiplies ``guidance``.
        interval: (low, high), the times at which classifier-free guidance counts; elsewhere ``cond`` alone does.
        rescale: phi in [0, 1]: the guided output is scaled to the standard deviation of the output for ``cond``, and
            phi of it is mixed with 1 - phi of the output that was not scaled.

    Raises:
        TypeError, ValueError: ``model`` is not a denoiser, a change is no module, or a number is out of range.

    Reference:
        Kynkäänniemi et al., NeurIPS 2024, for intervals; Lin et al., WACV 2024, for rescaling.

    Example:
        >>> import torch
        >>> from probkernels.diffusion import VP, Change, Denoiser, Guided, sample
        >>> class Ones(Change):
        ...     def forward(self, predicted):
        ...         return torch.ones_like(predicted.data)
        >>> class Null(torch.nn.Module):
        ...     def forward(self, x, t):
        ...         return torch.zeros_like(x)
        >>> guided = Guided(Denoiser(Null(), VP()), Ones())
        >>> bool((sample(guided, torch.randn(1, 2), steps=20) - 1).abs().max() < 0.1)
        True
    """

    combines = True
    net: Denoiser

    def __init__(
        self,
        model: Denoiser,
        *changes: Change,
        weight: Callable[[Tensor], Tensor | float] | None = None,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> None:
        if not isinstance(model, Denoiser):
            raise TypeError(message("Guided", "model", "a Denoiser", checks.describe(model)))
        super().__init__(model, model.process, pred="x0", time=lambda t: t)
        for i, change in enumerate(changes):
            if not isinstance(change, nn.Module):
                raise TypeError(message("Guided", f"changes[{i}]", "a Change", checks.describe(change)))
        checks.unit_interval("Guided", "rescale", rescale)
        if weight is not None and not callable(weight):
            raise TypeError(message("Guided", "weight", "a function of t", checks.describe(weight)))
        if interval is not None and not interval[0] <= interval[1]:
            raise ValueError(message("Guided", "interval", "(low, high) with low <= high", repr(interval)))
        self.changes, self.weight, self.interval, self.rescale = nn.ModuleList(changes), weight, interval, rescale
        self.through_net = any(getattr(change, "through_net", False) for change in changes)

    def needs_signal(self, kind: str) -> bool:
        """See the base."""
        return self.net.needs_signal("x0")

    def needs_noise(self, kind: str) -> bool:
        """See the base."""
        return super().needs_noise(kind) or self.net.needs_noise("x0")

    def _outputs(self, point: Point, x: Tensor, cond: Any, *, uncond: Any = None, **how: Any) -> Tensor:
        """The changed data (1, B, *S)."""
        enabled = torch.is_grad_enabled()
        with _recording() if self.through_net else contextlib.nullcontext():
            if self.through_net:  # of its own: what else depends on the state, for instance a condition, is constant
                x, cond, uncond = replaced((x, cond, uncond), outside_inference)
                x = x.view_as(x) if enabled and x.requires_grad else x.detach().requires_grad_()
            data, t = self._data(point, x, cond, uncond, **how)
            with torch.set_grad_enabled(enabled):
                process = self.process
                alpha, sigma = (spread(value, x) for value in (process.alpha(t), process.sigma(t)))
                for change in self.changes:
                    data = change(Predicted(x, data, t, alpha, sigma))
                    if not isinstance(data, Tensor) or data.shape != x.shape:
                        expected = f"changes that return data of shape {tuple(x.shape)}"
                        raise ValueError(message("Guided", "changes", expected, checks.describe(data)))
        return (data if enabled else data.detach())[None]

    def _data(
        self, point: Point, x: Tensor, cond: Any, uncond: Any, guidance: Any = None, setting: Setting = PLAIN
    ) -> tuple[Tensor, Tensor]:
        """The model's own prediction of the data (B, *S), and the time."""
        t = double(point.given)
        own = self.net.point("x0", t)
        if guidance is not None:
            check_guidance(guidance, len(x))
            guidance = self._weighted(guidance, t)
        outputs = self.net.outputs_at(own, x, cond, uncond=uncond, guidance=guidance, setting=setting)
        output = mixed(outputs, guidance)
        if self.rescale and guidance is not None:
            c = flat(outputs[1].to(wide(outputs.dtype)))
            ratio = c.std(1) / flat(output).std(1)
            output = output * spread(self.rescale * ratio + 1 - self.rescale, output)
        return self.net.convert(own, "x0", output, x), t

    def _weighted(self, guidance: float | Tensor, t: Tensor) -> float | Tensor:
        """The guidance weight at t."""
        if self.weight is not None:
            guidance = guidance * torch.as_tensor(self.weight(t)).to(getattr(guidance, "device", "cpu"))
        if self.interval is not None:
            inside = (t >= self.interval[0]) & (t <= self.interval[1])
            guidance = torch.as_tensor(guidance)
            guidance = torch.where(inside.to(guidance.device), guidance, torch.ones_like(guidance))
        return guidance


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Autograd records, also within torch.no_grad() and inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
