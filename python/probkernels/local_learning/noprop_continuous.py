"""NoProp in continuous time: one network for all noise levels, by diffusion (CT) or flow matching (FM)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from . import _denoising
from ._denoising import noise_like
from .embeddings import LabelEmbedding
from .label_schedules import LabelSchedule, LearnedSchedule

WAYS = ("posterior", "flow")


class _Continuous(_denoising.Denoising):
    """A model of one network ``net(z, x, t)``."""

    def __init__(
        self, net: nn.Module, num_classes: int, embed: str | int | Tensor | LabelEmbedding, head: str | nn.Module
    ) -> None:
        super().__init__(num_classes, embed, head)
        if not isinstance(net, nn.Module):
            raise TypeError(message(self.op, "net", "a module net(z, x, t)", checks.describe(net)))
        self.net = net

    def _times(self, u: Tensor, generator: torch.Generator | None) -> Tensor:
        """One uniform time (b, 1) a row."""
        place = u.device if generator is None else generator.device
        return torch.rand((len(u), 1), generator=generator, dtype=u.dtype, device=place).to(u.device)

    def _call(self, z: Tensor, x: Tensor, t: Tensor | float) -> Tensor:
        """Logits (b, K) at times (b, 1), or at one time."""
        times = z.new_full((len(z),), t) if isinstance(t, float) else t[:, 0].to(z.dtype)
        return self._logits(self.net, "net", z, x, times)


class NoPropCT(_Continuous):
    """The limit of :class:`NoPropDT` for many blocks: one network of (z, x, t), and a noise curve that is learned.

    Args:
        net: network ``net(z, x, t)`` from z (b, d), a batch x and times (b,) in [0, 1] to logits (b, K).
        num_classes: number K of classes.
        embed: vectors of the classes, see :class:`LabelEmbedding`, or one of these.
        schedule: the falling curve gamma(t) of times in [0, 1], differentiable, of which SNR = exp(-gamma); None for a
            :class:`LearnedSchedule`.
        eta: weight of the denoising loss.
        head: read-out from z_1 to logits (b, K): "linear", "radial" or a module.

    Raises:
        TypeError, ValueError: an argument of another type or out of range.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import NoPropCT
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(3 + 4 + 1, 3)
        ...     def forward(self, z, x, t):
        ...         return self.layer(torch.cat([z, x, t[:, None]], 1))
        >>> model, x = NoPropCT(Net(), num_classes=3), torch.randn(8, 4)
        >>> model.loss(x, torch.arange(8) % 3).backward()  # of the curve, too
        >>> model.schedule.inner.grad.shape, model.predict(x, steps=10).shape
        (torch.Size([32]), torch.Size([8]))
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        embed: str | int | Tensor | LabelEmbedding = "onehot",
        *,
        schedule: Callable[[Tensor], Tensor] | None = None,
        eta: float = 1.0,
        head: str | nn.Module = "linear",
    ) -> None:
        super().__init__(net, num_classes, embed, head)
        checks.positive(self.op, "eta", eta)
        self.schedule, self.eta = LearnedSchedule() if schedule is None else schedule, eta

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of the read-out + KL of z_0 + eta/2 SNR'(t) ||uhat - u||^2 with a random time for each row.

        Args:
            x: (b, ...) inputs.
            y: (b,) classes.
            generator: source of times and noise.

        Raises:
            TypeError, ValueError: labels out of range, no rows, inputs that are not finite, or other logits.
        """
        self._check("loss", x, y, norms=self.net)
        u = self.embedding(y)
        t = self._times(u, generator)
        abar, slope = self._level(t)
        noise, last = noise_like(u, generator), noise_like(u, generator)
        z = abar.sqrt().to(u.dtype) * u + (1 - abar).sqrt().to(u.dtype) * noise
        errors = (self._guess(self._call(z, x, t)) - u).square().sum(-1)
        low, high = (-self.schedule(torch.tensor([0.0, 1.0], dtype=torch.float64, device=u.device)).double()).sigmoid()
        return self._ends(u, y, low, high, last) + 0.5 * self.eta * (slope[:, 0].to(errors) * errors).mean()

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """abar and SNR' at times, float64. Gradients reach the curve."""
        learn = torch.is_grad_enabled()
        with torch.enable_grad():
            t = t.detach().double().requires_grad_()
            gamma = self.schedule(t).double()
            (slope,) = torch.autograd.grad(gamma.sum(), t, create_graph=learn)
        return (-gamma).sigmoid(), -slope * (-gamma).exp()

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        noise: bool = True,
        return_path: bool = False,
        *,
        steps: int = 1000,
        way: str = "posterior",
        z0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Turns pure noise into z_1 in equal steps of time, in evaluation mode.

        Args:
            x: (b, ...) inputs.
            noise: whether each step of "posterior" adds noise.
            return_path: whether to return z after every step, and z_0 before.
            steps: number of calls of the network.
            way: "posterior" for the steps of :class:`NoPropDT`, "flow" for the ODE of the same marginals.
            z0: (b, d) start; None for standard normal noise.
            generator: source of all noise.

        Returns:
            z_1 (b, d), or the path (steps + 1, b, d).
        """
        self._check("sample", x)
        checks.one_of(f"{self.op}.sample", "way", way, WAYS)
        levels = LabelSchedule.of_curve(self.schedule, steps, self.embedding.weight.device)
        path = [self._start(x, z0, generator)]
        with _denoising.evaluating(self):
            for n in range(1, steps + 1):
                z = path[-1]
                guess = self._guess(self._call(z, x, (n - 1) / steps))
                if way == "flow":
                    z = levels.flow_step(n, z, guess)
                else:
                    z = levels.step(n, z, guess, noise_like(z, generator) if noise else None)
                path = [*path, z] if return_path else [z]
        return torch.stack(path) if return_path else path[0]

    @torch.no_grad()
    def predict(
        self,
        x: Tensor,
        noise: bool = True,
        *,
        steps: int = 1000,
        way: str = "posterior",
        z0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The classes (b,) that the read-out finds in :meth:`sample`."""
        z = self.sample(x, noise, steps=steps, way=way, z0=z0, generator=generator)
        with _denoising.evaluating(self):
            return self.head(z).argmax(1)


