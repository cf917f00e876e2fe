"""ReplayMemory: what each policy keeps, uniform subsets, resuming, bad input."""

from __future__ import annotations

import io

import pytest
import torch
from probkernels.bnn import ReplayMemory


def stream(memory: ReplayMemory, tasks: int = 3, n: int = 40, batch: int = 7) -> ReplayMemory:
    """Items are their own numbers; task t has classes 2t and 2t + 1."""
    for task in range(tasks):
        for rows in torch.arange(n).split(batch):
            items = task * n + rows
            memory.add(items[:, None].float(), 2 * task + items % 2, task)
    return memory


@pytest.mark.parametrize(
    ("policy", "size", "shares"),
    [
        ("task_balanced", 12, [4, 4, 4]),
        ("task_balanced", 11, [4, 4, 3]),
        ("task_balanced", 2, [1, 1, 0]),
        ("class_balanced", 12, [2, 2, 2, 2, 2, 2]),
        ("class_balanced", 8, [2, 2, 1, 1, 1, 1]),
    ],
)
def test_shares_are_balanced(policy: str, size: int, shares: list[int]) -> None:
    memory = stream(ReplayMemory(size, policy))
    kept = memory.contents()
    label = kept.task if policy == "task_balanced" else kept.y
    assert torch.bincount(label, minlength=len(shares)).tolist() == shares
    assert len(memory) == size == len(kept.x) == len(kept.y)
    assert torch.equal(kept.task, kept.x[:, 0].long() // 40)  # every row keeps its class and its task
    assert torch.equal(kept.y, 2 * kept.task + kept.x[:, 0].long() % 2)
    assert len(kept.x.unique()) == size


@pytest.mark.parametrize(("policy", "last"), [("reservoir", 0.1), ("task_balanced", 1 / 6), ("class_balanced", 1 / 6)])
def test_subsets_are_uniform(policy: str, last: float) -> None:
    """30 items, of which a memory keeps 3: 10 % each, or of a task of 20 and one of 10 items the share of the task."""
    found = torch.zeros(30)
    for seed in range(600):
        memory = ReplayMemory(3, policy, seed=seed)
        for start, stop in ((0, 8), (8, 20), (20, 30)):
            items = torch.arange(start, stop)
            memory.add(items, (items >= 20).long(), int(start == 20))
        found[memory.contents().x] += 1
    rates = found / 600
    first = (3 - 10 * (last if policy == "reservoir" else 0.1)) / 20
    expected = torch.where(torch.arange(30) < 20, first, 0.1)
    torch.testing.assert_close(rates, expected, rtol=0, atol=0.05)


def test_everything_fits_at_first() -> None:
    memory = ReplayMemory(100)
    memory.add(torch.arange(5.0), torch.arange(5))
    memory.add(torch.arange(5.0, 9.0), torch.arange(5, 9))
    assert memory.contents().x.tolist() == list(range(9))


def test_samples_are_drawn_without_replacement() -> None:
    memory = stream(ReplayMemory(12))
    drawn = memory.sample(8)
    assert len(drawn.x.unique()) == 8 and set(drawn.x[:, 0].tolist()) <= set(memory.contents().x[:, 0].tolist())
    assert len(memory.sample(50).x) == 12 and len(memory.sample(0).x) == 0
    one, two = (memory.sample(5, torch.Generator().manual_seed(3)).x for _ in range(2))
    assert torch.equal(one, two)


def test_copies_do_not_share_memory_with_the_batch() -> None:
    memory, x = ReplayMemory(4), torch.zeros(4, 2)
    memory.add(x, torch.zeros(4, dtype=torch.int32))
    x += 1
    assert not memory.contents().x.any()


@pytest.mark.parametrize("policy", ["reservoir", "task_balanced", "class_balanced"])
def test_a_loaded_memory_continues_alike(policy: str) -> None:
    memory, file = stream(ReplayMemory(10, policy, seed=4), 2), io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    other = ReplayMemory(10, policy)
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (memory, other):
        each.add(torch.arange(80.0, 120.0)[:, None], torch.full((40,), 9), 2)
    assert all(torch.equal(a, b) for a, b in zip(memory.contents(), other.contents(), strict=True))
    assert torch.equal(memory.sample(3).x, other.sample(3).x)
    with pytest.raises(ValueError, match="'state_dict': expected the state of a memory of size 9"):
        ReplayMemory(9, policy).load_state_dict(memory.state_dict())
    with pytest.raises(ValueError, match="got one without 'generator'"):
        other.load_state_dict({k: v for k, v in memory.state_dict().items() if k != "generator"})


@pytest.mark.parametrize("policy", ["reservoir", "task_balanced", "class_balanced"])
def test_a_memory_of_size_zero_stays_empty(policy: str) -> None:
    memory = stream(ReplayMemory(0, policy))
    drawn = memory.sample(5)
    assert len(memory) == 0 and drawn.x.shape == (0, 1) and drawn.y.shape == (0,)


def test_an_empty_batch_changes_nothing() -> None:
    memory = ReplayMemory(3, "class_balanced")
    memory.add(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    memory.add(torch.ones(2, 2), torch.tensor([0, 1]))
    memory.add(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert len(memory) == 2


def test_bad_input_is_named() -> None:
    memory, y = ReplayMemory(3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="no batch has been added yet"):
        memory.sample(1)
    memory.add(torch.ones(2, 2), y)
    for error, text, x, labels in (
        (
            ValueError,
            r"'x': expected shape \(2, 2\) \(that of earlier batches\), got shape \(2, 3\)",
            torch.ones(2, 3),
            y,
        ),
        (TypeError, "'x': expected torch.float32, as earlier batches", torch.ones(2, 2).double(), y),
        (ValueError, r"'y': expected shape \(2,\)", torch.ones(2, 2), y[:1]),
        (TypeError, "'y': expected an integer tensor", torch.ones(2, 2), y.float()),
        (ValueError, r"'x': expected finite numbers, got nan at \[0, 0\]", torch.full((2, 2), torch.nan), y),
        (TypeError, "'x': expected a tensor", [1.0], y),
    ):
        with pytest.raises(error, match=text):
            memory.add(x, labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'policy': expected one of .* did you mean 'reservoir'"):
        ReplayMemory(3, "reservoirs")
    with pytest.raises(ValueError, match="'size': expected a number >= 0"):
        ReplayMemory(-1)
    assert len(memory) == 2
