"""Peers of the circuits: mixtures, Adam, and scikit-learn's classifiers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...circuits import EM, Categorical, Circuit, Graph, Input, Product, Sum
from ...circuits.inputs import TableInputs
from ...training import minimize
from ..harness.datasets import Images, require_sklearn
from ..harness.toy_models import Advance, bits, full_batch_em, to_bits

# --- mixtures ---


def latent_class(x: Tensor, categories: int, components: int, seed: int) -> Circuit:
    """A mixture of fully factorized distributions of x (N, D): one sum over products of categorical inputs."""
    inputs = [Input(variable, components, Categorical(categories)) for variable in range(x.shape[1])]
    product = Product(tuple(range(len(inputs))))
    return Circuit(Graph([*inputs, product, Sum((len(inputs),), units=1)]), seed=seed)


def mixture_bits(train: Tensor, test: Tensor, categories: int, components: int, seed: int, epochs: int = 60) -> float:
    """Test bits per dimension of a categorical mixture, fitted as the HCLT is."""
    circuit = latent_class(train, categories, components, seed)
    return bits(full_batch_em(circuit, train, epochs, 1.0, lambda amount: None), test)


def gaussian_bits(train: Tensor, test: Tensor, categories: int, components: int, seed: int) -> float:
    """Test bits per dimension of scikit-learn's mixture of diagonal Gaussians.

    The mixture is fitted on pixels plus uniform noise from [0, 1). The probability of level k is the mixture's
    probability of [k, k + 1), with the first and the last interval unbounded. This is exact and takes no more bits than
    the usual bound, the mean of the log-density over the noise.
    """
    require_sklearn()
    from sklearn.mixture import GaussianMixture

    noise = torch.rand(train.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    model = GaussianMixture(components, covariance_type="diag", reg_covar=1e-2, random_state=seed)
    model.fit((train + noise).numpy())
    mean, weight = torch.from_numpy(model.means_), torch.from_numpy(model.weights_)
    std = torch.from_numpy(model.covariances_).sqrt()
    edges = torch.arange(categories + 1, dtype=torch.float64)
    edges[0], edges[-1] = -math.inf, math.inf
    z = (edges - mean[..., None]) / std[..., None]  # (components, D, categories + 1)
    lower, upper = z[..., :-1], z[..., 1:]
    left = lower + upper < 0  # measured from the nearer tail, or the difference would cancel
    a, b = torch.where(left, upper, -lower), torch.where(left, lower, -upper)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    levels = log_a + torch.log1p(-torch.exp(log_b - log_a).clamp_max(1 - 1e-12))
    rows = torch.arange(train.shape[1])
    log_p = torch.stack([levels[:, rows, row].sum(1) for row in test.long()])  # (N, components)
    return to_bits(torch.logsumexp(log_p + weight.log(), 1).mean().item(), test.shape[1])


# --- Adam ---


def penalized(circuit: Circuit, x: Tensor, pseudocount: float) -> Tensor:
    """What EM with this pseudocount maximizes: log-likelihood of x plus that of the pseudocounts, spread evenly over
    every distribution.
    """
    total = circuit.log_prob(x).sum()
    for logits in circuit.sums:
        total = total + pseudocount * logits.log_softmax(2).mean(2).sum()
    for layer in circuit.inputs:
        assert isinstance(layer, TableInputs)
        total = total + pseudocount * layer.log_table().mean(1).sum()
    return total


def adam_curve(circuit: Circuit, images: Images, rate: float, batch: int, passes: int, advance: Advance) -> list[float]:
    """Test bits per dimension after every pass of Adam over the training images, for the objective of EM."""
    optimizer = torch.optim.Adam(circuit.parameters(), rate)
    generator = torch.Generator().manual_seed(0)
    curve: list[float] = []
    for _ in range(passes):
        batches = torch.randperm(len(images.train), generator=generator).split(batch)

        def loss(step: int, batches: Sequence[Tensor] = batches) -> Tensor:
            items = batches[step]
            return -penalized(circuit, images.train[items], len(items) / len(images.train)) / len(items)

        minimize(loss, optimizer, len(batches))
        curve.append(bits(circuit, images.test))
        advance(1)
    return curve


def em_curve(circuit: Circuit, images: Images, batch: int | None, passes: int, advance: Advance) -> list[float]:
    """Test bits per dimension after every pass of EM, with one pseudocount a distribution and pass."""
    n = len(images.train)
    em = EM(circuit, pseudocount=1.0 if batch is None else batch / n, batch_size=batch)
    history = em.fit(images.train, validation=images.test, epochs=passes, progress=False)
    advance(passes)
    return [to_bits(value, images.test.shape[1]) for _, value in history.validation]


# --- classifiers ---


def classifier_accuracies(images: Images) -> dict[str, float]:
    """Test accuracy of scikit-learn's classifiers of similar cost, each with its default settings."""
    require_sklearn()
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    assert images.test_labels is not None
    train, test = (x.numpy() / (images.categories - 1) for x in (images.train, images.test))
    models = {"Gaussian naive Bayes": GaussianNB(), "logistic regression": LogisticRegression(max_iter=3000)}
    return {
        name: float(model.fit(train, images.labels.numpy()).score(test, images.test_labels.numpy()))
        for name, model in models.items()
    }
