"""Plain attributes of modules (no parameters, buffers or submodules): finds changes since the calls and undoes them."""

from __future__ import annotations

import contextlib
import operator
import random
from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .._net import tensors_in

PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device, FunctionType, BuiltinFunctionType)
CONTAINERS = (dict, list, set, deque)
OPAQUE = (nn.Module, Tensor, type, ModuleType, random.Random, *PLAIN)
QUICK = frozenset(PLAIN) | {torch.Size}  # types that need no isinstance()
LARGE = 1000  # items, above which a container is data rather than state: of what is in it, plain contents are left out
WRAPPERS = ("torch.nn.parallel", "torch.distributed", "torch._dynamo")
OF_MODULES = frozenset(vars(nn.Module())) | {"forward"}  # those are looked at elsewhere
DEPTH = 3  # a container in an object in a module
MISSING = object()
Contents = dict[Any, Any]


class Slots(MutableMapping[str, Any]):
    """The attributes in the ``__slots__`` of an object, like ``vars()``."""

    def __init__(self, held: Any) -> None:
        self.held = held
        kinds = [vars(kind) for kind in reversed(type(held).__mro__) if vars(kind).get("__slots__")]
        self.members = {k: v for kind in kinds for k, v in kind.items() if isinstance(v, MemberDescriptorType)}

    def __getitem__(self, key: str) -> Any:
        try:
            return self.members[key].__get__(self.held)
        except AttributeError:  # not set
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        self.members[key].__set__(self.held, value)

    def __delitem__(self, key: str) -> None:
        self.members[key].__delete__(self.held)

    def __iter__(self) -> Iterator[str]:
        return (key for key in self.members if self.get(key, MISSING) is not MISSING)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, PLAIN) and isinstance(b, PLAIN) and a == b)


def _version(t: Tensor) -> int | None:
    return None if t.is_inference() else t._version


@dataclass
class Holder:
    """A container (dict, list, set, deque) or the attributes of an object (``names``), with its recorded contents.

    after: contents after the first call. reset: contents that calls of the backward pass find in a cache.
    end: contents after the last call. versions: of the tensors in ``end``.
    """

    path: str
    held: Any
    names: bool
    after: Contents
    reset: Contents
    end: Contents = field(default_factory=dict)
    versions: dict[Any, int | None] = field(default_factory=dict)
    cache: bool = False  # whether calls left tensors in it, which later calls may find

    @property
    def identity(self) -> int:
        """Of the container or object."""
        return _identity(self.held)

    def now(self) -> Contents:
        """The present contents, by name, key or position."""
        if self.names:
            return {k: self.held[k] for k in self.held.keys() - OF_MODULES}
        if isinstance(self.held, dict):
            return dict(self.held)
        return dict(enumerate(self.held)) if isinstance(self.held, (list, deque)) else {v: v for v in self.held}

    def finish(self) -> None:
        """The last call is over."""
        self.end = self.now()
        self.cache = self.filled(self.end)
        tensors = {key: value for key, value in self.end.items() if isinstance(value, Tensor)}
        self.versions = {key: _version(t) for key, t in tensors.items() if self.after.get(key) is t}

    def filled(self, now: Contents) -> bool:
        """Whether calls have put tensors in since :attr:`reset`, or taken some out."""
        return any(_tensors(c.get(k)) for k in self.differing(self.reset, now) for c in (self.reset, now))

    def first_call_began(self, before: Contents, graph: bool) -> None:
        """``before``: contents before the first call. If that call put in tensors with a graph, later graphs must not
        run into it: then a cache is reset to ``before``. Without ``graph``, any tensor may be such a one."""
        put = [t for k in self.differing(before, self.after) for t in _tensors(self.after.get(k))]
        if any(t.grad_fn is not None or not graph for t in put):
            self.reset = before

    def differing(self, a: Contents, b: Contents) -> list[Any]:
        """Keys under which two contents differ."""
        if a is b or (len(a) == len(b) and all(map(operator.is_, a.values(), b.values())) and a.keys() == b.keys()):
            return []  # quick for vocabularies, of which nothing changes
        return [k for k in a | b if not _same(a.get(k, MISSING), b.get(k, MISSING))]

    def wanted(self, now: Contents) -> Contents:
        """The contents for calls of the backward pass. A cache is reset, so that calls fill it with tensors
        that have a graph. Other holders get back all entries that no call changed."""
        if self.cache:
            return self.reset
        moved = set(self.differing(self.after, self.end))
        if not moved:
            return self.end
        kept = {k: v for k, v in now.items() if k in moved}
        return {k: kept.get(k, v) for k, v in self.end.items() if k not in moved or k in kept}

    def put(self, contents: Contents) -> None:
        """Replaces the contents."""
        now = self.now()
        changed = self.differing(now, contents)
        if not changed:
            return
        if self.names:
            for key in changed:
                self.held.pop(key, None)
            self.held.update({k: contents[k] for k in changed if k in contents})
            return
        self.held.clear()
        fill = self.held.extend if isinstance(self.held, (list, deque)) else self.held.update
        fill(contents if isinstance(self.held, dict) else contents.values())


