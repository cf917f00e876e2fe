"""Training NoProp's blocks, optimizer steps included: all as batched products, against a loop over the blocks."""

from __future__ import annotations

import torch
from probkernels.local_learning import NoPropDT, fit_noprop
from torch import Tensor, nn

from ..case import Case, Inputs, Params, Provider, Result, Run, Task, Verdict
from ..claims import times_faster
from ..grids import one_core

LEAST = 2.5
CLAIMED = 64  # the width of the claim; others are reported
FEATURES, CLASSES, BLOCKS, STEPS, LR, DECAY = 64, 10, 10, 10, 1e-3, 1e-3
TRAINING = f"{STEPS} steps"


class _Block(nn.Module):
    """The layers of a block in the experiment on NoProp."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def layer(inputs: int) -> list[nn.Module]:
            return [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]

        self.of_x = nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), *layer(width)[:2])
        self.of_z, self.inner = nn.Sequential(*layer(CLASSES)), nn.Sequential(*layer(width), *layer(width)[:2])
        self.end = nn.Sequential(*layer(2 * width), nn.Linear(width, CLASSES))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        h = self.of_z(z)
        logits: Tensor = self.end(torch.cat([self.of_x(x), h + self.inner(h)], 1))
        return logits


def grid(device: str) -> list[Params]:
    """Ten blocks of the widths 64 and 256."""
    return one_core(("width", "rows"), [(CLAIMED, 128), (256, 128)])


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """x, y and the weights of all blocks by name."""
    x, y = torch.randn(params["rows"], FEATURES).to(device, dtype), torch.randint(CLASSES, (params["rows"],)).to(device)
    return {"x": x, "y": y, **{name: p.detach().to(device, dtype) for name, p in _model(params).named_parameters()}}


def _model(params: Params) -> NoPropDT:
    return NoPropDT([_Block(params["width"]) for _ in range(BLOCKS)], CLASSES)


def _given(inputs: Inputs, params: Params) -> tuple[NoPropDT, Tensor, Tensor]:
    """The model and the data, in float32 for the oracle too: noise of another dtype would be other noise."""
    model = _model(params).to(inputs["x"].device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(inputs[name])
    return model, inputs["x"].float(), inputs["y"]


def _gradients(model: NoPropDT, loss: Tensor) -> list[Tensor]:
    """Those of a block in one: a bias before batch normalization has none but rounding errors."""
    found = iter(torch.autograd.grad(loss, list(model.blocks.parameters())))
    return [torch.cat([next(found).flatten() for _ in block.parameters()]) for block in model.blocks]


def _source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def stacked(inputs: Inputs, params: Params) -> Task:
    """The library's training; making the stack counts."""
    model, x, y = _given(inputs, params)

    def train() -> None:
        fit_noprop(
            model, x, y, epochs=STEPS, batch_size=len(x), lr=LR, weight_decay=DECAY, generator=_source(), progress=False
        )

    return Task({TRAINING: Run(train)}, lambda: _gradients(model, model.loss(x, y, _source())))


def _loop(inputs: Inputs, params: Params, fused: bool | None) -> Task:
    model, x, y = _given(inputs, params)
    parts = [list(block.parameters()) for block in model.blocks]
    parts[0] += [p for p in model.parameters() if not any(p is q for part in parts for q in part)]
    optimizers = [torch.optim.AdamW(part, lr=LR, weight_decay=DECAY, fused=fused) for part in parts]

    def train() -> None:
        source = _source()
        for _ in range(STEPS):
            for t, optimizer in enumerate(optimizers, 1):
                optimizer.zero_grad()
                model.block_loss(t, x, y, source).backward()
                optimizer.step()

    def outputs() -> list[Tensor]:
        source = _source()
        return _gradients(model, sum(model.block_loss(t, x, y, source) for t in range(1, BLOCKS + 1)) / BLOCKS)

    return Task({TRAINING: Run(train)}, outputs)


def loop(inputs: Inputs, params: Params) -> Task:
    """Block after block, each with a torch.optim.AdamW as it comes."""
    return _loop(inputs, params, None)


def loop_fused(inputs: Inputs, params: Params) -> Task:
    """The same with fused optimizers."""
    return _loop(inputs, params, True)


def judge(results: list[Result]) -> list[Verdict]:
    """The figure we hold ourselves to."""
    width = results[0].params["width"]
    return times_faster(results, "loop", LEAST, f"width {width}") if width == CLAIMED else []


CASE = Case(
    name="noprop",
    modes=(TRAINING,),
    grid=grid,
    make=make,
    judge=judge,
    tests=("local_learning/test_noprop_training.py",),
    providers=(
        Provider("ours", stacked, loop, kind="ours"),
        Provider("loop", loop, loop),
        Provider("loop_fused", loop_fused, loop),
    ),
)
