"""The net's state in the forward pass: detects later changes, and restores the state to call the net again."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.parallel import DistributedDataParallel

from ..._core import checks
from ..._core.errors import message
from ..._core.registry import uncompiled
from ._attributes import Attributes
from ._inputs import learned

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
GLOBAL_HOOKS = tuple("_global" + name for name in HOOKS)


Result = TypeVar("Result")
LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()  # of nets


def alone(method: Callable[..., Result]) -> Callable[..., Result]:
    """Lets one thread at a time run a method of :class:`Net`: threads would see each other's replaced tensors."""

    @functools.wraps(method)
    def inner(self: Net, *args: Any) -> Result:
        with self.lock:
            return method(self, *args)

    return inner


class Member(NamedTuple):
    """A parameter or buffer of one module."""

    name: str
    module: nn.Module
    store: str  # of the module's dicts
    key: str
    tensor: Tensor
    learns: bool
    version: int | None

    def now(self) -> Tensor | None:
        """The tensor that the module holds now under this name."""
        found: Tensor | None = getattr(self.module, self.store).get(self.key)
        return found


def version(t: Tensor) -> int | None:
    """How often a tensor was written to, where torch counts it."""
    return None if t.is_inference() else t._version


def alias(t: Tensor) -> Tensor:
    """A leaf with t's values, storage and Python attributes, and none of its hooks."""
    other = nn.Parameter(t.detach()) if isinstance(t, nn.Parameter) else t.detach().requires_grad_()
    vars(other).update(vars(t))
    return other


def hooks(module: nn.Module) -> tuple[Any, ...]:
    """Which hooks a module has, and whether its forward was replaced."""
    return (*(tuple(getattr(module, name, ())) for name in HOOKS), vars(module).get("forward"))


def global_hooks() -> tuple[Any, ...]:
    """Which hooks all modules have."""
    return tuple(tuple(getattr(torch_module, name, ())) for name in GLOBAL_HOOKS)


