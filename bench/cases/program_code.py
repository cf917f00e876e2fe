"""Coding with a compiled circuit: a latent tree over images, rows of data a second."""

from __future__ import annotations

import torch
from probkernels._core.formats.streams import packed
from probkernels.circuits import Categorical, Circuit, hclt_graph
from probkernels.codec import Program
from probkernels.ops import program_decode, program_encode
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Run, Task
from ..grids import points

# variables, categories, latents, rows, rows of a chunk: MNIST's pixels with 16 and 32 states, digits
SIZES = [(784, 256, 16, 512, 128), (784, 256, 32, 256, 128), (64, 17, 8, 2048, 256)]
ENCODE, DECODE = "encode", "decode"
LANES = 16


def grid(device: str) -> list[Params]:
    """Every size on one core and on all."""
    return points(device, ("variables", "categories", "latents", "rows", "each"), SIZES, "int32")


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """The tensors of a program, and codes (N, V) int32 of which most are 0, as in images of digits."""
    v, c = params["variables"], params["categories"]
    parents = [-1, *(max(i - 1 - i % 3, 0) for i in range(1, v))]
    circuit = Circuit(hclt_graph(parents, [Categorical(c)] * v, params["latents"]))
    circuit.reset(seed=0)
    with torch.no_grad():
        for layer in circuit.inputs:
            layer.logits[:, 0] += 6.0
    program = Program.from_circuit(circuit)
    shape = params["rows"], v
    codes = torch.randint(c, shape, dtype=torch.int32) * (torch.rand(shape) < 0.2)
    names = ("code", "weights", "tables", "variables")
    tensors = dict(zip(names, program.tensors, strict=True)) | {"codes": codes}
    return {name: t.to(device) for name, t in tensors.items()} | {"registers": torch.tensor(program.registers)}


def traffic(params: Params, mode: str) -> int:
    """The codes, once."""
    return int(params["rows"] * params["variables"] * 4)


def _ours(inputs: Inputs, params: Params) -> Task:
    model = [inputs[name] for name in ("code", "weights", "tables", "variables")]
    codes, registers, each = inputs["codes"], int(inputs["registers"]), params["each"]

    def encode() -> tuple[Tensor, Tensor]:
        return program_encode(*model, codes, registers, each, LANES)

    joined, offsets = packed(*encode())
    starts = torch.arange(0, len(codes) + 1, each, device=codes.device)

    def decode() -> Tensor:
        return program_decode(*model, joined, offsets, starts, registers, LANES, len(codes))[0]

    return Task({ENCODE: Run(encode), DECODE: Run(decode)}, lambda: [decode()])


def _copied(inputs: Inputs, params: Params) -> Task:
    """What decoding must give."""
    codes = inputs["codes"]
    return Task({ENCODE: Run(codes.clone), DECODE: Run(codes.clone)}, lambda: [codes.clone()])


CASE = Case(
    name="program_code",
    modes=(ENCODE, DECODE),
    grid=grid,
    make=make,
    bytes=traffic,
    providers=(
        Provider("ours_cpu", _ours, _copied, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _copied, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("copy", _copied, _copied),
    ),
)
