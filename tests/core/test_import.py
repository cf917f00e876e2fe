"""What importing the library leaves behind: nothing that changes torch for who only imports it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import torch
import probkernels as pk
import probkernels.codec, probkernels.training
from torch.optim import optimizer

hooks = optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks
assert "torch._dynamo" not in sys.modules
assert [len(h) for h in hooks] == [0, 0], hooks
for _ in range(2):
    pk.sparse.attach(torch.nn.Linear(4, 4), density=0.5)
    assert [len(h) for h in hooks] == [1, 1], hooks
"""


def test_importing_touches_no_global_state() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=300)
