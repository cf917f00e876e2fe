"""The data, the networks, and training by each rule."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...local_learning import CounterCurrent
from ...training import minimize
from ..harness import data_files, datasets
from .records import BP, DIGITS, FASHION, FROZEN, LAST, LINEAR, MNIST, MNIST1D, NORMALIZED


@dataclass(frozen=True)
class Setup:
    """The network of a data set and its training."""

    hidden: tuple[int, ...]
    batch: int
    epochs: int


SETUPS = {
    DIGITS: Setup((128,) * 4, 128, 40),
    MNIST1D: Setup((128,) * 4, 128, 100),
    MNIST: Setup((256,) * 5, 256, 100),
    FASHION: Setup((256,) * 5, 256, 100),
}
LOCAL_LR, GLOBAL_LR = 1.0, 0.2
SPLIT_SEED = 2023  # of training and validation images


@dataclass(frozen=True)
class Data:
    """Inputs with labels to train on, to choose the epoch by (none for digits), and to judge by."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor] | None
    test: tuple[Tensor, Tensor]


def digits() -> Data:
    """Digits in the split of the expected figures."""
    datasets.require_sklearn()
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x.astype(np.float32), y, test_size=0.25, stratify=y, random_state=0)
    train, test, labels, test_labels = (torch.from_numpy(part) for part in parts)
    return _standardized((train, labels.long()), None, (test, test_labels.long()))


def load(name: str, folder: Path | None) -> Data:
    """The data of a name. Of MNIST, whose file has no test labels, the last 10,000 training images judge."""
    if name == DIGITS or folder is None:
        return digits()
    if name == MNIST:
        images = datasets.mnist(folder)
        x, y = images.train.float(), images.labels
        return _split((x[:-10_000], y[:-10_000]), (x[-10_000:], y[-10_000:]))
    if name == MNIST1D:
        arrays = data_files.load(folder, "mnist1d")
        rows = [torch.from_numpy(arrays[key]) for key in ("x", "y", "x_test", "y_test")]
        return _split((rows[0].float(), rows[1].long()), (rows[2].float(), rows[3].long()))
    labels = data_files.load(folder, "fashion_mnist_labels")
    sets = []
    for part in ("train", "test"):
        x = torch.from_numpy(data_files.load(folder, f"fashion_mnist_{part}")).flatten(1).float()
        sets.append((x, torch.from_numpy(labels[part]).long()))
    return _split(*sets)


def _split(known: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Data:
    """A tenth of the training images chooses the epoch."""
    order = torch.randperm(len(known[0]), generator=torch.Generator().manual_seed(SPLIT_SEED))
    first, second = order[len(order) // 10 :], order[: len(order) // 10]
    return _standardized((known[0][first], known[1][first]), (known[0][second], known[1][second]), test)


def _standardized(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor] | None, test: tuple[Tensor, Tensor]
) -> Data:
    mean, std = train[0].mean(), train[0].std()

    def scaled(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (part[0] - mean) / std, part[1]

    return Data(scaled(train), None if validation is None else scaled(validation), scaled(test))


def network(*widths: int) -> nn.Sequential:
    """Linear layers without biases, with ELU between them."""
    modules: list[nn.Module] = []
    for n, m in itertools.pairwise(widths):
        modules += [nn.Linear(n, m, bias=False), nn.ELU()]
    return nn.Sequential(*modules[:-1])


def train(
    rule: str, data: Data, setup: Setup, seed: int, after: Callable[[int, nn.Module], None]
) -> CounterCurrent | None:
    """Trains a network; calls ``after(epoch, network)`` after each epoch. Returns both networks, if there are two."""
    torch.manual_seed(seed)
    hidden = () if rule == LINEAR else setup.hidden
    net = network(data.train[0].shape[1], *hidden, 10)
    if rule in (BP, LAST, LINEAR):
        _by_gradient(net, net[-1:] if rule == LAST else net, data, setup, seed, after)
        return None
    model = CounterCurrent(net, loss="normalized" if rule == NORMALIZED else "plain")
    optimizers = [torch.optim.SGD(part.parameters(), LOCAL_LR) for part in (model.forward_net, model.feedback_net)]
    model.fit(
        *data.train, optimizers[0], None if rule == FROZEN else optimizers[1], epochs=setup.epochs,
        batch_size=setup.batch, seed=seed, after=lambda epoch, losses: after(epoch, net),
    )  # fmt: skip
    return model


def _by_gradient(
    net: nn.Module, trained: nn.Module, data: Data, setup: Setup, seed: int, after: Callable[[int, nn.Module], None]
) -> None:
    """Back-propagation of the cross entropy, clipped like the local rules."""
    (x, y), generator = data.train, torch.Generator().manual_seed(seed)
    net.requires_grad_(False)
    trained.requires_grad_(True)
    each = -(-len(x) // setup.batch)
    batches: list[Tensor] = []

    def loss(step: int) -> Tensor:
        if step % each == 0:
            batches[:] = torch.randperm(len(x), generator=generator).split(setup.batch)
        rows = batches[step % each]
        return nn.functional.cross_entropy(net(x[rows]), y[rows])

    def note(step: int, value: float) -> None:
        if (step + 1) % each == 0:
            after(step // each, net)

    optimizer = torch.optim.SGD(trained.parameters(), GLOBAL_LR)
    minimize(loss, optimizer, each * setup.epochs, max_norm=1.0, after=note)


@torch.no_grad()
def accuracy(net: nn.Module, part: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Share of right classes, and cross entropy."""
    logits = net(part[0])
    right = (logits.argmax(1) == part[1]).double().mean()
    return float(right), float(nn.functional.cross_entropy(logits, part[1]))


class Best:
    """The network of the lowest cross entropy on the validation images; the last one if there are none."""

    def __init__(self, data: Data) -> None:
        self.data, self.curve, self.lowest = data, [0.0][:0], float("inf")
        self.net: nn.Module | None = None

    def __call__(self, epoch: int, net: nn.Module) -> None:
        """Judges the network after an epoch."""
        self.curve.append(accuracy(net, self.data.test)[0])
        loss = self.lowest if self.data.validation is None else accuracy(net, self.data.validation)[1]
        if self.data.validation is None or loss < self.lowest:
            self.lowest, self.net = loss, copy.deepcopy(net)
