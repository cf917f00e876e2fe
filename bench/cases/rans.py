"""Entropy coding with a distribution for every symbol: symbols a second, beside constriction and torchac."""

from __future__ import annotations

import torch
from probkernels.ops import quantise_cdf, rans_decode, rans_encode
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Run, Task
from ..machine import cores

ENCODE, DECODE, ENCODE_PMF, DECODE_PMF = "encode", "decode", "encode from pmfs", "decode from pmfs"
ROWS, SYMBOLS = 4, 25_000


def grid(device: str) -> list[Params]:
    """Alphabets of 16 and 256, on one core and on all."""
    return [
        {"device": device, "dtype": "float32", "threads": threads, "k": k, "rows": ROWS, "symbols": SYMBOLS}
        for k in (16, 256)
        for threads in ([cores()] if device == "cuda" else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """pmf (B, N, K) float32, and symbols (B, N) int32 that follow it."""
    pmf = torch.rand(params["rows"], params["symbols"], params["k"]) ** 4 + 1e-3
    pmf /= pmf.sum(-1, keepdim=True)
    symbols = torch.multinomial(pmf.flatten(0, 1), 1).view(pmf.shape[:2]).int()
    return {"pmf": pmf.to(device), "symbols": symbols.to(device)}


def traffic(params: Params, mode: str) -> int:
    """A distribution for every symbol, once."""
    return int(params["rows"] * params["symbols"] * params["k"] * 4)


def _ours(inputs: Inputs, params: Params) -> Task:
    pmf, symbols = inputs["pmf"], inputs["symbols"]
    n, cdf = symbols.shape[1], quantise_cdf(inputs["pmf"])
    payload, sizes = rans_encode(symbols, cdf)
    joined = torch.cat([row[:size] for row, size in zip(payload, sizes.tolist(), strict=True)])
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])

    def decode() -> Tensor:
        return rans_decode(joined, offsets, cdf, n)

    runs = {
        ENCODE: Run(lambda: rans_encode(symbols, cdf)),
        DECODE: Run(decode),
        ENCODE_PMF: Run(lambda: rans_encode(symbols, quantise_cdf(pmf))),
        DECODE_PMF: Run(lambda: rans_decode(joined, offsets, quantise_cdf(pmf), n)),
    }
    return Task(runs, lambda: [decode()])


def _constriction(inputs: Inputs, params: Params) -> Task:
    """Its fastest stack coder; it takes probabilities, so that there is one way only."""
    import constriction
    import numpy as np

    family = constriction.stream.model.Categorical(perfect=False)
    pmf, symbols = inputs["pmf"].flatten(0, 1).numpy(), inputs["symbols"].flatten().numpy()

    def encode() -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, family, pmf)
        return coder.get_compressed()

    packed = encode()

    def decode() -> np.ndarray:
        return constriction.stream.stack.AnsCoder(packed).decode(family, pmf)

    def found() -> list[Tensor]:
        return [torch.from_numpy(decode()).view(inputs["symbols"].shape).int()]

    runs = {mode: Run(encode if "encode" in mode else decode) for mode in (ENCODE, DECODE, ENCODE_PMF, DECODE_PMF)}
    return Task(runs, found)


def _torchac(inputs: Inputs, params: Params) -> Task:
    """With integer counts of 16 bits, and with float ones that it quantises."""
    import torchac

    symbols = inputs["symbols"].to(torch.int16)
    floats = torch.nn.functional.pad(inputs["pmf"].cumsum(-1), (1, 0)).clamp(max=1)
    counts = quantise_cdf(inputs["pmf"]).to(torch.int16)  # its end wraps to 0, as it expects
    packed = torchac.encode_int16_normalized_cdf(counts, symbols)
    packed_floats = torchac.encode_float_cdf(floats, symbols)
    runs = {
        ENCODE: Run(lambda: torchac.encode_int16_normalized_cdf(counts, symbols)),
        DECODE: Run(lambda: torchac.decode_int16_normalized_cdf(counts, packed)),
        ENCODE_PMF: Run(lambda: torchac.encode_float_cdf(floats, symbols)),
        DECODE_PMF: Run(lambda: torchac.decode_float_cdf(floats, packed_floats)),
    }
    return Task(runs, lambda: [torchac.decode_int16_normalized_cdf(counts, packed).int()])


def _copied(inputs: Inputs, params: Params) -> Task:
    """What decoding must give."""
    symbols = inputs["symbols"]
    modes = (ENCODE, DECODE, ENCODE_PMF, DECODE_PMF)
    return Task({mode: Run(symbols.clone) for mode in modes}, lambda: [symbols.clone()])


CASE = Case(
    name="rans",
    modes=(ENCODE, DECODE, ENCODE_PMF, DECODE_PMF),
    grid=grid,
    make=make,
    bytes=traffic,
    providers=(
        Provider("ours_cpu", _ours, _copied, kind="ours", backend="cpu", devices=("cpu",)),
        Provider("ours_cuda", _ours, _copied, kind="ours", backend="cuda", devices=("cuda",)),
        Provider("constriction", _constriction, _copied, devices=("cpu",)),
        Provider("torchac", _torchac, _copied, devices=("cpu",)),
        Provider("copy", _copied, _copied),
    ),
)
