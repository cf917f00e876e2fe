"""Chooses the backend of an op: the forced one, else the first in the op's order of preference that can run it.

``PK_BACKEND=name`` forces a backend. ``PK_STRICT=1`` makes a fallback to the reference an error. ``PK_LOG=debug`` logs
every choice and why the other backends were refused.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from . import checks, native
from .errors import BackendError

log = logging.getLogger("probkernels")


class Kernels(Protocol):
    """What the choice of a backend needs to know about an op."""

    @property
    def name(self) -> str: ...

    @property
    def kernels(self) -> Mapping[str, Any]: ...  # by kind, in order of preference

    @property
    def dtypes(self) -> Sequence[torch.dtype]: ...


@dataclass(frozen=True, eq=False)
class Backend:
    """A way to run kernels of one ``kind`` on one device type (None: on any)."""

    name: str
    kind: str  # which of an op's kernels it runs: reference, cpu, cuda or triton
    device: str | None
    problem: Callable[[], str | None]  # why it cannot be used on this machine, or None
    module: Callable[[], Any] = lambda: native.module

    @functools.cache  # noqa: B019 - backends live as long as the process
    def launcher(self, name: str) -> Callable[..., None]:
        """The native function ``name_<kind>``."""
        return getattr(self.module(), f"{name}_{self.kind}")

    def launch(self, launcher: str, *args: Any) -> None:
        """Calls ``launcher_<kind>`` of the native module, with the number of threads or the stream to use.

        ``args`` are the arguments of the C++ launcher, with contiguous tensors for its pointers. The second one is a
        tensor, or a list that begins with a tensor.
        """
        function = self.launcher(launcher)
        if self.kind == "cpu":
            function(*args, torch.get_num_threads())
            return
        x = args[1][0] if isinstance(args[1], list) else args[1]
        if not x.is_cuda:  # the emulator, in tests
            function(*args, 0)
        else:
            with torch.cuda.device(x.device):
                function(*args, torch._C._cuda_getCurrentRawStream(x.device.index))


def _cuda_problem() -> str | None:
    if native.problem:
        return native.problem
    if native.build_info().get("cuda_archs") is None:
        return "this build has no CUDA kernels; rebuild with PK_CUDA=ON and nvcc on PATH"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


def _triton_problem() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


BACKENDS: dict[str, Backend] = {
    b.name: b
    for b in (
        Backend("reference", "reference", None, lambda: None),
        Backend("cpu", "cpu", "cpu", lambda: native.problem),
        Backend("cuda", "cuda", "cuda", _cuda_problem),
        Backend("triton", "triton", "cuda", _triton_problem),
    )
}

_forced: str | None = os.environ.get("PK_BACKEND") or None
_strict = os.environ.get("PK_STRICT", "0") not in ("", "0")
CHOSEN: dict[tuple[str, str, torch.dtype], Backend] = {}  # what `choose` has decided
_told: set[str] = set()

if os.environ.get("PK_LOG"):
    log.setLevel(os.environ["PK_LOG"].upper())
    log.addHandler(logging.StreamHandler())


def refusals(op: Kernels, device: str, dtype: torch.dtype) -> dict[str, str]:
    """The backends that cannot run ``op`` on ``device`` tensors of ``dtype``, each with the reason."""
    found = {}
    for backend in BACKENDS.values():
        if backend.kind not in op.kernels:
            found[backend.name] = f"{op.name} has no {backend.kind} kernel"
        elif backend.device not in (None, device):
            found[backend.name] = f"it runs {backend.device} tensors, not {device} ones"
        elif dtype not in op.dtypes:
            found[backend.name] = f"{op.name} does not take {dtype}"
        elif reason := backend.problem():
            found[backend.name] = reason
    return found


def choose(op: Kernels, device: str, dtype: torch.dtype) -> Backend:
    """The backend that runs ``op``. Raises BackendError if a forced backend cannot run it, or strict mode forbids a
    fallback."""
    key = (op.name, device, dtype)
    if key not in CHOSEN:
        CHOSEN[key] = _decide(op, device, dtype)
    return CHOSEN[key]


def unless_forced(name: str, chosen: Backend) -> Backend:
    """Backend ``name`` if it can run the op and no backend is forced, else ``chosen``.

    For ops whose best backend depends on more than device and dtype. Call it in the kernel of the chosen backend.
    """
    return BACKENDS[name] if _forced is None and BACKENDS[name].problem() is None else chosen


def _decide(op: Kernels, device: str, dtype: torch.dtype) -> Backend:
    refused = refusals(op, device, dtype)
    reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
    if _forced is not None:
        if _forced not in BACKENDS:
            raise _no_backend(f"{op.name}: PK_BACKEND={_forced!r}", _forced)
        if _forced in refused:
            raise BackendError(f"{op.name}: backend '{_forced}' was forced but cannot run it: {refused[_forced]}")
        return BACKENDS[_forced]
    usable = [b for kind in op.kernels for b in BACKENDS.values() if b.kind == kind and b.name not in refused]
    if not usable:
        raise BackendError(f"{op.name}: no backend runs {dtype} tensors on {device}: {reasons}")
    picked = usable[0]
    log.debug("%s on %s %s: %s (refused: %s)", op.name, device, dtype, picked.name, reasons or "none")
    if picked.kind == "reference" and len(op.kernels) > 1:
        if _strict:
            raise BackendError(f"{op.name}: PK_STRICT=1 forbids the reference on {device} {dtype}: {reasons}")
        if op.name not in _told:
            _told.add(op.name)
            log.warning("%s falls back to plain torch on %s: %s", op.name, device, reasons)
    return picked


def _no_backend(what: str, name: object) -> BackendError:
    hint = checks.nearest(name, BACKENDS) or f"use {', '.join(BACKENDS)}"
    return BackendError(f"{what} is not a backend. Hint: {hint}")


@contextlib.contextmanager
def use_backend(name: str | None, *, strict: bool | None = None) -> Iterator[None]:
    """Forces a backend inside a ``with`` block, as ``PK_BACKEND`` and ``PK_STRICT`` do for a whole process.

    Args:
        name: ``"reference"``, ``"cpu"``, ``"cuda"`` or ``"triton"``. None lets each op choose.
        strict: whether to raise instead of falling back to the reference. None keeps the current setting.

    Raises:
        BackendError: there is no such backend. Also raised inside the block by an op that the backend cannot run.

    Example:
        >>> import torch, probkernels as pk
        >>> with pk.use_backend("reference"):
        ...     y, _ = pk.ops.power_norm(torch.ones(2, 3), torch.ones(3))
    """
    global _forced, _strict
    if name is not None and name not in BACKENDS:
        raise _no_backend(f"use_backend: {checks.shown(name)}", name)
    before = _forced, _strict
    _forced, _strict = name, _strict if strict is None else strict
    CHOSEN.clear()
    try:
        yield
    finally:
        _forced, _strict = before
        CHOSEN.clear()
