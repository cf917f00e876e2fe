"""An ``Adapter`` is the handle on the selected entries of a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message
from ..ops import Selection
from . import _beside
from . import state as states
from ._modules import guard_loading, standin, unswap
from .delta import Delta
from .nuclear import SlotNuclear, refuse_transforms
from .slots import MARK, SUFFIX, Slot, read, resize, settle, slots_of, sync, tuned, write

LOW_RANK_ABOVE = 64  # the low-rank loss is for matrices whose both sides exceed this (official code)


class Adapter:
    """A handle on the selected entries of a model, from :func:`~probkernels.sparse.attach` or :meth:`of`.

    The model's modules hold all state except a random state, so the model may be copied, pickled, moved and cast.

    Example:
        >>> import torch, probkernels as pk
        >>> model = torch.nn.Linear(64, 32)
        >>> adapter = pk.sparse.attach(model, density=0.1)
        >>> round(adapter.density, 3), [name for name, values in adapter.named_values()]
        (0.1, ['weight', 'bias'])
        >>> model is adapter.detach()
        True
    """

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self.model = model
        self.generator = torch.Generator().manual_seed(seed)  # which matrices nuclear_penalty draws

    @classmethod
    def of(cls, model: nn.Module, seed: int = 0) -> Adapter:
        """The adapter of a copied or unpickled model.

        Raises:
            ValueError: the model has no adapter.
        """
        if not any(slots_of(module) for module in model.modules()):
            raise ValueError(message("Adapter.of", "model", "a model with an adapter", "one without", "attach one"))
        return cls(model, seed)

    def _parts(self) -> Iterator[tuple[Slot, nn.Module, str]]:
        """Every slot once, with one module and attribute that hold it."""
        seen: set[int] = set()
        for module in self.model.modules():
            for name, slot in slots_of(module).items():
                if id(slot) not in seen:
                    seen.add(id(slot))
                    yield slot, module, name

    def held(self) -> list[tuple[Slot, nn.Parameter, nn.Parameter]]:
        """Slots with their weights and values."""
        held = []
        for slot, module, name in self._parts():
            weight, values = module._parameters[name], module._parameters[name + SUFFIX]
            assert weight is not None
            assert values is not None
            slot.check_values(values)
            held.append((slot, weight, values))
        if not held:
            raise ValueError(message("Adapter", "model", "a model with an adapter", "one that was detached"))
        return held

    # --- what is trained ---

    def parameters(self) -> list[nn.Parameter]:
        """The values, for an optimizer."""
        return [values for _, _, values in self.held()]

    def named_values(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The values (count) with the names of their parameters."""
        yield from ((slot.name, values) for slot, _, values in self.held())

    @property
    def selections(self) -> dict[str, Selection]:
        """The selections of currently trained entries, by parameter name."""
        return {slot.name: slot.selection for slot, _, _ in self.held()}

    @property
    def count(self) -> int:
        """The number of currently trained entries."""
        return sum(slot.selection.count for slot, _, _ in self.held())

    @property
    def density(self) -> float:
        """The share of currently trained entries among all entries of the targeted parameters."""
        held = self.held()
        return self.count / max(1, sum(weight.numel() for _, weight, _ in held))

    def sync(self) -> None:
        """Writes values into the weights of a compiled or sharded model after a change by something but an optimizer.

        No call is needed after an optimizer step or in eager mode, where weights follow automatically.
        """
        for module in self.model.modules():
            sync(module)

    @torch.no_grad()
    def progress(self, *optimizers: torch.optim.Optimizer) -> int:
        """Starts the progressive stage: keeps training only the entries that are still below the threshold.

        All other entries are frozen at their trained values. The values parameters shrink in place. Call this between a
        step and the next forward; under DDP, wrap the model again afterwards. It may be called repeatedly.

        Args:
            optimizers: optimizers whose state of the remaining entries is kept. Create any other optimizer anew.

        Returns:
            The number of entries still trained. 0 warns, because further training changes nothing.

        Raises:
            ValueError: the selection is not ``"smallest"``, or the adapter is merged.
        """
        held = self.held()
        for slot, _, _ in held:
            if slot.rule.select != "smallest":
                raise ValueError(message("progress", "adapter", "one with select='smallest'", slot.rule.select))
            if slot.merged:
                raise ValueError(message("progress", "adapter", "one that is not merged", "a merged one"))
        for slot, weight, values in held:
            slot.refresh(weight, values)
            slot.on(weight.device)
            current = values.detach() if slot.own else read(weight, slot.selection)
            keep = current.abs() < (slot.threshold or 0.0)
            if not bool(keep.all()):
                self._shrink(slot, weight, values, keep, optimizers)
        left = self.count
        if left == 0:
            warnings.warn("probkernels.sparse: nothing is left to train; training will change nothing", stacklevel=2)
            for _, _, values in held:  # so that a loss can still be differentiated
                values.requires_grad_(True)
        return left

    def _shrink(
        self, slot: Slot, weight: Tensor, values: nn.Parameter, keep: Tensor, optimizers: Sequence[Any]
    ) -> None:
        grad = values.grad
        for optimizer in optimizers:
            state = optimizer.state.get(values, {})
            for key, entry in state.items():
                if isinstance(entry, Tensor) and entry.shape == values.shape:
                    state[key] = entry[keep]
        slot.selection = slot.selection.within(keep)
        for optimizer in optimizers:
            if MARK in optimizer.state.get(values, {}):
                optimizer.state[values][MARK] = slot.mark()
        data = values.detach()[keep].clone() if slot.own else standin(values, slot.selection.count)
        resize(values, data)
        slot.note(weight, values)
        if grad is not None and slot.selection.count:
            values.grad = grad[keep]

    def reduce_gradients(self, group: dist.ProcessGroup | None = None) -> None:
        """Averages the gradients of the values over a process group. Needed with FSDP2, which ignores the values."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        for grad in grads:
            dist.all_reduce(grad, group=group)
            grad.div_(dist.get_world_size(group))

    # --- low-rank loss ---

    def matrices(self, larger_than: int = LOW_RANK_ABOVE) -> list[tuple[Slot, nn.Parameter, nn.Parameter]]:
        """Matrices with selected entries and both sides above ``larger_than``, as (slot, weight, values)."""
        held = [h for h in self.held() if h[1].dim() == 2 and min(h[1].shape) > larger_than]
        return [h for h in held if h[0].selection.count]

    def draw(self, n: int = 1, larger_than: int = LOW_RANK_ABOVE) -> list[tuple[Slot, nn.Parameter, nn.Parameter]]:
        """Draws ``n`` matrices for the low-rank loss, as (slot, weight, values).

        Raises:
            ValueError: fewer than ``n`` matrices have selected entries and both sides above ``larger_than``.
        """
        held = self.matrices(larger_than)
        if not 1 <= n <= len(held):
            expected = f"a number from 1 to the {len(held)} matrices with both sides above {larger_than}"
            raise ValueError(message("nuclear_penalty", "n", expected, str(n), "lower larger_than"))
        return [held[i] for i in torch.randperm(len(held), generator=self.generator)[:n].tolist()]

    def nuclear_penalty(self, n: int = 1, larger_than: int = LOW_RANK_ABOVE, method: str | None = None) -> Tensor:
        """The low-rank loss: the sum of the nuclear norms of ``n`` random matrices, with untrained entries set to 0.

        Add it to the loss with a weight such as 5e-4. One matrix per step keeps it cheap. As in the official code, the
        sum is not rescaled to the number of all matrices.

        Args:
            n: number of matrices to draw, without repeats.
            larger_than: only matrices with both sides above this take part.
            method: see :func:`polar`.

        Returns:
            A scalar whose gradient reaches the values.

        Raises:
            ValueError: fewer than ``n`` matrices can take part.
        """
        refuse_transforms("nuclear_penalty")
        terms = []
        for slot, weight, values in self.draw(n, larger_than):
            slot.refresh(weight, values)
            slot.on(weight.device)
            current = values.detach() if slot.own else read(weight, slot.selection)
            terms.append(SlotNuclear.apply(values, current, weight, slot, method))
        return torch.stack([t.to(terms[0].dtype) for t in terms]).sum()

    # --- what was learned ---

    def delta(self) -> Delta:
        """The learned changes as a :class:`Delta`: values of all entries that were selected when attaching.

        It also holds changed buffers, such as running statistics, and unadapted parameters that were trained along.
        """
        return states.delta_of(self.held(), self.model)

    def save(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes :meth:`delta` to a file; see :meth:`Delta.save`."""
        self.delta().save(path, dtype)

    def load(self, path: str | Path) -> None:
        """Sets the values from a file that was saved with the same base model and selection.

        Raises:
            CorruptStreamError: the file is damaged.
            ModelMismatchError: the file belongs to another base model or selection.
        """
        states.load_delta(self.held(), self.model, Delta.load(path))

    @torch.no_grad()
    def merge(self, alpha: float = 1.0) -> nn.Module:
        """Puts base + alpha (tuned - base) into weights and buffers, and suspends training until :meth:`unmerge`.

        Args:
            alpha: 0 gives the base model, 1 the tuned model, both exactly.

        Returns:
            The model.

        Raises:
            ValueError: alpha is not finite; or it is not 1, and the adapter was attached with ``keep_base=False`` or
                unadapted parameters were trained along.
        """
        alpha, held = checks.number("merge", "alpha", alpha), self.held()
        for slot, _, _ in held:
            if alpha != 1 and slot.base is None:
                raise ValueError(message("merge", "alpha", "1 without a kept base", repr(alpha), "keep_base=True"))
        _beside.merge(self.model, held[0][0].beside, alpha)
        for slot, weight, values in held:
            slot.refresh(weight, values)
            found = tuned(slot, weight, values)
            if alpha == 1:
                scaled = found
            else:
                assert slot.base is not None
                scaled = torch.lerp(slot.base.to(found.device, torch.float64), found.double(), alpha)
            write(weight, slot.first, scaled)
            slot.merged, slot.tuned = True, found
            slot.show(weight)
        guard_loading(self.model, True)
        return self.model

    def unmerge(self) -> nn.Module:
        """Restores the tuned values in the weights exactly and resumes training. Returns the model.

        A weight that was set from outside while merged stays as it was set, and its values follow.
        """
        held = self.held()
        _beside.unmerge(self.model, held[0][0].beside)
        for slot, weight, values in held:
            if slot.merged:
                settle(slot, weight, values, tuned(slot, weight, values))
        guard_loading(self.model, False)
        return self.model

    def detach(self) -> nn.Module:
        """Removes the adapter. The weights stay as they are, tuned or merged; ``requires_grad`` is as before attaching.

        Returns:
            The model, with its original classes.
        """
        self.sync()
        self.held()
        for module in self.model.modules():
            slots = slots_of(module)
            for name, slot in slots.items():
                del module._parameters[name + SUFFIX]
                weight = module._parameters[name]
                assert weight is not None
                weight.requires_grad_(slot.trained_before)
            if slots:
                unswap(module)
        guard_loading(self.model, False)
        return self.model

    # --- checkpoints of training ---

    def state_dict(self) -> dict[str, Any]:
        """The state to resume training from: selections, values, base and random state. Tensors and plain Python."""
        return states.state_of(self.held(), self.model, self.generator)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from :meth:`state_dict`, whatever values and stage this adapter has.

        Raises:
            ModelMismatchError: the state belongs to another model: names, shapes or frozen entries differ.
        """
        states.load_state(self.held(), self.model, state, self.generator)
