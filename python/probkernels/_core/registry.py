"""Registers ops. A registered op works eagerly and under compile, export, vmap, torch.func, checkpointing and opcheck,
in reverse mode and (where it exists) forward mode. A derivative that does not exist raises.

Why not ``torch.library.custom_op``: with it, torch.func gradients raise and forward mode silently gives zeros. Here an
op is defined once in a Library, its autograd is a single-level Function behind the Autograd key, and the public
function bypasses the dispatcher if no transform is active.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad

from . import backend, checks, devices
from .errors import message

try:  # private names, used nowhere else; without them ops fall back to torch.library.register_autograd
    from torch._C import _are_functorch_transforms_active as transforms_active
    from torch._C import _AutoDispatchBelowAutograd as below_autograd
    from torch._C import _dispatch_tls_is_dispatch_key_included as key_included
    from torch._C import _get_tracing_state, _parse_dispatch_key
    from torch._C import _len_torch_dispatch_stack as count_modes
    from torch._compile import _disable_dynamo as uncompiled
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch.autograd import _profiler_enabled as profiling
    from torch.autograd.function import _SingleLevelFunction

    HAVE_PRIVATE_NAMES = True
except ImportError:  # pragma: no cover - depends on the torch version
    HAVE_PRIVATE_NAMES = False
    uncompiled = torch.compiler.disable

    def transforms_active() -> bool:  # unknown; torch refuses by itself what a transform cannot do
        return False


def numbers_known(*values: torch.Tensor) -> bool:
    """Whether numbers can be looked at: not in compilers, transforms of functions, captures of CUDA graphs, nor for
    meta and fake tensors."""
    return not (torch.compiler.is_compiling() or transforms_active()) and checks.readable(*values)


NAMESPACE = "probkernels"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
OPS: dict[str, Op] = {}

Derivative = Callable[..., Any]

EMPTY = torch.empty(0)  # stands for the first tensor of a list that has none
PLAIN_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))
OLD_VMAP: Any = _parse_dispatch_key("VmapMode") if HAVE_PRIVATE_NAMES else None  # that of is_grads_batched


def nobody_watches() -> bool:
    """Whether no mode, tracer, profiler or old vmap needs to see an op. Function transforms are checked separately."""
    return count_modes() == 0 and not key_included(OLD_VMAP) and _get_tracing_state() is None and not profiling()


def is_plain(t: torch.Tensor) -> bool:
    """Whether a kernel may read the memory of a tensor as it is. The dispatcher knows what to do with a subclass, and
    with a view that negates when it is read, such as ``z.conj().imag``."""
    return type(t) in PLAIN_TYPES and not t.is_neg()


def in_backward() -> bool:
    """Whether this thread runs inside a backward pass. A forward called there is a recomputation."""
    return torch._C._current_graph_task_id() != -1


def carries_gradient(t: torch.Tensor) -> bool:
    """Whether a tensor has a gradient to come, or in forward mode a tangent."""
    return t.requires_grad or (forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None)


def assert_later(condition: torch.Tensor, text: str) -> None:
    """Raises RuntimeError if ``condition`` is false: at once on the CPU, later on a GPU, without waiting for it."""
    torch._assert_async(condition, text)


def refuse_recomputation(op: str) -> None:
    """Raises while compiling with settings that recompute even opaque ops, because the state has changed by then."""
    if torch._guards.TracingContext.try_get() is None:
        return
    from torch._functorch import config

    for name, harmless in (("activation_memory_budget", 1), ("aggressive_recomputation", False)):
        value = getattr(config, name)
        if value != harmless:
            hint = "its backward would be recomputed from running statistics that have moved since"
            setting = f"torch._functorch.config.{name}"
            raise RuntimeError(message(op, setting, f"{harmless} while compiling", f"{value}", hint))


def each_slice(op: Callable[..., Any], size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
    """Vmap's rule: runs each slice of a batch on its own, because a statistic over rows must not see the rows of
    another slice."""

    def piece(arg: Any, dim: Any, i: int) -> Any:
        if isinstance(dim, list):  # a list of numbers, or of tensors
            return [piece(a, d, i) for a, d in zip(arg, dim, strict=True)]
        if dim is not None and arg.shape[dim] == 0:  # of no slices: what one of zeros gives tells the shapes
            return arg.new_zeros(arg.shape[:dim] + arg.shape[dim + 1 :])
        return arg if dim is None else arg.select(dim, i)

    outputs = [op(*(piece(a, d, i) for a, d in zip(args, in_dims, strict=True))) for i in range(max(size, 1))]
    if isinstance(outputs[0], tuple):
        stacked = tuple(torch.stack(column)[:size] for column in zip(*outputs, strict=True))
        return stacked, (0,) * len(stacked)
    return torch.stack(outputs)[:size], 0


def opaque(signature: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a part of a reference that has no derivative, and that compilers and transforms see as one op.

    They would trace it operation by operation otherwise, and numbers that are to come out to the bit take hundreds.

    Args:
        signature: argument list, of which a tensor is the first, and returns. Outputs are contiguous new tensors.
        fake: function from the arguments to empty outputs of the right shapes and dtypes.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = f"reference_{function.__name__.strip('_')}"
        LIBRARY.define(name + signature, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")  # on every device
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
        op = getattr(getattr(torch.ops, NAMESPACE), name).default
        torch.library.register_vmap(
            f"{NAMESPACE}::{name}",
            lambda info, in_dims, *args: each_slice(op, info.batch_size, in_dims, args),
            lib=LIBRARY,
        )
        return functools.update_wrapper(lambda *args: op(*args), function)

    return register


class Op:
    """A registered op.

    Args:
        name: name of the op in ``torch.ops.probkernels``.
        signature: argument list and returns of the schema, without default values (the dispatcher would drop trailing
            arguments that equal their defaults).
        reference: the equation in plain differentiable torch. Takes the op's arguments.
        kernels: kind of backend -> ``kernel(backend, *args)``, in order of preference. The reference is always last.
        fake: function from the arguments to empty outputs of the right shapes and dtypes.
        examples: ``examples(device, dtype)`` returns argument tuples for self-tests.
        setup, backward: as in ``torch.autograd.Function``. Without them the op is differentiated through its reference,
            which then replaces the kernel.
        forward_mode: function that replaces the op under forward-mode differentiation. The reference by default.
        constant: argument name -> why it has no gradient. Asking for that gradient raises NotImplementedError.
        differentiable: False for an op whose outputs have no gradient, such as positions or counts. An op that changes
            arguments in place (``Tensor(a!)`` in its schema) is never differentiable: it returns nothing, and it
            refuses to change a tensor that requires grad while grad mode is on.
        family: file name of the op's files without extension, if it differs from the op's name.
        direct: keyword arguments for kernels in eager calls without a gradient. Nothing else sees such a call, so a
            kernel may return an argument itself where it would otherwise copy it.
        baked: the plain numbers, such as a step, that must change from call to call. A CUDA graph would repeat them, so
            the op refuses to be captured.

    All tensors of a call must be on one device, those in lists too.
    """

    def __init__(
        self,
        name: str,
        signature: str,
        *,
        reference: Callable[..., Any],
        kernels: dict[str, Callable[..., Any]],
        fake: Callable[..., Any],
        examples: Callable[[torch.device, torch.dtype], Sequence[tuple[Any, ...]]],
        setup: Derivative | None = None,
        backward: Derivative | None = None,
        forward_mode: Callable[..., Any] | None = None,
        constant: dict[str, str] | None = None,
        differentiable: bool = True,
        dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64, torch.float16, torch.bfloat16),
        family: str | None = None,
        direct: dict[str, Any] | None = None,
        baked: str | None = None,
    ) -> None:
        self.name, self.family, self.dtypes = name, family or name, tuple(dtypes)
        self.reference, self.examples = reference, examples
        self.forward_mode = self._on_one_device(forward_mode or reference)
        self.kernels = {**kernels, "reference": lambda _, *args, **how: reference(*args)}
        self.direct, self.baked, self.through_reference = direct or {}, baked, backward is None
        LIBRARY.define(name + signature, tags=(torch.Tag.pt2_compliant_tag,))
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(name, self._run, key)
        torch.library.register_fake(f"{NAMESPACE}::{name}", self._on_one_device(fake), lib=LIBRARY)
        self.op = getattr(getattr(torch.ops, NAMESPACE), name).default
        arguments = self.op._schema.arguments
        self.tensor_args = [i for i, a in enumerate(arguments) if "Tensor" in str(a.type)]
        self.constant = {i: constant[a.name] for i, a in enumerate(arguments) if constant and a.name in constant}
        self.argument_names = [a.name for a in arguments]
        self.listed = [i for i in self.tensor_args if isinstance(arguments[i].type, torch.ListType)]
        self.alone = [i for i in self.tensor_args if i not in self.listed]
        self.mutated = [i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]
        self.differentiable = differentiable and not self.mutated
        torch.library.register_vmap(f"{NAMESPACE}::{name}", self._vmap, lib=LIBRARY)
        if self.differentiable:
            self._register_autograd(setup, backward)
        else:
            self._register_without_gradient()
        OPS[name] = self

    def tensors(self, args: Sequence[Any], places: Sequence[int] | None = None) -> list[torch.Tensor]:
        """The tensors among the arguments, also those in lists. ``places`` restricts them to some arguments."""
        found: list[torch.Tensor] = []
        for i in self.tensor_args if places is None else places:
            arg = args[i]
            if isinstance(arg, (list, tuple)):
                found += arg
            elif arg is not None:
                found.append(arg)
        return found

    def check_devices(self, args: Sequence[Any]) -> None:
        """Checks that all tensors of a call are on one device. A kernel would read the address of another as its
        own."""
        for i in self.alone:  # small calls pay for this, so the usual case asks for no device objects
            if args[i] is not None and not args[i].is_cpu:
                self._compare_devices(args)
                return
        for i in self.listed:
            for t in args[i]:
                if not t.is_cpu:
                    self._compare_devices(args)
                    return

    def _compare_devices(self, args: Sequence[Any]) -> None:
        first = None
        for i in self.tensor_args:
            name, arg = self.argument_names[i], args[i]
            for k, t in enumerate(arg if i in self.listed else () if arg is None else (arg,)):
                full = f"{name}[{k}]" if i in self.listed else name
                if first is None:
                    first = t, full
                checks.same_device(self.name, full, t, *first)

    def _on_one_device(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` of the op's arguments, which checks their devices first."""

        @functools.wraps(function)
        def checked(*args: Any) -> Any:
            self.check_devices(args)
            return function(*args)

        return checked

    def _run(self, *args: Any, **how: Any) -> Any:
        self.check_devices(args)
        if self.baked is not None:
            devices.refuse_baked(self.name, self.baked)
        x = args[self.tensor_args[0]]
        if type(x) is list:
            x = next((t for t in x if t.numel()), EMPTY)
        if x.numel() == 0:
            return self.reference(*args)  # no address to give to a kernel, and nothing to do
        if self.mutated:
            self._refuse_inference_tensors(args)
        key = self.name, "cuda" if x.is_cuda else "cpu", x.dtype
        chosen = backend.CHOSEN.get(key) or backend.choose(self, *key[1:])
        output = self.kernels[chosen.kind](chosen, *args, **how)
        if self.mutated and chosen.kind != "reference":  # as torch's own in-place ops do
            torch.autograd.graph.increment_version(
                [t for t in self.tensors(args, self.mutated) if not t.is_inference()]
            )
        return output

    def _refuse_inference_tensors(self, args: Sequence[Any]) -> None:
        """Raises as torch's own in-place ops do, with the name of the argument."""
        if torch.is_inference_mode_enabled():
            return
        for i in self.mutated:
            if any(t.is_inference() for t in self.tensors(args, [i])):
                hint = "clone it, or make the call inside torch.inference_mode()"
                got = "an inference tensor outside torch.inference_mode()"
                raise RuntimeError(message(self.name, self.argument_names[i], "a tensor that may change", got, hint))

    def _vmap(self, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        if self.mutated:
            raise NotImplementedError(f"{self.name}: vmap over an op that works in place is not supported")
        return each_slice(self.op, info.batch_size, in_dims, args)

    def _register_without_gradient(self) -> None:
        changed = ", ".join(f"'{self.argument_names[i]}'" for i in self.mutated)

        def below(*args: Any) -> Any:
            if torch.is_grad_enabled() and any(carries_gradient(t) for t in self.tensors(args, self.mutated)):
                raise NotImplementedError(
                    f"{self.name} changes {changed} in place and has no gradient. Hint: call it under torch.no_grad()"
                )
            if not HAVE_PRIVATE_NAMES:  # pragma: no cover - depends on the torch version
                with torch.no_grad():
                    return self.op(*args)
            with below_autograd():
                return self.op(*args)

        def call(*args: Any) -> Any:
            if not (torch.compiler.is_compiling() or transforms_active()) and forward_ad._current_level < 0:
                tensors, recording = self.tensors(args), torch.is_grad_enabled()
                plain = all(is_plain(t) and not (recording and t.requires_grad) for t in tensors)
                if plain and tensors and (tensors[0].is_cpu or tensors[0].is_cuda) and nobody_watches():
                    return self._run(*args)  # spares the dispatcher, which converts every list twice
            return self.op(*args)

        self.call = self.op
        if HAVE_PRIVATE_NAMES:
            self.call = call
            LIBRARY.impl(self.name, below, "Autograd")
        else:  # pragma: no cover - depends on the torch version
            self.call = below

    def _register_autograd(self, setup: Derivative | None, backward: Derivative | None) -> None:
        def checked_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            for i, why in self.constant.items():
                if ctx.needs_input_grad[i]:
                    name = self.argument_names[i]
                    raise NotImplementedError(f"{self.name}: argument '{name}' has no gradient: {why}")
            assert setup is not None
            setup(ctx, inputs, output)

        def wants_grad(args: tuple[Any, ...]) -> bool:
            if torch.is_grad_enabled():
                for i in self.tensor_args:
                    if args[i] is not None and args[i].requires_grad:
                        return True
            return False

        differentiate: Any = self._on_one_device(self.reference)
        if not HAVE_PRIVATE_NAMES:  # pragma: no cover - depends on the torch version
            if backward is None:
                self.call = lambda *args: differentiate(*args) if wants_grad(args) else self.op(*args)
            else:
                name = f"{NAMESPACE}::{self.name}"
                torch.library.register_autograd(name, backward, setup_context=checked_setup, lib=LIBRARY)
                self.call = self.op
            return

        def forward(ctx: Any, *args: Any) -> Any:
            if transforms_active():  # apply() switched both modes off; outer torch.func levels still need them
                with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), below_autograd():
                    output = self.op(*args)
            else:
                output = run(args, {})  # what setup saves may be copies
            checked_setup(ctx, args, output)
            return output

        if backward is not None:
            members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
            function: Any = type(self.name, (_SingleLevelFunction,), members)
            differentiate = function.apply

        def autograd_kernel(*args: Any) -> Any:  # reached from compile, torch.func or a direct torch.ops call
            if forward_ad._current_level >= 0:
                return self.forward_mode(*args)
            if wants_grad(args):
                with enable_single_level_autograd_function():
                    return differentiate(*args)
            with below_autograd():
                return self.op(*args)

        LIBRARY.impl(self.name, autograd_kernel, "Autograd")

        def call(*args: Any) -> Any:
            return run(args, self.direct)

        def run(args: tuple[Any, ...], how: dict[str, Any]) -> Any:
            if torch.compiler.is_compiling() or transforms_active() or forward_ad._current_level >= 0:
                return self.op(*args)
            plain, recording = True, torch.is_grad_enabled()
            for i in self.tensor_args:
                arg = args[i]
                if arg is not None:
                    if recording and arg.requires_grad:
                        return differentiate(*args)
                    plain = plain and is_plain(arg)
            x = args[self.tensor_args[0]]
            if plain and (x.is_cpu or x.is_cuda) and nobody_watches():
                return self._run(*args, **how)  # spares the dispatcher, half of a small call's time
            with below_autograd():
                return self.op(*args)

        self.call = call
