"""The class Circuit: a model and its exact queries. The modules queries, sampling and divergences compute them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import divergences, queries, sampling
from .evaluator import Evaluator


class Circuit(Evaluator):
    """A probabilistic circuit: a probability distribution with exact marginals and conditionals.

    Args:
        graph: structure of the circuit.
        data: (N, D) observations. Continuous inputs start at locations spread like the data, or as standard normals
            without data.
        missing: (N, D) or (D,) bool, True where a value of ``data`` is not observed.
        seed: seed of the initial parameters.

    Attributes:
        graph: structure of the circuit.
        sums: logits of each sum layer, (G, O, I): G nodes, O units each, I input units. A softmax over I gives the
            weights.
        inputs: input layers, one for each family and number of units.

    Raises:
        TypeError, ValueError: ``data`` or ``missing`` are not valid, see :meth:`log_prob`.

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
        """Log-probability of some variables' values. All other variables are summed or integrated out.

        Args:
            x: (B, D) observations, see :meth:`log_prob`. Only the columns of ``variables`` are used.
            variables: indices of the variables, or a bool mask: (D,), or (B, D) to choose per item.

        Returns:
            (B,), in nats, with gradients.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; or a variable does not exist or is listed twice.

        Example:
            >>> import torch
            >>> from probkernels.circuits import factorized
            >>> x = torch.tensor([[0, 1], [1, 1], [1, 1], [1, 0]])
            >>> factorized(x, pseudocount=0.0).marginal(x, [1]).exp().detach()
            tensor([0.7500, 0.7500, 0.7500, 0.2500])
        """
        return queries.marginal(self, x, variables)

    def conditional(self, x: Tensor, missing: Tensor | None = None, *, targets: Sequence[int] | Tensor) -> Tensor:
        """Log-probability of the targets' values given the evidence.

        The evidence is every value that is neither missing nor a target. Each item may have its own targets and missing
        values. The probabilities sum to one over the targets' values. Costs two evaluations of the circuit.

        Args:
            x: (B, D) observations with the targets' values, see :meth:`log_prob`.
            missing: (B, D) or (D,) bool, True where the value is not known.
            targets: indices of the targets, or a bool mask: (D,), or (B, D) to choose per item. An item without targets
                has log-probability 0.

        Returns:
            (B,), in nats, with gradients; -inf where the targets' values are impossible.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; or a target does not exist, is listed twice or is missing.
            ValueError: the evidence has probability zero, so no conditional exists. The message names the item.

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
        """The distribution of each target, one at a time, given the evidence about all *other* variables.

        For a missing target this is its posterior given all evidence. For an observed target its own value is ignored,
        so that you can compare the value with what the other variables predict. One forward and one backward pass serve
        all targets.

        Args:
            x: (B, D) observations, see :meth:`log_prob`.
            missing: (B, D) or (D,) bool, True where the value is not known.
            targets: indices of discrete variables, or a bool mask (D,). All variables by default.

        Returns:
            (B, T, C) probabilities of T targets. C is the largest alphabet among the targets. Each row sums to one;
            entries beyond a target's own alphabet are zero. Without gradients.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; or a target does not exist, is listed twice or is continuous
                (use :meth:`moments` for those).
            ValueError: the evidence about the other variables has probability zero. The message names the item.

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
        """Mean and variance of each variable given the evidence about all *other* variables, as in :meth:`marginals`.

        Without arguments, the mean and variance under the model. A discrete variable's values count as the numbers 0 ..
        C - 1.

        Args:
            x: (B, D) observations, see :meth:`log_prob`. None for the model itself.
            missing: (B, D) or (D,) bool, True where the value is not known.

        Returns:
            Mean and variance, each (B, D), or (D,) if x is None. Without gradients.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`.
            ValueError: the evidence about the other variables has probability zero. The message names the item.

        Example:
            >>> import torch
            >>> from probkernels.circuits import factorized
            >>> factorized(torch.tensor([[0, 2], [1, 2]]), pseudocount=0.0).moments().mean
            tensor([0.5000, 2.0000])
        """
        return queries.moments(self, x, missing)

    def covariance(self) -> Tensor:
        """Exact covariance matrix of the variables under the model, (D, D). Without gradients.

        Costs as much as one forward and backward pass over a batch of D items.

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
        """Draws independent samples from the model, or from its conditional given evidence.

        Args:
            n: number of draws, for each item of ``given`` if there is one.
            given: (B, D) observations to condition on, see x of :meth:`log_prob`.
            missing: (B, D) or (D,) bool, True for the values to draw. Other values stay as given. None draws nothing.
            seed: seed of the draws. Equal seeds give equal draws on any device and with any number of threads.
            generator: a CPU generator instead of a seed. Without both, torch's default generator is used.

        Returns:
            (n, B, D) in the dtype of ``given``. Without ``given``, (n, D): int64 if all variables are discrete, else
            float.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; or n is negative, ``missing`` comes without ``given``, or
                ``seed`` comes with ``generator``, or the dtype of ``given`` cannot hold the categories to draw.
            ValueError: the evidence has probability zero. The message names the item.

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
        """Fills in the missing values of each observation with the most probable ones (MPE, most probable explanation).

        Exact if :attr:`is_deterministic`: the completion has the largest p(x). Otherwise, as for an HCLT, the values
        are chosen jointly with the latent states z to maximize p(x, z), which is a lower bound of p(x). Then
        :meth:`log_prob` of the completion exceeds the log value returned, and another completion may be more probable.

        Args:
            x: (B, D) observations, see :meth:`log_prob`.
            missing: (B, D) or (D,) bool, True for the values to choose. None chooses only the latent states.

        Returns:
            The completed x, and the log of the maximum, (B,). Without gradients.

        Raises:
            TypeError, ValueError: as :meth:`log_prob`; or the dtype of x cannot hold the categories to choose.
            ValueError: the evidence has probability zero. The message names the item.

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
        """Entropy in nats, a scalar. Differential entropy for continuous variables. Exact, with gradients, in one pass.

        Raises:
            NotImplementedError: the circuit is not deterministic. Its entropy is then #P-hard.

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
        """Kullback-Leibler divergence KL(p || q) = sum_x p(x) log p(x)/q(x), p being this circuit and q ``other``. A
        scalar.

        Exact, with gradients, in one pass. Infinite if q is zero where p is not.

        Args:
            other: a circuit with the same graph.

        Raises:
            TypeError, ValueError: ``other`` is not a circuit or has another graph.
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
        """log sum_x p(x) q(x), p being this circuit and q ``other``: a scalar. An integral for continuous variables.

        Exact, with gradients. A pair of sum nodes of K units each costs about K^3 multiplications, as much as
        evaluating K items. Two nodes form a pair if they have the same scope.

        Args:
            other: a circuit with the same graph, or this circuit.

        Raises:
            TypeError, ValueError: ``other`` is not a circuit or has another graph.
            NotImplementedError: the circuit is not structured-decomposable: two products split the same scope in
                different ways.

        Example:
            >>> import torch
            >>> from probkernels.circuits import factorized
            >>> coin = factorized(torch.tensor([[0], [1]]), pseudocount=0.0)
            >>> coin.overlap(coin).exp().detach()
            tensor(0.5000)
        """
        return divergences.overlap(self, other)