class NoPropFM(_Continuous):
    """Flow matching: one network of (z, x, t) is trained to be the velocity from noise to the label's vector.

    Args:
        net: network ``net(z, x, t)`` from z (b, d), a batch x and times (b,) in [0, 1] to logits (b, K). The velocity
            is the sum of the vectors of all classes, weighted by the logits; no softmax is taken.
        num_classes: number K of classes.
        embed: vectors of the classes, see :class:`LabelEmbedding`, or one of these.
        sigma: standard deviation of the noise around the straight path.
        head: read-out from z_1 to logits (b, K): "linear", "radial" or a module. It trains learned vectors and is used
            for nothing else.

    Raises:
        TypeError, ValueError: an argument of another type or out of range.

    Example:
        >>> import torch
        >>> from probkernels.local_learning import NoPropFM
        >>> class Net(torch.nn.Module):
        ...     def forward(self, z, x, t):  # knows that the class is 1
        ...         return (torch.tensor([0.0, 1.0]) - z) / (1 - t[:, None])
        >>> NoPropFM(Net(), num_classes=2).predict(torch.zeros(3, 4), steps=1)
        tensor([1, 1, 1])
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        embed: str | int | Tensor | LabelEmbedding = "onehot",
        *,
        sigma: float = 0.0,
        head: str | nn.Module = "linear",
    ) -> None:
        super().__init__(net, num_classes, embed, head)
        checks.non_negative(self.op, "sigma", sigma)
        self.sigma = sigma

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """||v(z_t, x, t) - (u - z_0)||^2, and for learned vectors the cross-entropy at z_t + (1 - t) v.

        Args:
            x: (b, ...) inputs.
            y: (b,) classes.
            generator: source of times and noise.

        Raises:
            TypeError, ValueError: labels out of range, no rows, inputs that are not finite, or other logits.
        """
        self._check("loss", x, y, norms=self.net)
        u = self.embedding(y)
        t, z0 = self._times(u, generator), noise_like(u, generator)
        z = t * u + (1 - t) * z0
        if self.sigma:
            z = z + self.sigma * noise_like(u, generator)
        v = self._call(z, x, t) @ self.embedding.table()
        loss = (v - (u - z0)).square().sum(-1).mean()
        if self.embedding.learned:
            loss = loss + F.cross_entropy(self.head(z + (1 - t) * v), y)
        return loss

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        return_path: bool = False,
        *,
        steps: int = 1000,
        z0: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Follows the velocity from pure noise to z_1 in Euler steps, in evaluation mode. Only z_0 is random.

        Args:
            x: (b, ...) inputs.
            return_path: whether to return z after every step, and z_0 before.
            steps: number of calls of the network.
            z0: (b, d) start; None for standard normal noise.
            generator: source of z_0.

        Returns:
            z_1 (b, d), or the path (steps + 1, b, d).
        """
        self._check("sample", x)
        checks.integer(f"{self.op}.sample", "steps", steps)
        path, table = [self._start(x, z0, generator)], self.embedding.table()
        with _denoising.evaluating(self):
            for n in range(steps):
                z = path[-1]
                z = z + self._call(z, x, n / steps) @ table / steps
                path = [*path, z] if return_path else [z]
        return torch.stack(path) if return_path else path[0]

    @torch.no_grad()
    def predict(
        self, x: Tensor, *, steps: int = 1000, z0: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The classes (b,) whose vectors are nearest to :meth:`sample`."""
        return self.embedding.nearest(self.sample(x, steps=steps, z0=z0, generator=generator))
