"""ROOT: offline optimization as translation of poor designs into good ones by a Brownian bridge."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..diffusion import BrownianBridge, drop_condition
from ..diffusion.noise import mixed
from ..training import EMA, cosine, minimize
from .designs import DiscreteDesigns
from .synthetic_pairs import Pairs, synthetic_pairs


class BridgeNet(nn.Module):
    """The network of the bridge: an MLP of a state (B, D), times (B,) and the labels y_high, y_low (B, 2).

    Example:
        >>> import torch
        >>> from probkernels.blackbox import BridgeNet
        >>> BridgeNet(3, width=16)(torch.zeros(5, 3), torch.zeros(5), torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(self, size: int, width: int = 1024, depth: int = 3) -> None:
        super().__init__()
        widths = [size + 3, *[width] * depth]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], size))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The predicted residual x_t - x_high, (B, D)."""
        found: Tensor = self.layers(torch.cat([x, t[:, None], labels], 1))
        return found


class ROOT:
    """Proposes better designs from a fixed set of designs with scores, without new evaluations.

    :meth:`fit` makes pairs of poor and good designs (:func:`synthetic_pairs`) and trains a Brownian bridge that turns
    the poor one into the good one. :meth:`propose` runs the bridge from the best designs of the data.

    Args:
        letters: number of letters C of discrete designs, which are integers 0 .. C - 1; None for real designs.
        epochs: rounds of new functions.
        functions: functions in each epoch.
        starts: best designs that pairs start from.
        points: random designs that each epoch's functions are fitted to; None for all. The cost grows with its cube.
        ascent_steps: gradient steps in each direction.
        step_size: size of these steps; by default 0.001 for real and 0.05 for discrete designs.
        lengthscale: center of the lengthscales; by default 1 for real and 6.25 for discrete designs.
        variance: center of the variances, with the same defaults.
        noise: variance of the noise of normalized scores.
        passes: passes over the pairs of each epoch.
        batch_size: pairs in each training step.
        width: width of the network.
        drop: probability of dropping both labels of a pair, in [0, 1].
        lr: learning rate of Adam.
        anneal: whether the learning rate falls to 0 along half a cosine. Else it stays.
        ema: decay of the averaged weights that sampling uses; 0 for the last weights.
        bridge: the bridge; ``BrownianBridge()`` by default.
        seed: seed of the fit.

    Attributes:
        losses: loss of every training step.
        net: the network with averaged weights.

    Raises:
        TypeError, ValueError: an argument is out of range.

    Reference:
        Dao et al., ROOT: Rethinking Offline Optimization as Distributional Translation via Probabilistic Bridge,
        NeurIPS 2025.

    Example:
        >>> import torch
        >>> from probkernels.blackbox import ROOT
        >>> X = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
        >>> y = -(X - 0.8).square().sum(1)
        >>> root = ROOT(epochs=2, functions=2, starts=64, width=32, step_size=0.05)
        >>> root.fit(X[y < -0.1], y[y < -0.1]).propose(4).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        letters: int | None = None,
        *,
        epochs: int = 100,
        functions: int = 8,
        starts: int = 1024,
        points: int | None = None,
        ascent_steps: int = 100,
        step_size: float | None = None,
        lengthscale: float | None = None,
        variance: float | None = None,
        noise: float = 0.01,
        passes: int = 4,
        batch_size: int = 128,
        width: int = 1024,
        drop: float = 0.15,
        lr: float = 1e-3,
        anneal: bool = True,
        ema: float = 0.995,
        bridge: BrownianBridge | None = None,
        seed: int = 0,
    ) -> None:
        counts = {"epochs": epochs, "functions": functions, "starts": starts, "ascent_steps": ascent_steps}
        counts |= {"passes": passes, "batch_size": batch_size, "width": width}
        for name, count in counts.items():
            checks.integer("ROOT", name, count)
        for name, given in (("letters", letters), ("points", points)):
            if given is not None:
                checks.integer("ROOT", name, given, 2)
        checks.unit_interval("ROOT", "drop", drop)
        checks.positive("ROOT", "lr", lr)
        checks.fraction("ROOT", "ema", ema)
        checks.one_of("ROOT", "anneal", anneal, (True, False))
        default = 1.0 if letters is None else 6.25
        self.letters, self.epochs = letters, epochs
        self.pairs: dict[str, Any] = {
            "functions": functions,
            "starts": starts,
            "points": points,
            "steps": ascent_steps,
            "step_size": (0.001 if letters is None else 0.05) if step_size is None else step_size,
            "lengthscale": default if lengthscale is None else lengthscale,
            "variance": default if variance is None else variance,
            "noise": noise,
        }
        self.passes, self.batch_size, self.width = passes, batch_size, width
        self.drop, self.lr, self.anneal = drop, lr, anneal
        self.ema, self.seed = ema, checks.integer("ROOT", "seed", seed, 0)
        self.bridge = bridge or BrownianBridge()
        self.net: nn.Module | None = None
        self.losses: list[float] = []

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, X: Tensor, y: Tensor, *, progress: bool = False) -> ROOT:
        """Trains the bridge on offline data, on the data's device.

        Args:
            X: (N, D) real designs, float32 or float64, or (N, L) integers for discrete designs. Equal designs are
                allowed; with different scores they count as noise. Columns that are constant stay as they are.
            y: (N,) scores, floating-point; higher is better.
            progress: whether to show a progress bar.

        Returns:
            This object. If training fails or is interrupted, the object has no fit, not even an earlier one.

        Raises:
            TypeError, ValueError: a dtype or shape is wrong, a number is not finite, all scores or all designs are
                equal, there are fewer than 2 designs, or no pair of an epoch differs in score.
        """
        x, scores = self._normalize(X, y)
        with torch.random.fork_rng(devices=[]):  # for the network's first weights
            torch.manual_seed(mixed(self.seed, -2))
            net = BridgeNet(x.shape[1], self.width).to(x)
        average = EMA(net, self.ema, warm_up=True)
        per_epoch = self.pairs["functions"] * min(self.pairs["starts"], len(x))
        epoch_steps = math.ceil(self.passes * per_epoch / self.batch_size)
        pairs: list[Pairs] = []
        highs: list[float] = []

        def loss(n: int) -> Tensor:
            generator = torch.Generator().manual_seed(mixed(self.seed, n))
            if n % epoch_steps == 0:
                pairs[:] = [self._pairs(x, scores, generator)]
                highs.append(float(pairs[0].y_high.mean()))
            return self._loss(net, pairs[0], generator)

        optimizer = torch.optim.Adam(net.parameters(), self.lr)
        self.losses = minimize(
            loss, optimizer, self.epochs * epoch_steps, lr_schedule=cosine if self.anneal else None,
            progress=progress, name="ROOT.fit", after=lambda *_: average.update(net),
        )  # fmt: skip
        self.net, self.high = average.module, sum(highs) / len(highs)
        best = scores.argsort(descending=True, stable=True)
        self.x, self.scores = x[best], scores[best]
        return self

    @torch.no_grad()
    def propose(
        self,
        k: int = 128,
        *,
        guidance: float = 1.0,
        target: float | None = None,
        steps: int = 200,
        eta: float = 0.2,
        seed: int = 0,
    ) -> Tensor:
        """Translates the k best designs of the data into proposals.

        Args:
            k: number of proposals, at most the number of designs in the data.
            guidance: w in u + w (c - u), where c and u are the network's outputs with and without labels: 1 trusts the
                labels, 0 ignores them, and -0.5 is the value of the official code.
            target: score to ask for, in the units of y; by default the mean score of the good designs in the pairs,
                which can lie above all scores that exist. Where a bound is known, ask for less than it.
            steps: steps of the bridge.
            eta: factor on the standard deviation of fresh noise.
            seed: seed of the noise.

        Returns:
            (k, D) designs of the data's dtype, or (k, L) integers. Row i comes from the i-th best design. Rows may be
            equal to each other or to designs of the data.

        Raises:
            TypeError, ValueError: an argument is out of range.
            RuntimeError: :meth:`fit` was not called.

        Example:
            >>> import torch
            >>> from probkernels.blackbox import ROOT, Ehrlich
            >>> f = Ehrlich(letters=4, length=6, motifs=1, motif_length=3)
            >>> X = f.random_designs(200, torch.Generator().manual_seed(0))
            >>> root = ROOT(letters=4, epochs=1, functions=2, starts=50, width=32).fit(X, f(X))
            >>> root.propose(3).shape
            torch.Size([3, 6])
        """
        if self.net is None:
            raise RuntimeError("ROOT.propose: expected a fitted object, got one without data. Hint: call fit first")
        checks.integer("ROOT.propose", "k", k, most=len(self.x))
        high = self.high if target is None else (self._number(target) - self.y_mean) / self.y_std
        labels = torch.stack([torch.full_like(self.scores[:k], high), self.scores[:k]], 1)  # the order of the training
        generator = torch.Generator().manual_seed(checks.integer("ROOT.propose", "seed", seed, 0))
        found = self.bridge.sample(
            self.net, self.x[:k], labels, uncond=torch.zeros_like(labels[:1]), guidance=guidance, steps=steps, eta=eta,
            generator=generator,
        )  # fmt: skip
        whole = self.mean.repeat(k, 1)
        whole[:, self.varies] += self.std[self.varies] * found
        return whole if self.designs is None else self.designs.decode(whole)

    def _pairs(self, x: Tensor, scores: Tensor, generator: torch.Generator) -> Pairs:
        pairs = synthetic_pairs(x, scores, generator=generator, **self.pairs)
        if not len(pairs):
            hint = "change step_size or ascent_steps, or lower noise"
            raise ValueError(message("ROOT.fit", "y", "pairs that differ in score", "none", hint))
        return pairs

    def _loss(self, net: nn.Module, pairs: Pairs, generator: torch.Generator) -> Tensor:
        """L1 loss of a batch; the labels' order is (y_high, y_low)."""
        rows = torch.randint(len(pairs), (self.batch_size,), generator=generator)
        t = torch.randint(self.bridge.steps, (self.batch_size,), generator=generator)
        device = pairs.x_low.device
        rows, t = rows.to(device), t.to(device)
        x, target = self.bridge.q_sample(pairs.x_high[rows], pairs.x_low[rows], t, generator=generator)
        labels = torch.stack([pairs.y_high[rows], pairs.y_low[rows]], 1)
        labels = drop_condition(labels, torch.zeros_like(labels[:1]), self.drop, generator)
        return (net(x, (t / self.bridge.steps).to(x), labels) - target).abs().mean()

    def _normalize(self, X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The designs without constant columns, and the scores, with mean 0 and standard deviation 1."""
        _check_data(X, y, self.letters)
        self.net = None  # an earlier fit has no part in one that fails or is interrupted
        X, y = X.detach().clone(), y.detach().clone()  # without a graph, also if they come from inference mode
        self.designs = None if self.letters is None else DiscreteDesigns(self.letters, X.shape[1])
        x = X if self.designs is None else self.designs.encode(X)
        self.mean, self.std = x.mean(0), x.std(0)
        self.varies = x.amax(0) > x.amin(0)
        self.mean = torch.where(self.varies, self.mean, x[0])
        wide = y.double()
        self.y_mean, self.y_std = float(wide.mean()), float(wide.std())
        x = (x[:, self.varies] - self.mean[self.varies]) / self.std[self.varies]
        return x, ((wide - self.y_mean) / self.y_std).to(x)

    def _number(self, target: object) -> float:
        if isinstance(target, bool) or not isinstance(target, (int, float)) or not math.isfinite(target):
            raise TypeError(message("ROOT.propose", "target", "a finite number", checks.describe(target)))
        return float(target)


def _check_data(X: Tensor, y: Tensor, letters: int | None) -> None:
    op = "ROOT.fit"
    if letters is None:
        checks.wide_float_tensor(op, "X", X, "integer designs need letters=...")
        checks.finite(op, "X", X.detach())
    else:
        checks.integer_tensor(op, "X", X)
    if X.ndim != 2 or 0 in X.shape or len(X) < 2:
        raise ValueError(message(op, "X", "shape (N, D) with N >= 2", f"shape {tuple(X.shape)}"))
    checks.float_tensor(op, "y", y)
    checks.shape(op, "y", y, (len(X),), "of one score for each design")
    checks.finite(op, "y", y.detach(), "leave out designs without a score")
    checks.same_device(op, "y", y, X, "X")
    for name, value, what in (("y", y, "scores"), ("X", X, "designs")):
        if bool((value == value[:1]).all()):
            raise ValueError(message(op, name, f"{what} that differ", f"{len(value)} equal ones"))
