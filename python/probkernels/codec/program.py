"""A circuit compiled for coding: instructions over vector registers, integer tables, and the order of variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core import checks, digests
from .._core.errors import CorruptStreamError, message
from .._core.formats.instructions import COLUMNS, Code
from ..circuits import Circuit, find_vtree
from ..circuits.inputs import Inputs, TableInputs
from ..circuits.nodes import by_input, by_sum
from ._compile import LEAST_WEIGHT, MOST_UNITS, Compiler, integer_table, room
from .layout import read_only

Four = tuple[Tensor, Tensor, Tensor, Tensor]
PROFILE = b"f32-fma-seq-v2"
MOST_CATEGORIES = 65536
MOST_REGISTERS = 1 << 24
DTYPES: dict[str, np.dtype[Any]] = {
    "instructions": np.dtype("<i4"), "weights": np.dtype("<f4"), "tables": np.dtype("<u2"),
    "shapes": np.dtype("<i4"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Program:
    """A circuit compiled to the instructions that the coders execute. It no longer changes.

    Attributes:
        instructions: (R, 9) int32, see :class:`probkernels.reference.program_code.Code`.
        weights: (E,) float32, weights of all sums, each 0 or in [2**-24, 1].
        tables: (T,) uint16, for each variable a table (categories, units) of counts below a category.
        shapes: (V, 2) int32, categories and units of each variable.
        order: variables in the order they are coded.
        registers: number of floats of working memory for a row of data.

    Reference: Liu, Mandt, Van den Broeck, "Lossless Compression with Probabilistic Circuits", ICLR 2022.

    Example:
        >>> import torch
        >>> from probkernels.circuits import hclt
        >>> from probkernels.codec import Program
        >>> program = Program.from_circuit(hclt(torch.randint(0, 4, (100, 6)), latents=3))
        >>> program.variables, program.categories
        (6, [4, 4, 4, 4, 4, 4])
        >>> Program.from_arrays(program.arrays()).model_id == program.model_id
        True
    """

    instructions: np.ndarray
    weights: np.ndarray
    tables: np.ndarray
    shapes: np.ndarray
    order: list[int]
    registers: int
    tensors: Four = field(repr=False)  # code, weights, tables, variables: what the ops take

    @property
    def multiplications(self) -> int:
        """Multiply-adds of the sums for one row, without those for its symbols."""
        rows = self.instructions.astype(np.int64)
        return int((rows[:, 4] * rows[:, 5])[rows[:, 0] == Code.MATVEC].sum())

    @property
    def variables(self) -> int:
        """Number of variables."""
        return len(self.shapes)

    @property
    def categories(self) -> list[int]:
        """Number of categories of each variable."""
        return [int(c) for c in self.shapes[:, 0]]

    @property
    def model_id(self) -> bytes:
        """SHA-256 of the arithmetic's name and everything in :meth:`arrays`."""
        parts: list[bytes | memoryview] = [PROFILE]
        for name, array in sorted(self.arrays().items()):
            parts += [f"\0{name}{array.shape}".encode(), array.reshape(-1).data]
        return digests.identity(*parts)

    def on(self, device: torch.device | str) -> Four:
        """The arrays that the ops take, on a device."""
        code, weights, tables, variables = (t.to(device) for t in self.tensors)
        return code, weights, tables, variables

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays that are needed to build the program again. They are read-only."""
        return {name: getattr(self, name) for name in DTYPES}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Program:
        """Builds a program from the output of :meth:`arrays`. No content can make a coder read or write out of bounds.

        Raises:
            CorruptStreamError: the arrays are not a valid program. The message says why.
        """
        if set(arrays) != set(DTYPES):
            raise CorruptStreamError(f"program: expected arrays {sorted(DTYPES)}, got {sorted(arrays)}")
        found = {}
        for name, dtype in DTYPES.items():
            array = np.asarray(arrays[name])
            if array.dtype != dtype:
                raise CorruptStreamError(f"program: '{name}': expected {dtype}, got {array.dtype}")
            found[name] = read_only(array)
        instructions, weights, tables, shapes = (found[name] for name in DTYPES)
        offsets = _check_tables(tables, shapes)
        if weights.ndim != 1 or not np.all((weights == 0) | ((weights >= LEAST_WEIGHT) & (weights <= 1))):
            raise CorruptStreamError("program: 'weights': expected a row of numbers that are 0 or in [2**-24, 1]")
        registers = _check_instructions(instructions, len(weights), shapes)
        order = [int(row[5]) for row in instructions if row[0] == Code.CODE]
        tensors = _tensors(instructions, weights, tables, shapes, offsets)
        return cls(instructions, weights, tables, shapes, order, registers, tensors)

    @classmethod
    def from_circuit(cls, circuit: Circuit) -> Program:
        """Compiles a structured-decomposable circuit with discrete inputs.

        Raises:
            TypeError: ``circuit`` is not a circuit.
            ValueError: the circuit has continuous inputs, splits a scope in two ways, has an alphabet above 65536 or
                more than 2048 input units of one variable.
        """
        if not isinstance(circuit, Circuit):
            raise TypeError(message("Program.from_circuit", "circuit", "a Circuit", checks.describe(circuit)))
        graph = circuit.graph
        find_vtree(graph)  # raises for a scope that is split in two ways
        for variable, families in graph.families.items():
            if not families[0].discrete:
                raise _refused("discrete inputs", f"a continuous variable {variable}")
            if families[0].categories > MOST_CATEGORIES:
                raise _refused("at most 65536 categories", f"{families[0].categories} of variable {variable}")
        with torch.no_grad():
            sums = {p: w.detach().double().cpu().numpy() for p, w in by_sum(circuit, circuit.weights()).items()}
        weight_at, total = {}, 0
        for place, weight in sums.items():
            weight_at[place], total = total, total + weight.size
        compiled = Compiler(graph, weight_at).run()
        found = _tables(circuit, [compiled.inputs[variable] for variable in range(graph.num_variables)])
        flat = np.concatenate([w.reshape(-1) for w in sums.values()] or [np.zeros(0)])
        flat = np.where(flat > 0, np.clip(flat, LEAST_WEIGHT, 1), 0)
        wanted: list[np.ndarray] = [
            np.array(compiled.code), flat, np.concatenate([table.reshape(-1) for table in found]),
            np.array([table.shape for table in found]),
        ]  # fmt: skip
        return cls.from_arrays({name: w.astype(d) for (name, d), w in zip(DTYPES.items(), wanted, strict=True)})


def _refused(expected: str, got: str) -> ValueError:
    return ValueError(message("Program.from_circuit", "circuit", expected, got))


def _tables(circuit: Circuit, inputs: list[list[int]]) -> list[np.ndarray]:
    """For each variable, its probabilities (C, units of all its input nodes). ``inputs`` lists these nodes."""
    places = by_input(circuit)
    with torch.no_grad():
        layers = {layer for layer, _ in places.values()}
        whole = {layer: probabilities(layer) for layer in layers}
    found = []
    for nodes in inputs:
        table = np.concatenate([whole[places[node][0]][places[node][1]] for node in nodes], 1)
        if table.shape[1] > MOST_UNITS:
            raise _refused(f"at most {MOST_UNITS} input units of a variable", f"{table.shape[1]}")
        found.append(integer_table(table))
    return found


def probabilities(layer: Inputs) -> np.ndarray:
    """Probabilities of an input layer, (V, C, K)."""
    assert isinstance(layer, TableInputs)  # its family is discrete
    return layer.log_table().double().exp().cpu().numpy()


def _tensors(
    instructions: np.ndarray, weights: np.ndarray, tables: np.ndarray, shapes: np.ndarray, offsets: np.ndarray
) -> Four:
    likely = []
    for (c, k), start in zip(shapes, offsets, strict=True):
        table = tables[start : start + int(c) * int(k)].reshape(c, k).astype(np.int64)
        likely.append(np.diff(table, axis=0, append=65536).sum(1).argmax())
    variables = np.column_stack([offsets, shapes.astype(np.int64), np.array(likely, np.int64)])
    return (
        torch.from_numpy(instructions.copy()), torch.from_numpy(weights.copy()),
        torch.from_numpy(tables.view(np.int16).copy()), torch.from_numpy(variables),
    )  # fmt: skip


def _check_tables(tables: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Checks the tables and returns the offset of each. Counts start at 0 and must not fall in any column."""
    if shapes.ndim != 2 or shapes.shape[1] != 2 or not len(shapes):
        raise CorruptStreamError(f"program: 'shapes': expected (V, 2), got {shapes.shape}")
    c, k = shapes[:, 0].astype(np.int64), shapes[:, 1].astype(np.int64)
    if (c < 1).any() or (c > MOST_CATEGORIES).any() or (k < 1).any() or (k > MOST_UNITS).any():
        raise CorruptStreamError("program: 'shapes': expected 1 to 65536 categories and 1 to 2048 units")
    ends = (c * k).cumsum()
    if tables.ndim != 1 or len(tables) != ends[-1]:
        raise CorruptStreamError(f"program: 'tables': expected {ends[-1]} entries, got {tables.shape}")
    offsets = ends - c * k
    for v, start in enumerate(offsets):
        table = tables[start : ends[v]].reshape(c[v], k[v])
        if table[0].any() or (table[1:] < table[:-1]).any() or int(table[-1].max()) > room(int(c[v])):
            raise CorruptStreamError(
                f"program: 'tables': variable {v}: expected counts that rise from 0 to {room(c[v])}"
            )
    return offsets


