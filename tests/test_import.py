"""``import probkernels`` costs nothing and changes nothing."""

from __future__ import annotations

import subprocess
import sys

import probkernels
import pytest


def fresh(program: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_no_torch() -> None:
    loaded = fresh("import probkernels, sys; print(*(m for m in ('torch', 'numpy', 'tqdm') if m in sys.modules))")
    assert loaded == ""


def test_rooms_import_no_compiler_and_no_distributed_tensors() -> None:
    program = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import probkernels\n"
        "for room in probkernels.ROOMS: getattr(probkernels, room)\n"
        "heavy = ('torch._dynamo', 'torch._inductor', 'torch.distributed.tensor', 'triton', 'matplotlib', 'sklearn')\n"
        "print(*(m for m in heavy if m in sys.modules and m not in before))\n"
    )
    assert fresh(program) == ""


def test_rooms_install_no_global_hook() -> None:
    program = (
        "import torch\n"
        "from torch.optim import optimizer\n"
        "from torch.nn.modules import module\n"
        "def hooks():\n"
        "    places = (optimizer, module)\n"
        "    found = [(n, v) for p in places for n, v in vars(p).items() if n.startswith('_global')]\n"
        "    return {n: len(v) for n, v in found if hasattr(v, '__len__')}\n"
        "before = hooks()\n"
        "import probkernels\n"
        "for room in probkernels.ROOMS: getattr(probkernels, room)\n"
        "assert before and hooks() == before, (before, hooks())\n"
        "assert torch.get_num_threads() and torch.get_default_dtype() is torch.float32\n"
    )
    fresh(program)


def test_the_first_attach_installs_its_hooks_once() -> None:
    fresh(
        "import torch\n"
        "import probkernels as pk\n"
        "from torch.optim import optimizer\n"
        "hooks = optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks\n"
        "for _ in range(2):\n"
        "    pk.sparse.attach(torch.nn.Linear(4, 4), density=0.5)\n"
        "    assert [len(h) for h in hooks] == [1, 1], hooks\n"
    )


def test_names_are_listed_and_unknown_ones_refused() -> None:
    assert set(probkernels.__all__) <= set(dir(probkernels))
    assert probkernels.nn.PowerNorm.__module__.startswith("probkernels.nn")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        probkernels.nonsense  # noqa: B018
