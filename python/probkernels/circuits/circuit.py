"""The circuit: a model, and its exact queries. Their computation is in queries, sampling and
divergences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import divergences, queries, sampling
from .evaluator import Evaluator


class Circuit(Evaluator):
    """A probabilistic circuit: a density whose every marginal and conditional is exact.

    Args:
        graph: the structure.
        data: (N, D) observations that continuous inputs are placed among; without, they start as standard normals.
        missing: (N, D) or (D,) bool, which of them are not observed.
        seed: of the initial parameters.

    Attributes:
        graph: as given.
        sums: logits (G, O, I) of every sum layer, normalized over I.
        inputs: the layers of inputs.

    Raises:
        TypeError, ValueError: as :meth:`log_prob`, for the data.

    Reference:
        Choi, Vergari and Van den Broeck, Probabilistic Circuits: A Unifying Framework for Tractable Probabilistic
        Models, 2020.

    Example:
        >>> import torch
        >>> from probkernels.circuits import Categorical, Circuit, Graph, Input, Product, Sum
        >>> coins = [Input(v, 2, Categorical(2)) for v in range(3)]
        >>> circuit = Circuit(Graph([*coins, Product((0, 1, 2)), Sum((3,), units=1)]))
        >>> x = torch.cartesian_prod(*[torch.arange(2)] * 3)  # all eight values
        >>> round(circuit.log_prob(x).exp().sum().item(), 4)
        1.0

        >>> from probkernels.circuits import chow_liu
        >>> x = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1]])
        >>> circuit = chow_liu(x)
        >>> missing = torch.tensor([False, True, False])
        >>> circuit.mpe(x[:1], missing)[0]
        tensor([[0, 0, 1]])
        >>> circuit.marginals(x[:1], missing, targets=[1]).shape
        torch.Size([1, 1, 2])
        >>> circuit.sample(4, seed=0).shape
        torch.Size([4, 3])
    """

    # --- marginals and conditionals ---

    def marginal(self, x: Tensor, variables: Sequence[int] | Tensor) -> Tensor:
        """Log-probability of the values of some variables, all others summed or integrated out.

        Args:
            x: (B, D) as of :meth:`log_prob`; what it holds for other variables is ignored.
            variables: numbers, or a bool mask (D,), or (B, D) for a choice item by item.

        Returns:
            (B,), in nats, with gradients.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; variables that do not exist or come twice.

        Example:
            >>> import torch
            >>> from probkernels.circuits import factorized
            >>> x = torch.tensor([[0, 1], [1, 1], [1, 1], [1, 0]])
            >>> factorized(x, pseudocount=0.0).marginal(x, [1]).exp().detach()
            tensor([0.7500, 0.7500, 0.7500, 0.2500])
        """
        return queries.marginal(self, x, variables)

    def conditional(self, x: Tensor, missing: Tensor | None = None, *, targets: Sequence[int] | Tensor) -> Tensor:
        """Log-probability of the values of the targets given the evidence: all that is neither missing nor a target.

        Normalized over the targets' values, for any pattern: each item may have its own targets and missing values.
        Two evaluations.

        Args:
            x: (B, D) as of :meth:`log_prob`, the targets' values included.
            missing: bool, (B, D) or (D,).
            targets: numbers, or a bool mask (D,) or (B, D). An item without any has log-probability 0.

        Returns:
            (B,), in nats, with gradients; -inf where the targets' values are impossible.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; targets that do not exist, come twice or are missing.
            ValueError: evidence of probability zero, given which nothing is distributed. The item is named.

        Example:
            >>> import torch
            >>> from probkernels.circuits import chow_liu
            >>> x = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
            >>> chow_liu(x, pseudocount=0.0).conditional(x, targets=[1]).exp().detach()
            tensor([0.6667, 0.6667, 0.3333, 1.0000])
        """
        return queries.conditional(self, x, missing, targets)

    def marginals(
        self, x: Tensor, missing: Tensor | None = None, targets: Sequence[int] | Tensor | None = None
    ) -> Tensor:
        """The distribution of each target given the evidence about all *other* variables, one target at a time.

        Of a missing variable that is its posterior given all evidence; an observed one is left out of its own evidence,
        so that its value can be compared with what the others tell. All targets together take one forward and one
        backward pass.

        Args:
            x: (B, D) as of :meth:`log_prob`.
            missing: bool, (B, D) or (D,).
            targets: numbers, or a bool mask (D,), of discrete variables; all by default.

        Returns:
            (B, T, C), probabilities that sum to one over C, the largest alphabet among the targets; zero beyond a
            target's own. Without gradients.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; targets that do not exist, come twice or are continuous
                (:meth:`moments` describes those).
            ValueError: evidence about others of probability zero. The item is named.

        Example:
            >>> import torch
            >>> from probkernels.circuits import chow_liu
            >>> x = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
            >>> chow_liu(x, pseudocount=0.0).marginals(x[:1], targets=[0])  # given that variable 1 is 0
            tensor([[[1., 0.]]])
        """
        return queries.marginals(self, x, missing, targets)

    # --- moments ---

    def moments(self, x: Tensor | None = None, missing: Tensor | None = None) -> queries.Moments:
        """Mean and variance of every variable given the evidence about all *other* variables, as :meth:`marginals`; of
        the model itself without arguments. A discrete variable's values count as the numbers 0 .. C - 1.

        Args:
            x: (B, D) as of :meth:`log_prob`, or None.
            missing: bool, (B, D) or (D,).

        Returns:
            mean and variance, (B, D), or (D,) if x is None. Without gradients.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`.
            ValueError: evidence about others of probability zero. The item is named.

        Example:
            >>> import torch
            >>> from probkernels.circuits import factorized
            >>> factorized(torch.tensor([[0, 2], [1, 2]]), pseudocount=0.0).moments().mean
            tensor([0.5000, 2.0000])
        """
        return queries.moments(self, x, missing)

    def covariance(self) -> Tensor:
        """Covariances of all pairs of variables under the model, exact: (D, D), symmetric. Without gradients.

        Costs one forward and backward pass for each variable, as a batch of D.

        Example:
            >>> import torch
            >>> from probkernels.circuits import chow_liu
            >>> chow_liu(torch.tensor([[0, 0], [2, 1]]), pseudocount=0.0).covariance()
            tensor([[1.0000, 0.5000],
                    [0.5000, 0.2500]])
        """
        return queries.covariance(self)

    # --- samples and completions ---

    def sample(
        self,
        n: int = 1,
        *,
        given: Tensor | None = None,
        missing: Tensor | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Independent draws from the model, or from its conditional given evidence: exact, not a Markov chain.

        Args:
            n: draws, of each item of ``given``.
            given: (B, D) as x of :meth:`log_prob`.
            missing: bool, (B, D) or (D,), the values to draw; the others are kept as given. None draws nothing.
            seed: draws are equal for equal seeds, on any device and for any number of threads.
            generator: on the CPU, instead of a seed; torch's own by default.

        Returns:
            (n, B, D) of the dtype of ``given``; (n, D) without it: int64 if all variables are discrete, else float.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; a negative n; missing without given; a seed and a generator.
            ValueError: evidence of probability zero. The item is named.

        Example:
            >>> import torch
            >>> from probkernels.circuits import chow_liu
            >>> x = torch.tensor([[0, 0], [1, 1]])
            >>> circuit = chow_liu(x, pseudocount=0.0)
            >>> circuit.sample(2, given=x, missing=torch.tensor([True, False]), seed=0)
            tensor([[[0, 0],
                     [1, 1]],
            <BLANKLINE>
                    [[0, 0],
                     [1, 1]]])
        """
        return sampling.sample(self, n, given, missing, seed, generator)

    def mpe(self, x: Tensor, missing: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The most probable completion of each observation, and its log value.

        Exact where the circuit :attr:`is_deterministic`: the largest p(x) over the missing values. Elsewhere (an HCLT)
        values are chosen together with the latent states z, for the largest p(x, z), a lower bound of p(x): then
        :meth:`log_prob` of the completion is higher, and another completion may be more probable still.

        Args:
            x: (B, D) as of :meth:`log_prob`.
            missing: bool, (B, D) or (D,), the values to choose; None chooses latent states only.

        Returns:
            x with its missing values filled in, and (B,), the log of what was maximized. Without gradients.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`.
            ValueError: evidence of probability zero. The item is named.

        Example:
            >>> import torch
            >>> from probkernels.circuits import chow_liu
            >>> x = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
            >>> circuit = chow_liu(x, pseudocount=0.0)
            >>> circuit.is_deterministic
            True
            >>> completed, log_value = circuit.mpe(x[3:], missing=torch.tensor([True, True]))
            >>> completed, round(log_value.exp().item(), 4)
            (tensor([[0, 0]]), 0.5)
        """
        return sampling.mpe(self, x, missing)

    # --- entropies and divergences ---

    def entropy(self) -> Tensor:
        """Entropy in nats, (), differential where variables are continuous. Exact, with gradients, one pass.

        Raises:
            NotImplementedError: the circuit is not deterministic; its entropy is then #P-hard.

        Reference:
            Vergari et al., A Compositional Atlas of Tractable Circuit Operations, NeurIPS 2021.

        Example:
            >>> import torch
            >>> from probkernels.circuits import chow_liu
            >>> circuit = chow_liu(torch.tensor([[0, 0], [1, 1]]), pseudocount=0.0)
            >>> round(circuit.entropy().item() / 0.693147, 4)  # bits
            1.0
        """
        return divergences.entropy(self)

    def kl(self, other: Circuit) -> Tensor:
        """Kullback-Leibler divergence of ``other`` from this circuit, sum_x p(x) log p(x)/q(x), ().

        Exact, with gradients, one pass; infinite where other is zero and this is not.

        Args:
            other: a circuit of the same graph.

        Raises:
            TypeError, ValueError: ``other`` is no circuit, or has another graph.
            NotImplementedError: the circuits are not deterministic.

        Example:
            >>> import torch
            >>> from probkernels.circuits import Circuit, chow_liu
            >>> p = chow_liu(torch.tensor([[0, 0], [1, 1], [0, 1]]))
            >>> round(p.kl(p).item(), 6), p.kl(Circuit(p.graph, seed=1)).item() > 0
            (0.0, True)
        """
        return divergences.kl(self, other)

    def overlap(self, other: Circuit) -> Tensor:
        """log sum_x p(x) q(x), (), an integral where variables are continuous. Exact, with gradients.

        Costs as much as evaluating both circuits at as many items as a node has units. Every sum layer of K units
        takes K^3 multiplications, and nodes of one scope are paired with each other.

        Args:
            other: a circuit of the same graph, or this one.

        Raises:
            TypeError, ValueError: ``other`` is no circuit, or has another graph.
            NotImplementedError: two products split one scope differently, and both are needed.

        Example:
            >>> import torch
            >>> from probkernels.circuits import factorized
            >>> coin = factorized(torch.tensor([[0], [1]]), pseudocount=0.0)
            >>> coin.overlap(coin).exp().detach()
            tensor(0.5000)
        """
        return divergences.overlap(self, other)
