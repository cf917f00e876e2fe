"""Coding with a compiled circuit: the same bytes from every backend, instruction set, number of threads and split."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from probkernels import ops, use_backend
from probkernels.circuits import Categorical, Circuit, hclt_graph
from probkernels.codec import Program, decode, encode
from probkernels.codec._compile import room
from torch import Tensor

from tests.codec.models import KINDS, C, V, model, rows

# SHA-256 over the streams of every kind of circuit for 1, 5, 16 and 40 lanes; see golden().
GOLDEN = "8046b2d195dbd39c779e8041b41aacaf462981fe910577156e478900f6227da6"
GOLDEN_OF_FEW = "a678542b2f5a71635b3a6c10f695d34ac680a9fb5e4d34023534656f78276d08"  # of 7 samples


def streams(p: Program, x: Tensor, on: torch.device) -> bytes:
    return b"|".join(s for lanes in (1, 5, 16, 40) for s in encode(p, x.to(on), 50, lanes))


def programs(count: int = 60) -> list[tuple[Program, Tensor]]:
    """Of every kind of circuit, with parameters that no library's random numbers change; with units that fill vectors,
    and that do not."""
    found = []
    wide = [Circuit(hclt_graph([1, -1, 1, 2, 2, 4, 0], [Categorical(C)] * V, latents)) for latents in (16, 21, 32)]
    for circuit in [*map(model, KINDS), *wide]:
        p = Program.from_circuit(circuit)
        generator = torch.Generator().manual_seed(3)
        arrays = p.arrays()
        weights = torch.randint(1, 2**20, (len(arrays["weights"]),), generator=generator) / 2**20
        arrays["weights"] = weights.numpy()
        found.append((Program.from_arrays(arrays | tables(arrays)), rows(count, p.variables)))
    return found


def tables(arrays: dict) -> dict:  # type: ignore[type-arg]
    """Integer tables made of whole numbers alone."""
    import numpy as np

    made = []
    for v, (c, k) in enumerate(arrays["shapes"].tolist()):
        counts = (np.arange(c)[:, None] * 7919 + np.arange(k) * 104729 + v * 1299709) % 9973
        counts[0] += room(c) - counts.sum(0)
        made.append((counts.cumsum(0) - counts).astype(np.uint16).reshape(-1))
    return {"tables": np.concatenate(made)}


def golden(on: torch.device, count: int = 60) -> str:
    digest = hashlib.sha256()
    for p, x in programs(count):
        digest.update(streams(p, x, on))
    return digest.hexdigest()


def test_golden_bytes(request: pytest.FixtureRequest, on: torch.device) -> None:
    """The reference codes one sample after the other: it gets fewer."""
    if "reference" in request.node.name:
        assert golden(on, 7) == GOLDEN_OF_FEW
    else:
        assert golden(on) == GOLDEN


def test_decodes_on_every_backend(on: torch.device) -> None:
    for p, x in programs():
        for lanes in (1, 5):
            found = encode(p, x[:12], 5, lanes)
            assert torch.equal(decode(p, found, [5, 5, 2], lanes, on).cpu(), x[:12])


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_golden_bytes_of_other_instruction_sets(level: str) -> None:
    text = "import torch; from tests.ops.test_program_code import golden; print(golden(torch.device('cpu')))"
    env = {**os.environ, "PK_SIMD": level, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == GOLDEN


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_a_byte(threads: int) -> None:
    before, (p, x) = torch.get_num_threads(), programs()[0]
    expected = encode(p, x, 7)
    try:
        torch.set_num_threads(threads)
        assert encode(p, x, 7) == expected
        assert torch.equal(decode(p, expected, [7] * 8 + [4]), x)
    finally:
        torch.set_num_threads(before)


def test_a_chunk_does_not_depend_on_the_others() -> None:
    p, x = programs()[0]
    assert encode(p, x, 20) == [encode(p, part, 20)[0] for part in x.split(20)]


def test_the_reference_says_the_same_about_damage(on: torch.device) -> None:
    p, x = programs()[0]
    (stream,) = encode(p, x[:20], 20, 4)
    bad = [stream[: len(stream) - cut] for cut in range(1, 60, 7)]
    bad += [stream + b"\0", stream + bytes(4), bytes([stream[0] ^ 1]) + stream[1:], stream[:9], b""]
    joined = torch.frombuffer(bytearray(b"".join(bad)), dtype=torch.uint8)
    offsets = torch.tensor([0, *torch.tensor([len(b) for b in bad]).cumsum(0).tolist()])
    starts = torch.arange(len(bad) + 1) * 20
    found = []
    for backend in (None, "reference"):
        with use_backend(backend) if backend else use_backend(None):
            place = torch.device("cpu") if backend else on
            args = [t.to(place) for t in (*p.tensors, joined, offsets, starts)]
            found.append(ops.program_decode(*args, p.registers, 4, 20 * len(bad))[1].tolist())
    assert found[0] == found[1] and all(found[0])


def test_bad_arguments() -> None:
    p, x = programs()[0]
    good = (*p.tensors, x, p.registers, 10, 4)
    with pytest.raises(TypeError, match="program_encode: argument 'codes': expected an int32 tensor"):
        ops.program_encode(*p.tensors, x.long(), p.registers, 10, 4)
    with pytest.raises(TypeError, match="argument 'weights': expected a torch\\.float32 tensor"):
        ops.program_encode(good[0], good[1].double(), *good[2:])
    with pytest.raises(ValueError, match="argument 'codes': expected shape \\(N, 7\\)"):
        ops.program_encode(*p.tensors, x[:, :2], p.registers, 10, 4)
    with pytest.raises(ValueError, match="argument 'lanes': expected a number >= 1"):
        ops.program_encode(*good[:-1], 0)
    payload = torch.zeros(30, dtype=torch.uint8)
    wrong = ([0, 31], [0, 3]), ([0, 9], [0, 4]), ([-1, 9], [0, 3]), ([0, 9], [0, 0]), ([5, 2], [0, 3]), ([0, 9], [0, 2])
    for offsets, starts in wrong:
        with pytest.raises(ValueError, match="expected rising numbers from 0"):
            ops.program_decode(*p.tensors, payload, torch.tensor(offsets), torch.tensor(starts), p.registers, 4, 3)
