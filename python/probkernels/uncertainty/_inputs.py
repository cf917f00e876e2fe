"""Checks of probabilities, labels and sample weights, and the events that a metric compares with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import message

MODES = ("auto", "top_label", "class_wise")
BLOCK = 1 << 18  # entries that a CPU's cache holds
HALF = (torch.float16, torch.bfloat16)
PROBABILITIES = "softmax or sigmoid makes probabilities of logits; NaN often comes from logits that are not finite"


class Samples(NamedTuple):
    """Checked input of a metric. Samples without weight are left out."""

    probs: Tensor  # (N,) or (N, C), float32 or float64
    labels: Tensor  # (N,) int64
    weight: Tensor  # (N,) float64


def blocks(matrix: Tensor) -> Iterator[slice]:
    """Blocks of rows that fit into the cache; on a GPU one block of all rows."""
    count, columns = matrix.shape
    step = max(BLOCK // columns, 1) if matrix.device.type == "cpu" else max(count, 1)
    return (slice(start, start + step) for start in range(0, count, step))


def widened(values: Tensor) -> Tensor:
    """Half-precision numbers as float32, others unchanged."""
    return values.float() if values.dtype in HALF else values


def _matrix_or_vector(op: str, name: str, values: object, hint: str) -> Tensor:
    checks.float_tensor(op, name, values, hint)
    assert isinstance(values, Tensor)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] < 2):
        wanted = "shape (N,) for two classes or (N, C) with C >= 2"
        hint = "flatten other dimensions; a column (N, 1) needs squeeze(1)"
        raise ValueError(message(op, name, wanted, f"shape {tuple(values.shape)}", hint))
    return widened(values)


def check_probs(op: str, name: str, given: Tensor, exclusive: bool = True) -> None:
    """Checks that all entries lie in [0, 1] and, if events are ``exclusive``, that rows of a matrix sum to 1."""
    probs = widened(given.detach())
    if probs.ndim == 1 or not exclusive:
        good = bool(((probs >= 0) & (probs <= 1)).all())
    else:  # entries >= 0 that sum to 1 are at most 1; NaN fails both comparisons
        tolerance = 1e-2 if given.dtype in HALF else 1e-4
        parts = (probs[rows] for rows in blocks(probs))
        good = all(bool((p.amin() >= 0) & ((p.sum(1) - 1).abs() <= tolerance).all()) for p in parts if p.numel())
    if good:
        return
    wrong = ~((probs >= 0) & (probs <= 1))
    if wrong.any():
        raise ValueError(message(op, name, "probabilities in [0, 1]", checks.offender(probs, wrong), PROBABILITIES))
    sums = probs.sum(1)
    wrong = (sums - 1).abs() > tolerance
    raise ValueError(message(op, name, "rows that sum to 1", checks.offender(sums, wrong, "a sum of "), PROBABILITIES))


def row_labels(op: str, name: str, labels: object, rows: Tensor, rows_name: str, wanted: str, hint: str = "") -> Tensor:
    """Checks labels (...), integer or bool, of rows (..., M): an index from 0 to M - 1 each, which the error calls
    ``wanted``. Returns them as int64."""
    if not (isinstance(labels, Tensor) and labels.dtype is torch.bool):
        checks.integer_tensor(op, name, labels, "labels.long() if all are whole numbers")
    assert isinstance(labels, Tensor)
    checks.shape(op, name, labels, rows.shape[:-1], f"(one label for each entry of '{rows_name}')")
    checks.same_device(op, name, labels, rows, rows_name)
    labels, count = labels.long(), rows.shape[-1]
    wrong = (labels < 0) | (labels >= count)
    if wrong.any():
        raise ValueError(message(op, name, f"{wanted} 0 to {count - 1}", checks.offender(labels, wrong), hint))
    return labels


def class_labels(op: str, labels: object, values: Tensor, name: str) -> Tensor:
    """Checks labels (N,), integer or bool, of values (N,) of two classes or (N, C), and returns them as int64."""
    if values.ndim == 2:
        return row_labels(op, "labels", labels, values, name, "classes", "drop ignored samples")
    hint = f"'{name}' of shape (N,) are probabilities of class 1"
    return row_labels(op, "labels", labels, values[:, None].expand(-1, 2), name, "classes", hint)


def check_weight(op: str, weight: Tensor | None, values: Tensor, name: str) -> Tensor:
    """Checks weights (N,), 1 if there are none, and returns them as float64."""
    if weight is None:
        return torch.ones(len(values), dtype=torch.float64, device=values.device)
    if not isinstance(weight, Tensor) or weight.is_complex():
        hint = checks.AS_TENSOR
        raise TypeError(message(op, "sample_weight", "a tensor of real numbers", checks.describe(weight), hint))
    checks.shape(op, "sample_weight", weight, (len(values),), f"(one weight for each entry of '{name}')")
    checks.same_device(op, "sample_weight", weight, values, name)
    weight = weight.detach().double()
    wrong = ~((weight >= 0) & weight.isfinite())
    if wrong.any():
        raise ValueError(message(op, "sample_weight", "finite numbers >= 0", checks.offender(weight, wrong)))
    if not weight.sum().isfinite():
        wanted = "weights with a finite sum"
        raise ValueError(message(op, "sample_weight", wanted, "an infinite sum", "scale them down"))
    return weight


def _with_weight(op: str, parts: list[Tensor], weight: Tensor, given: bool, empty: bool, name: str) -> list[Tensor]:
    """Leaves out samples without weight and refuses an empty rest."""
    if not len(weight) and not empty:
        raise ValueError(message(op, name, "at least one sample", f"shape {tuple(parts[0].shape)}"))
    kept = [*parts, weight]
    if given and bool((weight == 0).any()):
        kept = [part[weight > 0] for part in kept]
        if not len(kept[0]) and not empty:
            raise ValueError(message(op, "sample_weight", "a positive weight", "zeros only"))
    return kept


def all_samples(op: str, probs: object, labels: object, sample_weight: Tensor | None) -> Samples:
    """Checks probabilities of one event, or of C events that need not exclude each other. Keeps samples of weight 0."""
    wide = _matrix_or_vector(op, "probs", probs, PROBABILITIES).detach()
    classes = class_labels(op, labels, wide, "probs")
    check_probs(op, "probs", wide, exclusive=False)
    weight = check_weight(op, sample_weight, wide, "probs")
    _with_weight(op, [wide], weight, sample_weight is not None, False, "probs")  # refuses what has no weight at all
    return Samples(wide, classes, weight)


def samples(op: str, probs: object, labels: object, sample_weight: Tensor | None, empty: bool = False) -> Samples:
    """Checks the input of a metric of probabilities. ``empty`` allows no samples."""
    wide = _matrix_or_vector(op, "probs", probs, "softmax or sigmoid makes probabilities of logits")
    classes = class_labels(op, labels, wide, "probs")
    assert isinstance(probs, Tensor)
    check_probs(op, "probs", probs)
    weight = check_weight(op, sample_weight, wide, "probs")
    return Samples(*_with_weight(op, [wide, classes], weight, sample_weight is not None, empty, "probs"))


def scored(op: str, scores: object, labels: object, sample_weight: Tensor | None, empty: bool = False) -> Samples:
    """Checks the input of a metric of ranks: any scores but NaN."""
    wide = _matrix_or_vector(op, "scores", scores, checks.AS_TENSOR).detach()
    classes = class_labels(op, labels, wide, "scores")
    wrong = wide.isnan()
    if wrong.any():
        raise ValueError(message(op, "scores", "numbers", checks.offender(wide, wrong)))
    weight = check_weight(op, sample_weight, wide, "scores")
    return Samples(*_with_weight(op, [wide, classes], weight, sample_weight is not None, empty, "scores"))


def pair(
    op: str, probs: object, true: object, sample_weight: Tensor | None, empty: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Checks predicted and true probabilities of one shape."""
    wide = _matrix_or_vector(op, "probs", probs, "softmax or sigmoid makes probabilities of logits")
    checks.float_tensor(op, "true_probs", true, "labels are no probabilities; brier and nll take them")
    assert isinstance(probs, Tensor) and isinstance(true, Tensor)
    checks.shape(op, "true_probs", true, wide.shape, "(that of 'probs')")
    checks.same_device(op, "true_probs", true, wide, "probs")
    check_probs(op, "probs", probs)
    check_probs(op, "true_probs", true)
    weight = check_weight(op, sample_weight, wide, "probs")
    kept = _with_weight(op, [wide, true.to(wide.dtype)], weight, sample_weight is not None, empty, "probs")
    return kept[0], kept[1], kept[2]


