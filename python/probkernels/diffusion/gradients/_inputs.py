"""What a sampling run depends on: the tensors that get gradients, and proof that there are no others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..._core import checks
from ..._core.errors import message


def learned(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of ``model`` that require a gradient."""
    return [t for t in (*model.parameters(), *model.buffers()) if t.requires_grad]


def refuse_undeclared(output: Tensor, declared: Sequence[Tensor]) -> None:
    """Every leaf of the graph of ``output`` is among the declared tensors: others would silently get no gradient."""
    known = {id(t) for t in declared}
    stops = {t.grad_fn for t in declared if t.grad_fn is not None}
    seen, waiting = set(stops), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            expected = "a net whose tensors that require a gradient are its parameters, buffers or the condition"
            hint = "register it as a parameter, pass it as cond, or use grad='autograd'"
            raise ValueError(message("sample", "model", expected, checks.describe(leaf), hint))
        waiting += [parent for parent, _ in node.next_functions]


class Surroundings:
    """Autocast as it was when the run began, and random numbers that each evaluation can draw again."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.autocast = torch.is_autocast_enabled(device.type)
        self.dtype = torch.get_autocast_dtype(device.type)
        self.seed: int | None = None  # None: the net draws no random numbers

    def random_state(self) -> list[Tensor]:
        """Of every generator that the net may use."""
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])]

    def draw_seed(self) -> None:
        """From here on, evaluation i draws what a seed and i determine."""
        self.seed = int(torch.randint(2**62, ()))

    @contextlib.contextmanager
    def around(self, i: int) -> Iterator[None]:
        """Wraps evaluation i. Casts of weights are not kept: one made without a graph must not serve one with it."""
        with contextlib.ExitStack() as stack:
            if self.autocast:
                stack.enter_context(torch.autocast(self.device.type, self.dtype, cache_enabled=False))
            if self.seed is not None:
                stack.enter_context(torch.random.fork_rng([self.device] if self.device.type == "cuda" else []))
                torch.manual_seed(self.seed + i)
            yield


@contextlib.contextmanager
def counting_bytes(ignored: Sequence[Tensor]) -> Iterator[Callable[[], int]]:
    """How many bytes autograd keeps for graphs made inside, other than the ignored tensors'."""
    skipped = {t.untyped_storage().data_ptr() for t in ignored}
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in skipped:
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield lambda: sum(sizes.values())
