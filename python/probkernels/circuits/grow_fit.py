"""Prunes, grows and trains a circuit in rounds, as long as that improves it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .._core import checks
from ._training import Data, History, mean_log_prob
from .circuit import Circuit
from .em import EM
from .files import save
from .grow import grow, prune, prune_states
from .schedule import PiecewiseLinear, Schedule

AFTER_GROWTH = PiecewiseLinear(((0.0, 0.3), (1.0, 0.01)))  # gentler than from random parameters
DEFAULTS = {"states": (0.75, 0.5), "edges": (0.25, 1.0)}  # keep and fraction


def grow_fit(
    circuit: Circuit,
    x: Tensor,
    missing: Tensor | None = None,
    *,
    validation: Data,
    by: str = "states",
    keep: float | None = None,
    fraction: float | None = None,
    noise: float = 0.3,
    rounds: int = 10,
    patience: int = 1,
    epochs: int = 20,
    step: float | Schedule = AFTER_GROWTH,
    pseudocount: float = 0.1,
    batch_size: int | None = 512,
    max_edges: int | None = None,
    seed: int = 0,
    file: str | Path | None = None,
    progress: bool = True,
) -> tuple[Circuit, list[History]]:
    """Improves a circuit by rounds of pruning, growing and EM, until the validation likelihood falls.

    Args:
        circuit: trained circuit to start from; it is not changed.
        x, missing: observations, see :meth:`EM.fit`.
        validation: observations, or a pair (observations, ``missing``), that decide when to stop.
        by: "states" changes the number of states of each latent; sums stay dense and the fast latent-tree kernel
            applies. "edges" is the method of the paper: sums become sparse, and every state is split in each round.
        keep, fraction: arguments of pruning and growing. For "states", of :func:`prune_states` and :func:`grow`, by
            default 0.75 and 0.5. For "edges", of :func:`prune` and :func:`grow`, by default 0.25 and 1.
        noise: argument of :func:`grow`.
        rounds: largest number of rounds.
        patience: stops after this many rounds without a better validation.
        epochs, step, pseudocount, batch_size, seed: arguments of :class:`EM` and :meth:`EM.fit` in each round. The seed
            also seeds the noise.
        max_edges: stops before a round whose circuit would have more edges. None sets no limit.
        file: path to :func:`save` the best circuit to, after each round that improves it.
        progress: whether to show progress bars.

    Returns:
        The circuit with the best validation, and the history of each round. If no round helps, it is the given circuit.

    Raises:
        TypeError, ValueError: ``x``, ``missing`` or ``validation`` are not valid observations, or a setting is out of
            range.

    Reference:
        Dang, Liu and Van den Broeck, Sparse Probabilistic Circuits via Pruning and Growing, NeurIPS 2022.

    Example:
        >>> import torch
        >>> from probkernels.circuits import EM, grow_fit, hclt
        >>> x = torch.randint(0, 4, (600, 1), generator=torch.Generator().manual_seed(0)).repeat(1, 5)
        >>> circuit = hclt(x, latents=2)  # too few states for four values
        >>> history = EM(circuit, batch_size=50).fit(x, epochs=10, progress=False)
        >>> better, rounds = grow_fit(circuit, x[:500], validation=x[500:], batch_size=50, rounds=2, progress=False)
        >>> bool(better.log_prob(x).mean() > circuit.log_prob(x).mean() + 0.5)
        True
    """
    checks.one_of("grow_fit", "by", by, list(DEFAULTS))
    for name, value in (("rounds", rounds), ("patience", patience)):
        checks.integer("grow_fit", name, value)
    keep = DEFAULTS[by][0] if keep is None else keep
    fraction = DEFAULTS[by][1] if fraction is None else fraction
    best, score, since = circuit, mean_log_prob(circuit, validation), 0
    histories: list[History] = []
    for index in range(rounds):
        smaller = (prune_states if by == "states" else prune)(circuit, x, missing, keep=keep)
        circuit = grow(smaller, x, missing, fraction=fraction, noise=noise, seed=seed + index)
        if max_edges is not None and circuit.graph.num_edges > max_edges:
            break
        em = EM(circuit, step=step, pseudocount=pseudocount, batch_size=batch_size, seed=seed + index)
        histories.append(em.fit(x, missing, validation=validation, epochs=epochs, progress=progress))
        reached = dict(histories[-1].validation)[histories[-1].best]
        since = since + 1
        if reached > score:
            best, score, since = circuit, reached, 0
            if file is not None:
                save(best, file)
        if since >= patience:
            break
    return best, histories