def top_label(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability of each row (N, C), and whether its class (the first one of a tie) is the label."""
    top = probs.amax(1)
    hit = probs.gather(1, labels[:, None])[:, 0] == top
    # Equal largest entries are at most one half. Only where there are some, argmax is needed, which no CPU vectorizes.
    unsure = (hit & (top <= 0.51)).nonzero()[:, 0]
    for rows in blocks(probs[: len(unsure)]):
        some = unsure[rows]
        own = probs[some]
        tied = some[torch.eq(own, top[some, None], out=torch.empty_like(own)).sum(1) > 1]
        hit[tied] = probs[tied].argmax(1) == labels[tied]
    return top, hit


def events(given: Samples, mode: str) -> Samples:
    """What a calibration metric compares: for "class_wise" probabilities (N, C) of all classes and the label, otherwise
    the probability (N,) of one event and whether it came true."""
    probs, labels, weight = given.probs.detach(), given.labels, given.weight
    if probs.ndim == 1 and mode != "auto":
        probs = torch.stack([1 - probs, probs], 1)
    if probs.ndim == 1 or mode == "class_wise":
        return Samples(probs, labels, weight)
    top, hit = top_label(probs, labels)
    return Samples(top, hit.long(), weight)


def columns(given: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """Probability and outcome (both (N,)) of each event."""
    if given.probs.ndim == 1:
        yield given.probs, given.labels
    else:
        for c in range(given.probs.shape[1]):
            yield given.probs[:, c].contiguous(), given.labels == c