def _check_instructions(rows: np.ndarray, weights: int, shapes: np.ndarray) -> int:
    """Checks that addresses are in bounds and that every variable is coded once, before its leaves. Returns the number
    of registers."""
    if rows.ndim != 2 or rows.shape[1] != COLUMNS or not len(rows):
        raise CorruptStreamError(f"program: 'instructions': expected (R, {COLUMNS}), got {rows.shape}")
    op, dst, a, b, n, m, stride, step, more = rows.astype(np.int64).T
    limit = MOST_REGISTERS
    is_ = {code: op == code for code in Code}
    matvec, contract, outer = is_[Code.MATVEC], is_[Code.CONTRACT], is_[Code.OUTER]
    reads_b = (is_[Code.MULTIPLY] | contract) & (b != -1) | outer
    big = np.where(matvec | contract, (n - 1) * step + (m - 1) * stride + 1, n)
    variable = np.where(is_[Code.CODE] | is_[Code.LEAF], m, 0)
    good = (op >= 0) & (op <= max(Code)) & (n >= 1) & (n <= limit) & (m >= 0) & (m <= limit)
    good &= (stride >= 0) & (stride <= limit) & (step >= 0) & (step <= limit) & (more >= 0) & (more <= 1)
    good &= (matvec | contract | outer) <= (m >= 1)
    good &= is_[Code.CODE] | ((dst >= 0) & (dst <= limit))
    good &= ~(matvec | contract | outer | is_[Code.MULTIPLY] | is_[Code.CODE]) | ((a >= 0) & (a <= limit))
    good &= ~reads_b | ((b >= 0) & (b <= limit))
    good &= ~matvec | ((b >= 0) & (b + big <= weights))
    good &= variable < len(shapes)
    units = shapes[np.where(good, variable, 0), 1].astype(np.int64)
    good &= ~is_[Code.CODE] | (n == units)
    good &= ~is_[Code.LEAF] | (stride + n <= units)
    if not good.all():
        raise CorruptStreamError(f"program: instruction {int(np.argmin(good))} is invalid")
    _check_order(op, variable, len(shapes))
    ends = [
        np.where(is_[Code.CODE], 0, dst + np.where(outer, n * m, n)),
        np.where(matvec, a + m, np.where(contract, a + big, np.where(a >= 0, a + n, 0))),
        np.where(reads_b, b + np.where(contract | outer, m, n), 0),
    ]
    registers = int(max(e.max() for e in ends))
    if registers > limit:
        raise CorruptStreamError(f"program: expected at most {limit} registers, got {registers}")
    return registers


def _check_order(op: np.ndarray, variable: np.ndarray, count: int) -> None:
    coded = variable[op == Code.CODE]
    if sorted(coded.tolist()) != list(range(count)):
        raise CorruptStreamError("program: expected every variable to be coded once")
    last = -1
    for place in np.flatnonzero((op == Code.CODE) | (op == Code.LEAF)):
        if op[place] == Code.CODE:
            last = variable[place]
        elif variable[place] != last:
            raise CorruptStreamError(f"program: instruction {place} reads another variable than the last one coded")
