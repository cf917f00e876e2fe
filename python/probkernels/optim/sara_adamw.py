"""SaRAAdamW: sparse fine-tuning of a model in one line."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._core import checks, devices
from .._core.errors import ModelMismatchError, message
from ..ops import Selection, sparse_adamw_
from ..sparse import attach, polar
from ..sparse.adapter import LOW_RANK_ABOVE
from ..sparse.choose import Target
from ..sparse.nuclear import masked
from ..sparse.slots import Slot, places, read, sharded
from ._checkpoint import GROUP_KEYS, KINDS, MOMENTS, entry_of, in_full, moments_of, part_of, start
from ._groups import find_groups, split

NAME = "SaRAAdamW"
LARGEST_THRESHOLD = 1e-2  # of the paper's experiments, which its learning rate rule is fitted to


def lr_rule(threshold: float) -> float:
    """The paper's learning rate for a threshold."""
    return 1e-3 * math.exp(-350 * threshold)


Row = tuple[Slot, nn.Parameter, nn.Parameter, Tensor]  # of one parameter with a gradient


class SaRAAdamW(torch.optim.Optimizer):
    """Fine-tunes the entries of a model with the smallest magnitudes by AdamW and freezes all other entries.

    The optimizer attaches an adapter (:func:`probkernels.sparse.attach`) to the model and trains its values. Gradients,
    moments, steps and weight decay exist for selected entries only.

    Args:
        model: the model, changed in place. ``optimizer.adapter.detach()`` makes it a plain model again.
        threshold: entries with magnitudes strictly below it are trained; 2e-3 if no ``density`` is given.
        lr: learning rate. None: ``1e-3 exp(-350 threshold)``; with ``density``, the threshold that the density
            implies. The rule was fitted to thresholds up to 0.01 and warns above.
        betas: see :class:`torch.optim.AdamW`.
        eps: see :class:`torch.optim.AdamW`.
        weight_decay: see :class:`torch.optim.AdamW`. Acts on trained entries only.
        rank_penalty: weight of the low-rank loss (official script: 5e-4). Each step adds the loss's gradient for one
            randomly drawn matrix with both sides above 64.
        progressive_iter: number of steps after which to train only entries still below the threshold (paper: half of
            all steps).
        reset_state_on_progress: whether to reset the moments at that step, as one of the two official optimizers does.
        moments: ``"float32"`` (float64 for float64 weights), or ``"int8"``: 8-bit codes with a scale per 256 entries.
        density: see :func:`probkernels.sparse.attach`.
        target: see :func:`probkernels.sparse.attach`.
        select: see :func:`probkernels.sparse.attach`.
        scope: see :func:`probkernels.sparse.attach`.
        keep_base: see :func:`probkernels.sparse.attach`.
        seed: see :func:`probkernels.sparse.attach`.
        groups: parameter groups, in place of ``target``: dictionaries with ``params`` (parameters of the model) and any
            of ``lr``, ``betas``, ``eps``, ``weight_decay``. Only these parameters are adapted.
        values: where trained values live. ``"weights"``: in the weights alone, without a copy. ``"own"``: float32
            values beside the weights, because half precision loses small steps. None: ``"weights"``, or ``"own"`` if a
            target is half precision or torch.distributed is initialized.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range; ``rank_penalty`` is given but no matrix is large enough; or ``attach``
            raises.

    Reference: Hu et al., "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank
    Adaptation", ICLR 2025, arXiv:2409.06633. The official code's mathematics, without its faults.

    Example:
        >>> import torch, probkernels as pk
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
        >>> optimizer = pk.optim.SaRAAdamW(model, threshold=2e-3)
        >>> model(torch.randn(8, 64)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.zero_grad()
        >>> round(optimizer.defaults["lr"], 8)
        0.00049659
    """

    writes_weights = True  # its step does, so that nothing is left for the hook after it

    def __init__(
        self,
        model: nn.Module,
        threshold: float | None = None,
        lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        rank_penalty: float = 0.0,
        progressive_iter: int | None = None,
        reset_state_on_progress: bool = False,
        moments: str = "float32",
        *,
        density: float | None = None,
        target: Target = None,
        select: str = "smallest",
        scope: str = "global",
        values: str | None = None,
        keep_base: bool = False,
        seed: int = 0,
        groups: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            hint = "pass the model itself; target= or groups= choose among its parameters"
            raise TypeError(message(NAME, "model", "a torch.nn.Module", type(model).__name__, hint))
        chosen = find_groups(NAME, model, groups)
        if chosen is not None:
            if target is not None:
                raise ValueError(message(NAME, "groups", "a target or groups", "both"))
            target = lambda name, module, p: id(p) in chosen  # noqa: E731
        _check(lr, betas, eps, weight_decay, rank_penalty, progressive_iter, moments)
        self.adapter = attach(
            model,
            threshold,
            density=density,
            target=target,
            select=select,
            scope=scope,
            values=values or _values_for(model),
            keep_base=keep_base,
            seed=seed,
        )
        self.rank_penalty, self.progressive_iter = rank_penalty, progressive_iter
        self.reset_state_on_progress, self.moments, self.updates = reset_state_on_progress, moments, 0
        try:
            lr = self._default_lr() if lr is None else lr
            if rank_penalty and not self.adapter.matrices(LOW_RANK_ABOVE):
                expected = f"0 for a model without a matrix whose both sides exceed {LOW_RANK_ABOVE}"
                raise ValueError(message(NAME, "rank_penalty", expected, repr(rank_penalty)))
        except ValueError:
            self.adapter.detach()
            raise
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(split(self.adapter.held(), groups or [{}], chosen), defaults)
        for _, _, values_ in self.adapter.held():
            self.state[values_]["step"] = 0  # torch.distributed.checkpoint steps an optimizer without a state

    def _default_lr(self) -> float:
        slots = [slot for slot, _, _ in self.adapter.held()]
        if slots[0].rule.select != "smallest" or (
            slots[0].rule.density is not None and slots[0].rule.scope == "tensor"
        ):
            hint = "the paper's rule needs one threshold"
            raise ValueError(message(NAME, "lr", "a number for this selection", "None", hint))
        threshold = max(slot.threshold or 0.0 for slot in slots)
        lr, hint = lr_rule(threshold), "give lr= yourself"
        if lr == 0:
            got = f"a threshold of {threshold:g}, for which the paper's rule gives 0"
            raise ValueError(message(NAME, "lr", "a number for this selection", got, hint))
        if threshold > LARGEST_THRESHOLD:
            warnings.warn(
                f"{NAME}: a threshold of {threshold:.3g} is beyond the {LARGEST_THRESHOLD:g} that the paper's learning "
                f"rate rule is for; it gives lr={lr:.3g}. Hint: {hint}",
                stacklevel=3,
            )
        return lr

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the entries whose values have a gradient. Step ``progressive_iter`` also calls :meth:`progress`."""
        devices.refuse_baked(NAME, "steps and learning rates")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held = [h for h in self.adapter.held() if h[2].requires_grad and not h[0].merged]
        grads = {id(values): values.grad for _, _, values in held}
        if self.rank_penalty:
            self._penalize(grads)
        rows = []
        for slot, weight, values in held:
            grad = grads[id(values)]
            if grad is not None:
                rows.append((slot, weight, values, grad))
        self._update(rows)
        self.updates += 1
        if self.updates == self.progressive_iter:
            self.progress()
        return loss

    def _penalize(self, grads: dict[int, Tensor | None]) -> None:
        """Adds the low-rank loss's gradient for one drawn matrix."""
        if not self.adapter.matrices(LOW_RANK_ABOVE):
            return
        slot, weight, values = self.adapter.draw(1)[0]
        current = values if slot.own else read(weight, slot.selection)
        extra = self.rank_penalty * slot.selection.gather(polar(masked(slot, weight, current)))
        grad = grads[id(values)]
        grads[id(values)] = extra if grad is None else grad + extra

    def _update(self, rows: list[Row]) -> None:
        found = {id(row[2]): row for row in rows}
        for group in self.param_groups:
            mine = [found[id(p)] for p in group["params"] if id(p) in found]
            for rows_there in devices.by_device(mine, lambda row: row[2].device):
                self._update_group(group, rows_there)

    def _update_group(self, group: dict[str, Any], rows: list[Row]) -> None:
        """Updates rows of one device."""
        weights, selections, masters, states = [], [], [], []
        for slot, weight, values, _ in rows:
            slot.on(values.device)
            slot.refresh(weight, values)
            spread = sharded(weight) is not None  # then the hook after the step writes this process's shard
            weights.append(values.detach() if spread else weight.detach())
            selections.append(_whole(values) if spread else slot.selection)
            masters.append(values.detach() if slot.own and not spread else None)
            states.append(self._state_of(values))
        scales: dict[str, Any] = {}
        if self.moments == "int8":
            scales = {
                "m_scale": [s["exp_avg_scale"] for s in states],
                "v_scale": [s["exp_avg_sq_scale"] for s in states],
            }
        for state in states:
            state["step"] += 1
        sparse_adamw_(
            weights,
            selections,
            [row[3].to(row[2].dtype) for row in rows],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["step"] for s in states],
            values=masters,
            **scales,
            lr=float(group["lr"]),
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )
        for slot, weight, values, _ in rows:
            if sharded(weight) is None:
                slot.note(weight, values)

    def _state_of(self, values: nn.Parameter) -> dict[str, Any]:
        state = self.state[values]
        if MOMENTS[0] not in state:
            zeros = torch.zeros(values.shape, dtype=values.dtype, device=values.device)
            state["step"] = 0
            start(state, self.moments, zeros, zeros)
        return state

    def progress(self) -> int:
        """Starts the progressive stage now, see :meth:`probkernels.sparse.Adapter.progress`."""
        before = {id(values): (values, slot.selection) for slot, _, values in self.adapter.held()}
        left = self.adapter.progress()
        for slot, _, values in self.adapter.held():
            old = before[id(values)][1]
            if self.reset_state_on_progress:
                self.state[values] = {"step": 0}
            elif slot.selection is not old and MOMENTS[0] in self.state[values]:
                self._keep(self.state[values], places(slot.selection, old))
        return left

    def _keep(self, state: dict[str, Any], at: Tensor) -> None:
        """Keeps the moments of the entries ``at`` (count) only."""
        start(state, self.moments, *(moment[at] for moment in in_full(state, self.moments)))

    # --- checkpoints ---

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from: moments, selections, values and stage, all in ``state`` and ``param_groups``.

        Raises:
            ValueError: a group was removed from ``param_groups``, or holds other parameters.
        """
        slots = {id(values): slot for slot, _, values in self.adapter.held()}
        params = [values for group in self.param_groups for values in group["params"]]
        if set(slots) != {id(values) for values in params}:
            hint = "leave param_groups whole: a group with lr=0 stands still"
            got = "groups that lack some of them or hold others"
            raise ValueError(message(NAME, "param_groups", "all of the adapter's values", got, hint))
        made, own = super().state_dict(), self.adapter.state_dict()
        numbers = itertools.chain.from_iterable(group["params"] for group in made["param_groups"])
        for number, values in zip(numbers, params, strict=True):
            slot = slots[id(values)]
            made["state"][number] = entry_of(own["parts"][slot.name], slot, self.state[values], self.moments)
        about = {"moments": self.moments, "updates": self.updates, "rule": own["rule"], "generator": own["generator"]}
        for group in made["param_groups"]:
            group.update(about)
        made["param_groups"][0]["beside"] = own["beside"]
        return made

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from :meth:`state_dict`. The model may hold the base weights or the trained weights.

        Saved moments are converted to the kind that ``moments`` names.

        Raises:
            ModelMismatchError: the state belongs to another model or to another selection.
        """
        groups = [dict(group) for group in state_dict.get("param_groups", ())] or [{"params": []}]
        about: dict[str, Any] = {key: groups[0].get(key) for key in GROUP_KEYS}
        sizes = [[len(group["params"]) for group in some] for some in (groups, self.param_groups)]
        if about["moments"] not in KINDS or sizes[0] != sizes[1]:
            got = f"groups of {sizes[0]} parameters for {sizes[1]}"
            raise ModelMismatchError(f"{NAME}.load_state_dict: no state of such a {NAME}: {got}")
        names = [name for group in groups for name in group["params"]]
        params = [values for group in self.param_groups for values in group["params"]]
        entries = {id(v): state_dict["state"].get(name) for name, v in zip(names, params, strict=True)}
        parts = {}
        for slot, weight, values in self.adapter.held():
            entry = entries[id(values)]
            if entry is None and slot.first.count:
                raise ModelMismatchError(f"{NAME}.load_state_dict: the state of '{slot.name}' is missing")
            if entry is None:  # checkpointers leave out what requires no gradient
                entries[id(values)] = entry = self._entry(slot)
            parts[slot.name] = part_of(slot.name, entry, weight.device)
        self.adapter.load_state_dict({**about, "parts": parts, "beside": groups[0]["beside"]})
        for group in groups:
            for key in (*GROUP_KEYS, "beside"):
                group.pop(key, None)
        super().load_state_dict({"state": {}, "param_groups": groups})
        for values in params:
            entry = entries[id(values)]
            assert entry is not None
            self.state[values] = moments_of(entry, about["moments"], self.moments, values)
        self.updates = about["updates"]

    def _entry(self, slot: Slot) -> dict[str, Any]:
        return entry_of(self.adapter.state_dict()["parts"][slot.name], slot, {}, self.moments)

    def __getstate__(self) -> dict[str, Any]:
        own = ("adapter", "rank_penalty", "progressive_iter", "reset_state_on_progress", "moments", "updates")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of the adapter's values. The optimizer trains nothing else.

        Raises:
            ValueError: the group holds other parameters.
        """
        known = {id(values) for values in self.adapter.parameters()}
        given = param_group["params"]
        if any(id(p) not in known for p in ([given] if isinstance(given, Tensor) else given)):
            hint = "train other parameters by an optimizer of their own"
            raise ValueError(message(NAME, "param_group", "the adapter's values alone", "another group", hint))
        super().add_param_group(param_group)


def _values_for(model: nn.Module) -> str:
    half = any(p.dtype in (torch.half, torch.bfloat16) for p in model.parameters())
    return "own" if half or (dist.is_available() and dist.is_initialized()) else "weights"


def _whole(values: Tensor) -> Selection:
    return Selection.from_mask(torch.ones(values.shape, dtype=torch.bool, device=values.device))


def _check(
    lr: float | None,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    rank_penalty: float,
    progressive_iter: int | None,
    moments: str,
) -> None:
    for name, number in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay), ("rank_penalty", rank_penalty)):
        if number is not None and checks.number(NAME, name, number) < 0:
            raise ValueError(message(NAME, name, "a number of at least 0", repr(number)))
    for k, beta in enumerate(betas):
        checks.fraction(NAME, f"betas[{k}]", beta)
    checks.one_of(NAME, "moments", moments, KINDS)
    if progressive_iter is not None:
        checks.integer(NAME, "progressive_iter", progressive_iter, wanted="a positive int or None")
