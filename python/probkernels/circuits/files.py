"""Circuit files: safetensors with the graph in the metadata."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .._core import checks, files
from .._core.errors import CorruptStreamError, message
from ._layers import plan
from .circuit import Circuit
from .families import Family
from .graph import Graph, Input, Sum

FORMAT, VERSION = "probkernels.circuit", "1"
MAX_CATEGORIES = 2**31 - 1  # a code has 32 bits


def save(circuit: Circuit, path: str | Path) -> None:
    """Saves the structure and the parameters of a circuit. The write is atomic: after a crash the old file is still
    there.

    Any safetensors reader can open the file. Its metadata entry ``graph`` is the output of :meth:`Graph.to_json`.

    Raises:
        TypeError: ``circuit`` is not a circuit, or its parameters are not all float32 or all float64.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from probkernels.circuits import hclt, load, save
        >>> circuit = hclt(torch.randint(0, 4, (100, 6)), latents=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(circuit, Path(folder) / "circuit.safetensors")
        ...     load(Path(folder) / "circuit.safetensors").graph == circuit.graph
        True
    """
    if not isinstance(circuit, Circuit):
        raise TypeError(message("save", "circuit", "a Circuit", checks.describe(circuit)))
    state = circuit.state_dict()
    if not _readable(dtypes := {tensor.dtype for tensor in state.values()}):
        expected, hint = "parameters in float32 or float64 throughout", "circuit.float() or circuit.double()"
        raise TypeError(message("save", "circuit", expected, f"{sorted(map(str, dtypes))}", hint))
    metadata = {"format": FORMAT, "version": VERSION, "graph": circuit.graph.to_json()}
    files.write(path, state, metadata)


def load(path: str | Path) -> Circuit:
    """Loads a circuit that :func:`save` wrote, on the CPU and in its dtype.

    Files from untrusted sources are safe to load: the content is checked before anything is built, and nothing larger
    than the file's content is allocated.

    Raises:
        CorruptStreamError: the file is damaged or holds no circuit.
        OSError: the file cannot be read.

    Example:
        >>> from probkernels.circuits import load
        >>> load("nowhere.safetensors")
        Traceback (most recent call last):
        ...
        FileNotFoundError: No such file or directory: nowhere.safetensors
    """
    tensors, metadata = files.read(path)
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise CorruptStreamError(f"'{path}': no circuit of version {VERSION}")
    try:
        graph = Graph.from_json(metadata.get("graph", ""))
        shapes = _shapes(graph)
    except (ValueError, TypeError) as error:
        raise CorruptStreamError(f"'{path}': {error}") from None
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if got != shapes:
        wrong = sorted(name for name in {*got, *shapes} if got.get(name) != shapes.get(name))[0]
        raise CorruptStreamError(f"'{path}': '{wrong}': expected {shapes.get(wrong)}, got {got.get(wrong)}")
    return _filled(graph, tensors, path)


def _readable(dtypes: set[torch.dtype]) -> bool:
    return len(dtypes) <= 1 and dtypes <= {torch.float32, torch.float64}


def _filled(graph: Graph, tensors: dict[str, Tensor], path: str | Path) -> Circuit:
    dtypes = {tensor.dtype for tensor in tensors.values()} or {torch.get_default_dtype()}
    if not _readable(dtypes):
        raise CorruptStreamError(f"'{path}': expected float32 or float64 throughout, got {sorted(map(str, dtypes))}")
    circuit = Circuit(graph).to(dtypes.pop())
    circuit.load_state_dict(tensors)
    return circuit


def _shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in :meth:`Circuit.state_dict`, without building the circuit."""
    shapes: dict[str, tuple[int, ...]] = {}
    sums = inputs = 0
    for layer in plan(graph).layers:
        first = graph.nodes[layer.nodes[0]]
        if isinstance(first, Input):
            for name, shape in _input_shapes(first.family, len(layer.nodes), first.units).items():
                shapes[f"inputs.{inputs}.{name}"] = shape
            inputs += 1
        elif isinstance(first, Sum):
            width = sum(graph.units[child] for child in first.children)
            shapes[f"sums.{sums}"] = (len(layer.nodes), first.units, width)
            sums += 1
    return shapes


def _input_shapes(family: Family, variables: int, units: int) -> dict[str, tuple[int, ...]]:
    if family.categories > MAX_CATEGORIES:
        raise ValueError(f"expected at most {MAX_CATEGORIES} categories, got {family.categories}")
    return family.parameter_shapes(variables, units)