def _plain_inside(value: Any, depth: int = DEPTH) -> bool:
    """Whether a container, not empty, holds only plain values or such containers. An empty one may be a cache."""
    if not (depth and isinstance(value, (tuple, *CONTAINERS)) and value):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return all(type(item) in QUICK or _plain_inside(item, depth - 1) for item in inside)


def _identity(held: Any) -> int:
    return id(held.held if isinstance(held, Slots) else held)


def _names(value: Any) -> list[Any]:
    """The attributes of an object: what ``vars()`` gives, and slots."""
    if isinstance(value, OPAQUE) or type(value).__module__.startswith(("torch.", "numpy.")):
        return []
    slots = Slots(value)
    return [*([vars(value)] if hasattr(value, "__dict__") else []), *([slots] if slots.members else [])]


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a value, and in the attributes of an object."""
    return [t for part in (value, *map(dict, _names(value))) for t in tensors_in(part)]


def holders(modules: dict[str, nn.Module]) -> list[Holder]:
    """The holders of all modules and of their classes. torch's wrappers are left out: torch owns their attributes."""
    seen: set[int] = set()
    found: list[Holder] = []

    def visit(path: str, held: Any, names: bool, depth: int) -> None:
        if _identity(held) in seen:
            return
        seen.add(_identity(held))
        holder = Holder(path, held, names, {}, {})
        holder.after = holder.reset = holder.now()
        found.append(holder)
        into(path, holder.after.items(), len(holder.after) > LARGE, depth)

    def into(path: str, items: Iterable[tuple[Any, Any]], large: bool, depth: int) -> None:
        for key, value in items if depth else ():  # quick: it may be a whole vocabulary
            if not (type(value) in QUICK or (large and _plain_inside(value)) or isinstance(value, OPAQUE)):
                inward(f"{path}.{key}", value, depth - 1)

    def inward(path: str, value: Any, depth: int) -> None:
        if isinstance(value, CONTAINERS):
            visit(path, value, False, depth)
        elif isinstance(value, tuple):
            into(path, enumerate(value), len(value) > LARGE, depth)
        else:
            for names in _names(value):
                visit(path, names, True, depth)

    for path, module in modules.items():
        if not type(module).__module__.startswith(WRAPPERS):
            visit(path, vars(module), True, DEPTH)
            for key, value in _of_classes(type(module)):
                inward(f"{path}.{key}", value, DEPTH - 1)
    return found


def _of_classes(kind: type) -> Iterator[tuple[str, Any]]:
    """Containers in the classes of a module, as in ``class Net(nn.Module): cache = {}``."""
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        if not base.__module__.startswith("torch."):
            own = vars(base).items()
            yield from ((k, v) for k, v in own if isinstance(v, CONTAINERS) and not k.startswith("__"))


class Attributes:
    """All attributes of some modules, as the first call of the net left them.

    Args:
        modules: by path.
        before: the attributes before the first call.
        graph: whether the first call made a graph.
    """

    def __init__(self, modules: dict[str, nn.Module], before: Attributes | None = None, graph: bool = True) -> None:
        self.holders = holders(modules)
        self.caches: list[Holder] = []
        earlier = {holder.identity: holder.after for holder in before.holders} if before else {}
        for holder in self.holders:
            if holder.identity in earlier:
                holder.first_call_began(earlier[holder.identity], graph)

    def finish(self) -> None:
        """The last call is over."""
        for holder in self.holders:
            holder.finish()
        self.caches = [holder for holder in self.holders if holder.cache]

    def filled(self) -> bool:
        """Whether a call would find tensors that earlier calls left."""
        return any(holder.filled(holder.now()) for holder in self.holders)

    def clear(self) -> None:
        """Resets what calls have filled."""
        for holder in self.holders:
            if holder.filled(holder.now()):
                holder.put(holder.reset)

    def written(self) -> list[str]:
        """Names of tensors that were written to since the last call."""
        return [
            f"{holder.path}.{key}".lstrip(".")
            for holder in self.holders
            for key, before in holder.versions.items()
            if _version(holder.end[key]) != before
        ]

    def restore(self, stack: contextlib.ExitStack) -> None:
        """Restores the attributes of the calls until the stack closes."""
        for holder in self.holders:
            now = holder.now()
            wanted = holder.wanted(now)
            if holder.cache or holder.differing(now, wanted):
                stack.callback(holder.put, now)
                holder.put(wanted)

    def rewind(self) -> None:
        """Resets caches before a call of the backward pass, so that no call finds what another one left."""
        for holder in self.caches:
            holder.put(holder.reset)

    def differing(self) -> Iterator[tuple[str, Any, Any]]:
        """Path, old and present value of plain attributes that have changed since the first call."""
        for holder in self.holders:
            now = holder.now()
            for key in holder.differing(holder.after, now):
                old, new = holder.after.get(key, MISSING), now.get(key, MISSING)
                if isinstance(old, PLAIN):
                    yield f"{holder.path}.{key}".lstrip("."), old, None if new is MISSING else new
