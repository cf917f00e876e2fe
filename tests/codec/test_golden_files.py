"""Files written once and kept for ever: whatever changes, they decode to what they were made of.

A file that a later version writes otherwise gets a new name beside the old ones, which stay. ``make`` wrote these.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probkernels import codec
from probkernels.codec import IntegerFlow, PCCodec

from tests.ops.test_program_code import programs

HERE = Path(__file__).parent / "golden"
NOTE = {"made": "once", "of": ["numbers", 7]}
LANES = (1, 5)


def items() -> np.ndarray:
    """(60, 7) int16: codes from -2 on, and some that the model has no code for, chunk-wise few or many."""
    x = (np.arange(60)[:, None] * 7 + np.arange(7) ** 2) % 5 - 2
    x[25, 3], x[45:59] = 32767, 1000 + x[45:59]
    return x.astype(np.int16)


def models() -> dict[str, PCCodec]:
    """A circuit, and one under a flow."""
    program = next(program for program, x in programs() if program.variables == 7)
    flow = IntegerFlow([5] * 7).freeze()
    return {"circuit": PCCodec(program, offset=-2), "flow": PCCodec(program, offset=-2, flow=flow)}


def make() -> None:
    for name in models():  # v1_*.pcm are these, saved once; v1_*.pkc were written before files had an id
        model = PCCodec.load(HERE / f"v1_{name}.pcm")
        for lanes in LANES:
            with model.writer(
                HERE / f"v2_{name}_{lanes}.pkc", (7,), "int16", chunk_items=20, lanes=lanes, embed=lanes == 1, note=NOTE
            ) as writer:
                writer.append(items())


@pytest.mark.parametrize("name", ["circuit", "flow"])
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("version", [1, 2])
def test_old_files_decode(name: str, lanes: int, version: int) -> None:
    model, path = PCCodec.load(HERE / f"v1_{name}.pcm"), HERE / f"v{version}_{name}_{lanes}.pkc"
    assert path.read_bytes()[8] == version
    readers = [model.open(path)] + ([codec.open(path)] if lanes == 1 else [])
    for reader in readers:
        with reader:
            assert np.array_equal(reader[:], items()) and reader[:].dtype == np.int16
            assert np.array_equal(reader[19:41], items()[19:41])
            assert reader.note() == NOTE


@pytest.mark.parametrize("name", ["circuit", "flow"])
def test_models_and_streams_are_what_they_were(name: str) -> None:
    old = PCCodec.load(HERE / f"v1_{name}.pcm")
    if name == "circuit":  # torch's random numbers make the flow
        assert old.model_id == models()[name].model_id
    codes = old.layout((7,), "int16").codes(items()[:20]).astype(np.int32)
    with old.open(HERE / f"v1_{name}_5.pkc") as reader:
        assert [reader._payload(0)[1]] == old.coder.encode(codes, 20, 5)
