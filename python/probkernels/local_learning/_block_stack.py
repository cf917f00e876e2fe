"""T equal networks as one: their parameters are stacked, and each layer is one batched product."""

from __future__ import annotations

import copy
import types
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .._core.errors import message

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, types.BuiltinFunctionType)


class BlockStack:
    """Blocks ``block(z, x)`` of one architecture, called as one on z (T, b, d) and a common x.

    Raises:
        ValueError: the blocks are not alike. The message names the first difference.
    """

    def __init__(self, op: str, blocks: Sequence[nn.Module]) -> None:
        _check_alike(op, blocks)
        self.blocks = list(blocks)
        self.form = copy.deepcopy(self.blocks[0]).to("meta")  # never holds numbers: all come with the call
        with torch.no_grad():
            self.buffers = {name: torch.stack(parts) for name, parts in self._parts("named_buffers").items()}

    def _parts(self, kind: str) -> dict[str, list[Tensor]]:
        each = [dict(getattr(block, kind)()) for block in self.blocks]
        return {name: [parts[name] for parts in each] for name in each[0]}

    def joined(self) -> dict[str, Tensor]:
        """The stacked parameters, through which gradients reach those of the blocks."""
        return {name: torch.stack(parts) for name, parts in self._parts("named_parameters").items()}

    def copied(self) -> dict[str, nn.Parameter]:
        """The stacked parameters as new ones, to be trained in place of the blocks' own."""
        kept = {name: parts[0].requires_grad for name, parts in self._parts("named_parameters").items()}
        return {name: nn.Parameter(value.detach(), kept[name]) for name, value in self.joined().items()}

    def __call__(self, parameters: dict[str, Tensor], z: Tensor, x: Tensor) -> Tensor:
        """Logits (T, b, K)."""
        for part, own in zip(self.form.modules(), self.blocks[0].modules(), strict=True):
            part.training = own.training

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], z: Tensor, x: Tensor) -> Tensor:
            found: Tensor = functional_call(self.form, (parameters, buffers), (z, x))
            return found

        each = x.expand(len(self.blocks), *x.shape)  # batched products are faster than products with a common x
        logits: Tensor = vmap(one, randomness="different")(parameters, self.buffers, z, each)
        return logits

    @torch.no_grad()
    def write_buffers(self) -> None:
        """Copies the running statistics to the blocks."""
        for name, parts in self._parts("named_buffers").items():
            for part, value in zip(parts, self.buffers[name], strict=True):
                part.copy_(value)

    @torch.no_grad()
    def write(self, parameters: dict[str, nn.Parameter]) -> None:
        """Copies trained parameters and the running statistics to the blocks."""
        for name, parts in self._parts("named_parameters").items():
            for part, value in zip(parts, parameters[name], strict=True):
                part.copy_(value)
        self.write_buffers()


def _check_alike(op: str, blocks: Sequence[nn.Module]) -> None:
    hint = "train blocks that differ or share parts with fit_noprop(stacked=False), or each by block_loss"
    owner: dict[int, int] = {}
    wanted = {name: tuple(value.shape) for name, value in blocks[0].state_dict().items()}
    for place, block in enumerate(blocks):
        found = {name: tuple(value.shape) for name, value in block.state_dict().items()}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                expected = f"blocks alike: '{name}' of shape {wanted.get(name)} as in blocks[0]"
                raise ValueError(message(op, f"blocks[{place}]", expected, f"shape {found.get(name)}", hint))
        if repr(block) != repr(blocks[0]):
            raise ValueError(message(op, f"blocks[{place}]", "the layers of blocks[0]", "other layers", hint))
        unlike = _difference(blocks[0], block)
        if unlike is not None:
            raise ValueError(message(op, f"blocks[{place}]", f"'{unlike}' as in blocks[0]", "another value", hint))
        for name, value in (*block.named_parameters(), *block.named_buffers()):
            if owner.setdefault(id(value), place) != place:
                got = f"'{name}' of blocks[{owner[id(value)]}] too"
                raise ValueError(message(op, f"blocks[{place}]", "parameters of its own", got, hint))


def _difference(one: nn.Module, other: nn.Module) -> str | None:
    """The first attribute that differs: all blocks run the code of the first one, and one optimizer trains them."""
    for (place, a), b in zip(one.named_modules(), other.modules(), strict=True):
        names = sorted((vars(a).keys() | vars(b).keys()) - vars(nn.Module()).keys())
        for name in names:
            if not _equal(vars(a).get(name), vars(b).get(name)):
                return f"{place}.{name}".lstrip(".")
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        if p.requires_grad != q.requires_grad:
            return f"{name}.requires_grad"
    return None


def _equal(a: object, b: object) -> bool:
    """Whether two attributes are equal. Of objects that do not tell, the type alone is compared."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return type(a) is type(b) and torch.equal(a, b)  # type: ignore[arg-type]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, types.FunctionType) and isinstance(b, types.FunctionType):
        cells = ([cell.cell_contents for cell in f.__closure__ or ()] for f in (a, b))
        return a.__code__ is b.__code__ and _equal(a.__defaults__, b.__defaults__) and _equal(*cells)
    if isinstance(a, PLAIN) or isinstance(b, PLAIN):
        return a is b or a == b
    return type(a) is type(b)
