"""``AdaptedNet``: networks of other libraries, called and read as a denoiser's network is."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import message

TIMES = ("timesteps", "timestep")
CONDITIONS = ("context", "encoder_hidden_states", "class_labels")
CHANNELS = ("in_channels", "out_channels")


class AdaptedNet(nn.Module):
    """A network of diffusers or MONAI, or one that is called alike, as the network of a :class:`Denoiser`.

    These libraries need not be installed. The network is called as ``net(x, t)`` or ``net(x, t, cond)``; an argument
    named ``timesteps``, ``timestep``, ``context``, ``encoder_hidden_states`` or ``class_labels`` that it takes by name
    only is given by name. Its output may be a tensor, an object with a tensor ``sample``, or a tuple that starts with
    the tensor.

    Args:
        net: the network: UNet2DModel, UNet2DConditionModel and DiTTransformer2DModel of diffusers, DiffusionModelUNet
            of MONAI, or any of these with adapters of peft inside.

    A condition is a tensor, the network's third argument (of UNet2DModel and DiT the labels, of UNet2DConditionModel
    ``encoder_hidden_states``, of MONAI ``context``), or a dict of arguments by name. In the dict, ``concat`` holds
    channels that are appended to x, as for inpainting and image conditions.

    Raises:
        TypeError: ``net`` is not a module, or a condition is neither a tensor nor a dict.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from probkernels.diffusion import VP, AdaptedNet, Denoiser
        >>> class UNet(torch.nn.Module):
        ...     def forward(self, sample, timestep, encoder_hidden_states=None, return_dict=True):
        ...         return SimpleNamespace(sample=0 * sample)
        >>> Denoiser(AdaptedNet(UNet()), VP())(torch.ones(1, 1, 2, 2), 0.5).sum()
        tensor(0.)
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(message("AdaptedNet", "net", "a torch.nn.Module", checks.describe(net)))
        self.net = net
        by_name = [name for name, p in inspect.signature(net.forward).parameters.items() if p.kind is p.KEYWORD_ONLY]
        self.time_name = next((name for name in TIMES if name in by_name), None)
        self.cond_name = next((name for name in CONDITIONS if name in by_name), None)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The network's output (B, C, ...) at x (B, *S) and times t (B,)."""
        named = dict(cond) if isinstance(cond, Mapping) else {}
        if not (cond is None or isinstance(cond, (Tensor, Mapping))):
            expected = "a tensor, or a dict of the network's arguments by name"
            raise TypeError(message("AdaptedNet", "cond", expected, checks.describe(cond)))
        if "concat" in named:
            more = named.pop("concat")
            x = torch.cat([x, more.to(x.dtype).expand(len(x), *more.shape[1:])], 1)
        given: list[Any] = [x]
        if self.time_name is not None:
            named[self.time_name] = t
        else:
            given.append(t)
        if isinstance(cond, Tensor) and (self.cond_name is not None or self.time_name is not None):
            named[self.cond_name or CONDITIONS[0]] = cond
        elif isinstance(cond, Tensor):
            given.append(cond)
        output = self.net(*given, **named)
        if isinstance(getattr(output, "sample", None), Tensor):
            return output.sample
        return output[0] if isinstance(output, (tuple, list)) and len(output) > 0 else output


def learns_variance(net: nn.Module) -> bool | None:
    """Whether a network has twice as many output as input channels; None if it does not tell both."""
    config = getattr(net, "config", None)
    told = config if isinstance(config, Mapping) else {name: getattr(net, name, None) for name in CHANNELS}
    inputs, outputs = (told.get(name) for name in CHANNELS)
    if not isinstance(inputs, int) or not isinstance(outputs, int):
        return None
    return outputs == 2 * inputs
