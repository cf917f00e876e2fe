"""Entropy coding with a distribution for every symbol, one for all, and a table: symbols a second, beside constriction,
torchac and torch_ans."""

from __future__ import annotations

from typing import Any

import torch
from probkernels._core.formats.streams import packed
from probkernels.ops import quantize_cdf, rans_decode, rans_decode_pmf, rans_encode, rans_encode_pmf
from torch import Tensor

from ..case import Case, Inputs, Params, Provider, Run, Task
from ..machine import cores

ENCODE, DECODE, ENCODE_PMF, DECODE_PMF = "encode", "decode", "encode from pmfs", "decode from pmfs"
ENCODE_ONE, DECODE_ONE = "encode, one distribution", "decode, one distribution"
ENCODE_INDEX, DECODE_INDEX = "encode, indexed", "decode, indexed"
MODES = (ENCODE, DECODE, ENCODE_PMF, DECODE_PMF, ENCODE_ONE, DECODE_ONE, ENCODE_INDEX, DECODE_INDEX)
ROWS, SYMBOLS, TABLES = 4, 25_000, 256


def grid(device: str) -> list[Params]:
    """Alphabets of 16 and 256, on one core and on all."""
    return [
        {"device": device, "dtype": "float32", "threads": threads, "k": k, "rows": ROWS, "symbols": SYMBOLS}
        for k in (16, 256)
        for threads in ([cores()] if device == "cuda" else sorted({1, cores()}))
    ]


def make(device: torch.device, dtype: torch.dtype, params: Params) -> Inputs:
    """pmf (B, N, K) float32 and symbols (B, N) int32 that follow it; a table (T, K), an index into it and symbols that
    follow that; symbols that follow the table's first row."""
    rows, n, k = params["rows"], params["symbols"], params["k"]

    def chance(*shape: int) -> Tensor:
        pmf = torch.rand(*shape, k) ** 4 + 1e-3
        return pmf / pmf.sum(-1, keepdim=True)

    pmf, table, index = chance(rows, n), chance(TABLES), torch.randint(TABLES, (rows, n))
    found = {
        "pmf": pmf,
        "symbols": torch.multinomial(pmf.flatten(0, 1), 1).view(rows, n).int(),
        "table": table,
        "index": index.int(),
        "indexed": torch.multinomial(table[index.flatten()], 1).view(rows, n).int(),
        "shared": torch.multinomial(table[0].expand(rows, k), n, replacement=True).int(),
    }
    return {name: tensor.to(device) for name, tensor in found.items()}


def traffic(params: Params, mode: str) -> int:
    """A distribution for every symbol, once; or a symbol."""
    each = params["k"] if mode in (ENCODE, DECODE, ENCODE_PMF, DECODE_PMF) else 1
    return int(params["rows"] * params["symbols"] * each * 4)


def _ours(inputs: Inputs, params: Params) -> Task:
    pmf, symbols, index, indexed, shared = (inputs[x] for x in ("pmf", "symbols", "index", "indexed", "shared"))
    n, cdf, table = symbols.shape[1], quantize_cdf(inputs["pmf"]), quantize_cdf(inputs["table"])
    flat, offsets = packed(*rans_encode(symbols, cdf))
    one = packed(*rans_encode(shared, table[0]))
    many = packed(*rans_encode(indexed, table, index=index))
    runs = {
        ENCODE: Run(lambda: rans_encode(symbols, cdf)),
        DECODE: Run(lambda: rans_decode(flat, offsets, cdf, n)),
        ENCODE_PMF: Run(lambda: rans_encode_pmf(symbols, pmf)),
        DECODE_PMF: Run(lambda: rans_decode_pmf(flat, offsets, pmf, n)),
        ENCODE_ONE: Run(lambda: rans_encode(shared, table[0])),
        DECODE_ONE: Run(lambda: rans_decode(*one, table[0], n)),
        ENCODE_INDEX: Run(lambda: rans_encode(indexed, table, index=index)),
        DECODE_INDEX: Run(lambda: rans_decode(*many, table, n, index=index)),
    }
    found = (
        rans_decode(flat, offsets, cdf, n),
        rans_decode(*one, table[0], n),
        rans_decode(*many, table, n, index=index),
    )
    return Task(runs, lambda: list(found))


def _constriction(inputs: Inputs, params: Params) -> Task:
    """Its fastest stack coder; it takes probabilities, so that there is one way only, and no index."""
    import constriction
    import numpy as np

    many = constriction.stream.model.Categorical(perfect=False)
    one = constriction.stream.model.Categorical(inputs["table"][0].numpy(), perfect=False)
    pmf, symbols = inputs["pmf"].flatten(0, 1).numpy(), inputs["symbols"].flatten().numpy()
    shared = inputs["shared"].flatten().numpy()

    def encode(symbols: np.ndarray, *model: Any) -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, *model)
        return coder.get_compressed()

    def decode(packed: np.ndarray, *model: Any) -> np.ndarray:
        return constriction.stream.stack.AnsCoder(packed).decode(*model)

    packed, packed_one = encode(symbols, many, pmf), encode(shared, one)
    runs = {mode: Run(lambda: encode(symbols, many, pmf)) for mode in (ENCODE, ENCODE_PMF)}
    runs |= {mode: Run(lambda: decode(packed, many, pmf)) for mode in (DECODE, DECODE_PMF)}
    runs |= {
        ENCODE_ONE: Run(lambda: encode(shared, one)),
        DECODE_ONE: Run(lambda: decode(packed_one, one, shared.size)),
    }
    found = decode(packed, many, pmf), decode(packed_one, one, shared.size)
    shape = inputs["symbols"].shape
    return Task(runs, lambda: [*(torch.from_numpy(f).view(shape).int() for f in found), inputs["indexed"]])


def _torchac(inputs: Inputs, params: Params) -> Task:
    """With integer counts of 16 bits, and with float ones that it quantizes."""
    import torchac

    symbols = inputs["symbols"].to(torch.int16)
    floats = torch.nn.functional.pad(inputs["pmf"].cumsum(-1), (1, 0)).clamp(max=1)
    counts = quantize_cdf(inputs["pmf"]).to(torch.int16)  # its end wraps to 0, as it expects
    packed = torchac.encode_int16_normalized_cdf(counts, symbols)
    packed_floats = torchac.encode_float_cdf(floats, symbols)
    runs = {
        ENCODE: Run(lambda: torchac.encode_int16_normalized_cdf(counts, symbols)),
        DECODE: Run(lambda: torchac.decode_int16_normalized_cdf(counts, packed)),
        ENCODE_PMF: Run(lambda: torchac.encode_float_cdf(floats, symbols)),
        DECODE_PMF: Run(lambda: torchac.decode_float_cdf(floats, packed_floats)),
    }
    others = [inputs["shared"], inputs["indexed"]]  # it has no way for them
    return Task(runs, lambda: [torchac.decode_int16_normalized_cdf(counts, packed).int(), *others])


def _copied(inputs: Inputs, params: Params) -> Task:
    """What decoding must give."""
    found = [inputs[name] for name in ("symbols", "shared", "indexed")]
    return Task({mode: Run(found[0].clone) for mode in MODES}, lambda: found)


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
