"""``attach`` makes selected entries of a model trainable."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from .._core import checks
from .._core.errors import message
from ._beside import remember
from ._modules import standin, swap
from .adapter import Adapter
from .choose import Home, Target, choose, find_homes
from .slots import SUFFIX, Rule, Slot, read, values_dtype


def attach(
    model: nn.Module,
    threshold: float | None = None,
    *,
    density: float | None = None,
    target: Target = None,
    select: str = "smallest",
    scope: str = "global",
    values: str = "own",
    keep_base: bool = True,
    seed: int = 0,
) -> Adapter:
    """Makes selected entries of a model's parameters trainable and freezes all other entries of them, in place.

    Each adapted parameter ``p`` stays in place, frozen. Its module gets a one-dimensional parameter ``p_values`` with
    the selected entries, which optimizers, GradScaler, clip_grad_norm_, DDP and EMA see. Gradients are computed for
    selected entries only. The model's ``state_dict()`` is still that of the plain model. Parameters that are not
    targeted are left as they are.

    Args:
        model: the model, changed in place. Tied parameters share one set of values.
        threshold: selects entries with magnitude strictly below it (above it, for ``"largest"``). 2e-3 if neither
            ``threshold`` nor ``density`` is given.
        density: the share of entries to select, in [0, 1], in place of a threshold.
        target: the parameters to adapt: None for all floating-point parameters, one or several name patterns such as
            ``"*.weight"``, or a function ``target(name, module, parameter) -> bool``.
        select: ``"smallest"``, or for comparison ``"largest"`` or ``"random"``. ``"random"`` needs ``density`` and
            selects the same share of every parameter.
        scope: applies ``density`` to all targets together (``"global"``) or to each target (``"tensor"``).
        values: where values live. ``"own"``: float32 (float64 for float64 weights) beside the weights. ``"weights"``:
            in the weights alone, which saves 4 bytes per entry. ``p_values`` is then a placeholder with a gradient but
            no memory, which only :class:`probkernels.optim.SaRAAdamW` can train.
        keep_base: whether to keep the entries' original values, so that ``merge`` can scale the learned change.
        seed: seed for the random selection and for the matrices that ``nuclear_penalty`` draws.

    Returns:
        The :class:`Adapter`. An empty selection warns.

    Raises:
        TypeError: a targeted parameter is not float32, float64, float16 or bfloat16.
        ValueError: the model already has an adapter; nothing is targeted; a parameter is on the meta device, not
            initialized, sharded, or shares memory with another parameter; or an argument is out of range.

    Reference: Hu et al., "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank
    Adaptation", ICLR 2025, arXiv:2409.06633.

    Example:
        >>> import torch, probkernels as pk
        >>> model = torch.nn.Linear(64, 32)
        >>> adapter = pk.sparse.attach(model, density=0.05)
        >>> optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3)
        >>> model(torch.randn(8, 64)).square().mean().backward()
        >>> optimizer.step()
        >>> adapter.count, model.weight_values.grad.shape[0] + model.bias_values.grad.shape[0]
        (104, 104)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(message("attach", "model", "a torch.nn.Module", type(model).__name__, "pass the model itself"))
    rule = _rule(threshold, density, select, scope, values)
    homes = find_homes("attach", model, target)
    chosen = choose(homes, rule, seed)
    total = sum(c.selection.count for c in chosen)
    if total == 0:
        warnings.warn("probkernels.sparse.attach: nothing is selected; training will change nothing", stacklevel=2)
    slots: dict[nn.Module, dict[str, Slot]] = {}
    for home, c in zip(homes, chosen, strict=True):
        weight = home.parameter
        base = read(weight, c.selection) if keep_base else None
        slot = Slot(home.name, rule, c.selection, c.selection, c.threshold, base, weight.requires_grad)
        parameter = _values_of(home, slot, total == 0)
        slot.parameter, slot.weight = parameter, weight.requires_grad_(False)
        slot.note(weight, parameter)
        for module, name in home.places:
            slots.setdefault(module, {})[name] = slot
            module.register_parameter(name + SUFFIX, parameter)
    for module, named in slots.items():
        swap(module, named)
    beside = remember(model)
    for named in slots.values():
        for slot in named.values():
            slot.beside = beside
    return Adapter(model, seed)


def _rule(threshold: float | None, density: float | None, select: str, scope: str, values: str) -> Rule:
    checks.one_of("attach", "select", select, ("smallest", "largest", "random"))
    checks.one_of("attach", "scope", scope, ("global", "tensor"))
    checks.one_of("attach", "values", values, ("own", "weights"))
    if threshold is not None and density is not None:
        raise ValueError(message("attach", "density", "a threshold or a density", "both"))
    if density is not None and not 0 <= density <= 1:
        raise ValueError(message("attach", "density", "a number in [0, 1]", repr(density)))
    if select == "random" and density is None:
        raise ValueError(message("attach", "density", "a number for select='random'", "None"))
    if threshold is None and density is None:
        threshold = 2e-3
    if threshold is not None and not threshold >= 0:
        raise ValueError(message("attach", "threshold", "a number of at least 0", repr(threshold)))
    return Rule(threshold, density, select, scope, values)


def _values_of(home: Home, slot: Slot, all_empty: bool) -> nn.Parameter:
    weight, count = home.parameter.detach(), slot.selection.count
    dtype = values_dtype(weight)
    if slot.own:
        data = read(weight, slot.selection).to(dtype)
    else:
        data = standin(torch.empty(0, dtype=dtype, device=weight.device), count)
    return nn.Parameter(data, requires_grad=count > 0 or all_empty)