class Net:
    """The net of a run, with its recorded state.

    Calls with a graph see our own leaves in place of the parameters. Hooks of the parameters then run once, when
    autograd accumulates what the backward pass returns. Where leaves cannot be swapped in (``direct``), the parameters
    themselves are differentiated.

    Args:
        model: the denoiser.
    """

    @uncompiled
    def __init__(self, model: nn.Module) -> None:
        self.model, self.lock = model, LOCKS.setdefault(getattr(model, "net", model), threading.RLock())
        with self.lock:
            self.look_up()

    def look_up(self) -> None:
        """Records the net's state at the start."""
        model = self.model
        self.parameters = learned(model)
        self.sharded = any(checks.is_sharded(p) for p in self.parameters)  # FSDP2, which accumulates by itself
        self.direct = self.sharded or any(isinstance(m, torch.jit.ScriptModule) for m in model.modules())
        self.reducers = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
        self.leaves = self.parameters if self.direct else [alias(p) for p in self.parameters]
        self.own = {id(p): leaf for p, leaf in zip(self.parameters, self.leaves, strict=True)}
        self.inside = False
        self.moving: dict[str, Tensor] = {}  # what the first call wrote to, as it left it
        self.remember()
        self.attributes = Attributes(self.modules)
        self.refuse_hooks()

    def members(self) -> list[Member]:
        """All parameters and buffers, except sharded ones, which FSDP2 swaps in and out."""
        return [
            Member(f"{path}.{key}".lstrip("."), module, store, key, t, t.requires_grad, version(t))
            for path, module in self.model.named_modules()
            for store in (("_buffers",) if self.sharded else ("_parameters", "_buffers"))
            for key, t in getattr(module, store).items()
            if t is not None and not checks.is_sharded(t)
        ]

    @alone
    def remember(self) -> None:
        """Records the present state as the one that later calls must find."""
        self.modules = dict(self.model.named_modules())
        self.hooks = {path: hooks(module) for path, module in self.modules.items()}
        self.global_hooks = global_hooks()
        self.training = {path: module.training for path, module in self.modules.items()}
        self.tensors = self.members()

    @uncompiled
    @alone
    def called(self) -> None:
        """Records the state again after the first call, which may have created and filled caches."""
        before = {m.name: (id(m.tensor), m.version) for m in self.tensors}
        self.remember()
        moved = [m for m in self.tensors if before.get(m.name) != (id(m.tensor), m.version)]
        self.moving = {m.name: m.tensor.detach().clone() for m in moved}
        self.attributes = Attributes(self.modules, before=self.attributes, graph=not self.sharded)

    @uncompiled
    def be_direct(self) -> None:
        """Differentiates the parameters themselves: the net does not read them from its modules' dicts."""
        self.direct, self.leaves = True, self.parameters
        self.attributes.clear()
        self.refuse_hooks()

    def refuse_hooks(self) -> None:
        """Refuses hooks on parameters in direct mode, where they would run once per call."""
        if not self.direct or self.sharded:
            return
        for name, p in self.model.named_parameters():
            if p.requires_grad and p._backward_hooks:
                expected = "parameters without hooks, as the net is scripted or keeps other references to them"
                raise ValueError(message("sample", "model", expected, f"one on {name}", "use grad='autograd'"))

    def written(self) -> list[str]:
        """Names of tensors that the first call wrote to and that have changed since."""
        found = []
        for m in self.tensors:
            known, now = self.moving.get(m.name), m.now()
            if known is not None and (now is None or not torch.equal(now.detach(), known)):
                found.append(m.name)
        return found

    def changed(self) -> list[str]:
        """Changes that cannot be undone."""
        modules = dict(self.model.named_modules())
        found = [f"module '{path}' was added" for path in modules if path not in self.modules]
        for path, module in self.modules.items():
            if path not in modules or modules[path] is not module:
                found.append(f"module '{path}' was removed or replaced")
            elif hooks(module) != self.hooks[path]:
                found.append(f"hooks or forward() of '{path}' were changed")
        if global_hooks() != self.global_hooks:
            found.append("hooks of all modules were changed")
        for m in self.tensors:
            if m.name not in self.moving and version(m.tensor) != m.version:
                found.append(f"'{m.name}' was modified by an inplace operation")
            elif m.key not in getattr(m.module, m.store):
                found.append(f"'{m.name}' was removed")
        return found

    def turned(self) -> list[str]:
        """Changes of tensors that can be undone."""
        found = [
            f"'{m.name}' was replaced" for m in self.tensors if m.name not in self.moving and m.now() is not m.tensor
        ]
        found += [f"requires_grad of '{m.name}'" for m in self.tensors if m.tensor.requires_grad != m.learns]
        return found

    def switched(self) -> list[str]:
        """Modules whose training flag has changed."""
        return [
            f"'{path}.training'".replace("'.", "'")
            for path, m in self.modules.items()
            if m.training != self.training[path]
        ]

    @uncompiled
    @alone
    def refuse_drift(self) -> None:
        """Raises at the end of the forward pass if the net changed between calls."""
        written = self.written()
        if written:
            expected, hint = "a net that leaves its buffers as they are", "call model.eval(), or use grad='autograd'"
            raise ValueError(message("sample", "model", expected, f"one whose calls change '{written[0]}'", hint))
        self.refuse([*self.changed(), *self.turned(), *self.switched()], "during the run")
        self.attributes.finish()

    @uncompiled
    @alone
    def refuse_changes(self, others: list[str]) -> None:
        """Raises at the start of the backward pass if the net has changed. ``others`` names further changed inputs."""
        names = [*self.written(), *self.attributes.written()]
        written = [f"'{name}' was modified by an inplace operation" for name in names]
        self.refuse(
            [*others, *self.changed(), *written, *(self.turned() if self.direct else [])], "since the forward pass"
        )

    def refuse(self, found: list[str], when: str) -> None:
        """Raises if ``found`` is not empty: repeated calls would differ from those of the forward pass."""
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            hint = "Hint: make changes after backward(), or use grad='autograd'"
            raise RuntimeError(f"sample: changed {when}: {', '.join(found[:3])}{more}. {hint}")

    def suspects(self) -> str:
        """Text that names changed plain attributes, a possible reason why outputs differ."""
        found = [f"'{path}' from {old!r:.40} to {now!r:.40}" for path, old, now in self.attributes.differing()]
        return f"; changed: {', '.join(found[:3])}" if found else ""

    @contextlib.contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Restores training flags, attributes and tensors of the forward pass in this block, without DDP."""
        with self.lock, contextlib.ExitStack() as stack:
            for path, module in self.modules.items():
                if module.training != self.training[path]:
                    stack.callback(setattr, module, "training", module.training)
                    module.training = self.training[path]
            self.attributes.restore(stack)
            stack.enter_context(self.aliased())
            yield

    @contextlib.contextmanager
    def aliased(self) -> Iterator[None]:
        """Swaps in our own leaves for the parameters, and the forward pass's tensors for later ones."""
        if self.direct or self.inside:
            yield
            return
        put: list[tuple[dict[str, Any], str, Any]] = []
        self.lock.acquire()
        self.inside = True
        try:
            for m in self.tensors:
                store, now = getattr(m.module, m.store), m.now()
                wanted = self.own.get(id(m.tensor), m.tensor)
                if wanted.requires_grad and not m.learns:
                    wanted = m.tensor.detach()
                if wanted is not now and m.key in store:
                    put.append((store, m.key, now))
                    store[m.key] = wanted
            with self.unsynchronized():
                yield
        finally:
            self.inside = False
            for store, key, now in reversed(put):
                store[key] = now
            self.lock.release()

    @contextlib.contextmanager
    def unsynchronized(self) -> Iterator[None]:
        """Switches DDP off: it waits for gradients of the parameters themselves and must not see our leaves."""
        with contextlib.ExitStack() as stack:
            for module in self.reducers:
                stack.callback(setattr, module, "require_forward_param_sync", module.require_forward_param_sync)
                stack.enter_context(module.no_sync())
                module.require_forward_param_sync = False
            yield
