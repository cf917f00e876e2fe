"""Caches that the calls of a net fill with tensors: the gradient through them, wherever the net keeps them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from probkernels.diffusion import VP, Denoiser
from probkernels.diffusion.gradients._attributes import Attributes, holders
from torch import Tensor, nn

from tests.diffusion.test_gradient_replay import MODES, equal, grads
from tests.diffusion.test_gradients import DIMS, same


@pytest.fixture(params=MODES, name="how")
def _how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


class Cached(nn.Module):
    """Takes an embedding from a cache: of every time, of the last one, or, once for all calls, of a constant."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.layer, self.of_time, self.form = nn.Linear(DIMS + 1, DIMS), nn.Linear(1, 1), form
        self.cache: dict[float, Tensor] = {}
        self.time, self.value = -1.0, None
        self.others = [self.of_time.weight] if form == "once, direct" else []

    def embedded(self, t: Tensor) -> Tensor:
        weight = self.others[0] if self.others else self.of_time.weight
        return torch.tanh(t[:1, None].to(weight) @ weight + self.of_time.bias)

    def found(self, t: Tensor) -> Tensor:
        time = float(t[0])
        if self.form == "dict":
            if time not in self.cache:
                self.cache[time] = self.embedded(t)
            return self.cache[time]
        if self.value is None or (self.form == "last" and time != self.time):
            self.time, self.value = time, self.embedded(t if self.form == "last" else torch.ones_like(t))
        return self.value

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([x, self.found(t).expand(len(x), 1)], 1)))


STORES = [{}, *({"store": b} for b in (300, 500, 700, 900, 1200, 10**6)), {"store": "revolve=2"}]


@pytest.mark.parametrize("form", ["dict", "last", "once", "once, direct"])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_caches_and_kept_graphs(form: str, solver: str) -> None:
    """A kept graph must not run into that of another call, nor miss what a call without a graph computed."""

    def found(how: dict[str, Any]) -> list[Tensor]:
        torch.manual_seed(1)
        return grads(Denoiser(Cached(form).double(), VP(), pred="v"), {"solver": solver, **how})

    for store in STORES:
        same(found({"grad": "exact", **store}), found({"grad": "autograd"}), 1e-12)


@dataclass(slots=True)
class Slotted:
    """Parent of :class:`Record`, as slots are declared class by class."""

    time: float = -1.0


@dataclass(slots=True)
class Record(Slotted):
    value: Tensor | None = None


class Plain:
    __slots__ = ("__value", "time")

    def __init__(self) -> None:
        self.time = -1.0  # and no value yet

    @property
    def value(self) -> Tensor:
        return self.__value

    @value.setter
    def value(self, value: Tensor) -> None:
        self.__value = value


class Remembering(nn.Module):
    """Asks ``embedded`` for an embedding of the time, which a subclass caches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"layer": nn.Linear(DIMS + 1, DIMS), "of_time": nn.Linear(1, 1)})

    def new(self, t: Tensor) -> Tensor:
        return torch.tanh(self.layers["of_time"](t[:1, None].to(next(self.parameters()))))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.layers["layer"](torch.cat([x, self.embedded(t).expand(len(x), 1)], 1)))


def in_object(make: Callable[[], Any]) -> Denoiser:
    class Net(Remembering):
        def __init__(self) -> None:
            super().__init__()
            self.kept = make()

        def embedded(self, t: Tensor) -> Tensor:
            if self.kept.time != float(t[0]):
                self.kept.time, self.kept.value = float(t[0]), self.new(t)
            return self.kept.value

    return Denoiser(Net().double(), VP(), pred="v")


def in_class(kind: type[dict]) -> Denoiser:
    class Parent(Remembering):
        cache = kind()

        def embedded(self, t: Tensor) -> Tensor:
            if float(t[0]) not in self.cache:
                self.cache[float(t[0])] = self.new(t)
            return self.cache[float(t[0])]

    class Net(Parent):
        pass

    return Denoiser(Net().double(), VP(), pred="v")


class Numpyro:
    """An object of a package whose name begins like numpy's."""

    time, value = -1.0, None


Numpyro.__module__ = "numpyro.infer"
CACHES: dict[str, Callable[[], Denoiser]] = {
    "slots of a dataclass": lambda: in_object(Record),
    "slots": lambda: in_object(Plain),
    "numpyro": lambda: in_object(Numpyro),
    "dict of the class": lambda: in_class(dict),
    "ordered dict of the class": lambda: in_class(OrderedDict),
}


@pytest.mark.parametrize("form", CACHES)
def test_caches_in_slots_and_classes(how: dict[str, Any], form: str) -> None:
    def make() -> Denoiser:
        torch.manual_seed(1)
        return CACHES[form]()

    equal(make, how, lambda model: None)


MANY = 5000
VOCABULARIES: dict[str, Callable[[], Any]] = {
    "numbers": lambda: {str(i): i for i in range(MANY)},
    "tuples": lambda: {str(i): (i, str(i)) for i in range(MANY)},
    "lists": lambda: {str(i): [i, (i, "")] for i in range(MANY)},
    "list of dicts": lambda: [{"id": i} for i in range(MANY)],
    "tuple of lists": lambda: tuple([i] for i in range(MANY)),
}


@pytest.mark.parametrize("form", VOCABULARIES)
def test_large_plain_attributes_are_not_followed(form: str) -> None:
    """One holder for the module and one for the container, not one for each item."""
    module = nn.Module()
    module.vocabulary = VOCABULARIES[form]()
    assert len(holders({"": module})) <= 2


def test_large_containers_hold_what_changes() -> None:
    """Their own items, and caches in them, whether empty or filled."""
    module, new = nn.Module(), torch.ones(2, requires_grad=True) * 2
    itself: list[Any] = []
    itself.append(itself)
    module.many = {**VOCABULARIES["lists"](), "empty": {}, "filled": [torch.zeros(2)], "itself": itself}
    attributes = Attributes({"": module})
    assert not attributes.filled()
    module.many["empty"][0.5] = new
    assert attributes.filled()
    module.many["empty"].clear()
    module.many["filled"].append(new)
    assert attributes.filled()
    module.many["filled"].pop()
    module.many["new"] = new
    attributes.finish()
    assert [holder.path for holder in attributes.caches] == [".many"]
    attributes.rewind()
    assert "new" not in module.many and len(module.many) == MANY + 3
