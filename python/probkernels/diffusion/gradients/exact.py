"""The exact discrete adjoint of every sampler: gradients of the sample that the steps produced.

The forward pass makes no graph and keeps the inputs of the net's calls. The backward pass goes through the steps in
reverse, calls the net again at each kept input, and pulls one cotangent back through it. Apart from the net a sampler
is linear (:class:`Scheme`), so the rest is sums. With snapshots it keeps a few states and repeats the steps between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .._net import replaced, tensors_in
from ..denoiser import mixed
from ..noise import Draw
from ..solvers.mixing import ONE, Mix, Model, Prediction, Registers, Value, fold, mixes, plan, start
from ..solvers.scheme import Scheme
from ._inputs import counting_bytes, refuse_undeclared, undeclared
from ._model_state import Net, version
from ._outputs import SAME, Outputs, tolerance
from ._sums import Gradients
from ._surroundings import Surroundings
from .revolve import Snapshots

if TYPE_CHECKING:
    from ..run import Run


class Call(NamedTuple):
    """One evaluation with a graph: the outputs k (G, B, *S) and the leaves of its graph.

    These are u (B, *S) and ``live``: what of its :class:`Point` carries a gradient, to times, process or ``time``.
    ``raw`` are the net's own outputs, which k is unless the call converts them.
    """

    k: Tensor
    u: Tensor
    live: Tensor
    raw: Tensor


class Plan:
    """One run, with everything that its backward pass needs apart from saved tensors.

    Args:
        made: the run.
        after: called as ``after(n, x)`` after every step of the forward pass.
        budget: bytes that graphs of the last evaluations may take.
        last_k: only the last steps' evaluations are differentiated; None for all.
        snapshots: if given, kept in place of the inputs of all evaluations.
    """

    def __init__(
        self,
        made: Run,
        after: Callable[[int, Tensor], object],
        budget: int,
        last_k: int | None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.made, self.scheme, self.after = made, made.scheme, after
        self.net = Net(made.model)
        self.surroundings = Surroundings(made.model, made.x.device)
        self.guide = list(tensors_in(made.guide))
        self.leaves = [t.detach().requires_grad_(t.requires_grad) for t in self.guide]
        fresh = iter(self.leaves)
        self.arguments = replaced(made.guide, lambda _: next(fresh))
        self.parameters, cast = self.net.parameters, self.surroundings.dtype if self.surroundings.autocast else None
        floats = [*(m.tensor for m in self.net.tensors), *self.parameters, made.x]
        self.outputs = Outputs(tolerance(floats, cast, made.x.device))
        self.again = False  # whether calls are those of a backward pass
        self.places = self.scheme.places
        given = {"x_T": made.x, "noise": made.noise.given}
        self.given = [(name, t, version(t)) for name, t in given.items() if t is not None]
        self.index = {place: i for i, place in enumerate(self.places)}
        self.first_step = 0 if last_k is None else max(self.scheme.steps - last_k, 0)
        self.budget, self.snapshots = budget, snapshots
        self.draws = self.scheme.draws
        self.kept: dict[int, Call] = {}  # evaluations of which the graph is kept
        self.graphs = 0  # of how many evaluations, the last ones, the graph is kept
        self.mixing = made.coefficients(self.first_step)
        of_inputs, of_registers = self.mixing
        self.steps = plan(self.scheme, of_inputs.detach(), of_registers.detach(), made.x)
        self.learns = any(c.requires_grad for c in self.mixing)
        learned = any(c.requires_grad for c in self.scheme.parts())
        self.returns_to = 0 if learned else self.first_step  # the first step that the backward pass needs
        self.skipped = sum(n < self.returns_to for n, _ in self.places)  # evaluations before it
        live = [made.points[place].live() for place in self.places]
        none = torch.zeros(len(live), 0, device="cpu")
        self.live = torch.stack([torch.stack(row).double() for row in live]) if any(live) else none
        self.coefficients = (self.live, *self.mixing)

    def inputs(self) -> list[Tensor]:
        """The differentiable inputs of the sample: x_T, noise, coefficients, conditions, parameters."""
        given = self.made.noise.given
        noise = [] if given is None else [given]
        return [self.made.x, *noise, *self.coefficients, *self.guide, *self.parameters]

    def gradients(self) -> Gradients:
        """Empty sums for the gradients of :meth:`inputs`."""
        return Gradients([*self.leaves, *self.net.leaves], self.coefficients, self.made.noise.given, self.made.x)

    def z(self, n: int) -> Value:
        """The noise (B, *S) of a step that has any."""
        z = self.made.noise.at(n) if self.draws[n] else None
        return z.detach() if isinstance(z, Tensor) else z

    def call(self, place: tuple[int, int], u: Tensor, graph: bool) -> Call:
        """The net at u (B, *S)."""
        i, own = self.index[place], self.net.aliased() if graph else self.net.lock
        if self.again:
            self.surroundings.replay(i)
            self.net.attributes.rewind()
        with torch.set_grad_enabled(graph), self.surroundings.cast(), own:
            u = u.detach().requires_grad_(graph)
            point, live = self.made.points[place], self.live[i].detach()
            if self.live.requires_grad:
                point = point.with_live(live.requires_grad_(graph))
            k = raw = self.made.model.outputs_at(point, u, **self.arguments)
            if self.made.converts:
                k = self.made.model.convert(point, self.scheme.kind, mixed(raw, self.arguments["guidance"]), u)[None]
        if self.again:
            self.outputs.add(i, raw, again=True)
        return Call(k, u, live, raw.detach())

    def first_call(self, u: Tensor) -> Call:
        """The first evaluation, which finds the tensors that the net depends on and the size of its graph."""
        place, net = self.places[0], self.net
        if net.sharded:  # its graph ends in tensors that FSDP2 gathers and frees, neither known nor counted here
            return self.call(place, u, graph=False)
        with counting_bytes([*self.parameters, *self.leaves, u]) as count:
            net.inside = bool(net.reducers)  # DDP looks for the parameters themselves, and prepares for their gradients
            call = self.call(place, u, graph=True)
            net.inside = False
        if count():
            self.graphs = min(self.budget // count(), len(self.places) - len(net.reducers[:1]))
        leaves = self.parameters if net.reducers else net.leaves
        others = undeclared(call.k, [call.u, call.live, *self.leaves, *leaves])
        if any(id(t) in net.own for t in others) and not net.direct:
            net.be_direct()
            self.surroundings.restore(self.surroundings.states[0])
            return self.first_call(u)
        refuse_undeclared(others)
        return call

    def refuse_undeclared(self, call: Call) -> None:
        """Refuses undeclared tensors, except under FSDP2, whose graphs end in tensors unknown here."""
        if not self.net.sharded:
            refuse_undeclared(undeclared(call.k, [call.u, call.live, *self.leaves, *self.net.leaves]))

    def evaluate(self, place: tuple[int, int], u: Tensor) -> Tensor:
        """The net's outputs (G, B, *S) in the forward pass."""
        i = self.index[place]
        keeps = i >= len(self.places) - self.graphs
        if keeps and i and self.net.attributes.filled():
            keeps = False  # its graph would run into that of an earlier call, or miss what was computed without one
        with self.surroundings.recording(i):
            call = self.first_call(u) if i == 0 else self.call(place, u, graph=keeps)
        self.outputs.add(i, call.raw, again=False)
        if i == 0:
            self.net.called()
            keeps = self.graphs == len(self.places)  # known since this call
        if keeps and place[0] >= self.first_step:
            self.kept[i] = call
        return call.k.detach()

    def forward(self) -> tuple[Tensor, list[Tensor], list[Registers]]:
        """The sample, and without snapshots the inputs of all evaluations, and if coefficients are learned the
        registers before every step."""
        scheme, x = self.scheme, self.made.x.detach()
        inputs: list[Tensor] = []
        finite: list[Tensor] = []
        states: list[Registers] = []

        def model(n: int, s: int, u: Tensor) -> Tensor:
            k = self.evaluate((n, s), u)
            finite.append(k.isfinite().all())
            if self.snapshots is None and n >= self.returns_to:
                inputs.append(u if self.learns or u.untyped_storage().nbytes() == u.nbytes else u.clone())
            return k

        def step(n: int, registers: Registers) -> Registers:
            if self.learns and self.snapshots is None:
                states.append(registers)
            registers = self.steps[n](n, registers, model, self.z(n))
            assert registers[0] is not None
            self.after(n, registers[0])
            return registers

        registers = start(scheme, x)
        for n in range(self.returns_to if self.snapshots is not None else scheme.steps):
            registers = step(n, registers)
        if self.snapshots is not None:
            self.snapshots.start(self.returns_to, registers)
            registers = step(scheme.steps - 1, self.snapshots.reach(scheme.steps - 1, step))
        self.refuse_infinite(finite)
        self.finish()
        assert registers[0] is not None
        return registers[0].clone(), inputs, states  # no view, which could not be changed in place

    def finish(self) -> None:
        """All evaluations of the forward pass are done."""
        self.surroundings.finish()
        self.net.refuse_drift()

    def revisit(self, n: int) -> Registers:
        """Computes the registers before step n from the nearest snapshot. Keeps the graphs of step n's evaluations."""
        assert self.snapshots is not None

        def model(n: int, s: int, u: Tensor) -> Tensor:
            return self.call((n, s), u, graph=False).k.detach()

        def differentiable(n: int, s: int, u: Tensor) -> Tensor:
            call = self.kept[self.index[n, s]] = self.call((n, s), u, graph=True)
            return call.k.detach()

        def step(i: int, registers: Registers, evaluate: Model = model) -> Registers:
            return self.steps[i](i, registers, evaluate, self.z(i))

        registers = self.snapshots.reach(n, step)
        step(n, registers, differentiable)
        self.snapshots.passed(n)
        return registers

    def refuse_infinite(self, finite: list[Tensor]) -> None:
        """Raises if an output was not finite. Looks once, at the end, so that a GPU does not wait at every step."""
        bad = (~torch.stack(finite)).nonzero()
        if len(bad):
            n, s = self.places[int(bad[0, 0])]
            t = float(self.scheme.t[n, s].detach())
            raise FloatingPointError(f"sample: the net gave NaN or infinity in step {n}, at t = {t:.6g}")

    def refuse_changes(self) -> None:
        """Raises before a backward pass if its inputs have changed since the forward pass."""
        names = [name for name, t, before in self.given if version(t) != before]
        self.net.refuse_changes([f"'{name}' was modified by an inplace operation" for name in names])

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Wraps a backward pass: the net's calls must reproduce those of the forward pass, otherwise it raises."""
        self.again = True
        try:
            with self.net.as_it_was(), self.surroundings.replaying():
                yield
        finally:
            self.again = False
            differ = self.outputs.differ()
        if differ:
            raise RuntimeError(f"sample: the net gave other outputs in the backward pass{self.suspects()}. {SAME}")

    def suspects(self) -> str:
        """Text that names possible reasons why outputs differ."""
        return self.net.suspects() + self.surroundings.suspects()

    def backward(self, grad: Tensor, inputs: list[Tensor], states: list[Registers]) -> Gradients:
        """All gradients, given the gradient of the sample (B, *S)."""
        with self.replaying():
            return self.sweep(grad, inputs, states)

    def sweep(self, grad: Tensor, inputs: list[Tensor], states: list[Registers]) -> Gradients:
        """:meth:`backward` from step to step."""
        found, scheme = self.gradients(), self.scheme
        stages = scheme.t.shape[1]
        back = transposed(scheme, *self.mixing, self.first_step, grad)
        cotangents = start(scheme, grad)  # of the registers after the step
        for n in reversed(range(scheme.steps)):
            calls = n >= self.returns_to
            registers_before = self.revisit(n) if calls and self.snapshots is not None else []
            inner: list[Tensor | None] = [None] * stages  # cotangents of the u_s
            outputs: Registers = [None] * (stages * self.steps[n].outputs)
            for s in reversed(range(stages)):
                if not calls or (n, s) not in self.index:
                    continue
                along = back.outputs[s][n].stacked([*cotangents, *inner])
                inner[s], k = self.pull((n, s), self.input(n, s, inputs), along, found)
                if self.learns:
                    outputs[s * len(k) : (s + 1) * len(k)] = k.to(grad.dtype).unbind(0)
            if self.learns and n >= self.returns_to:
                z = self.z(n)
                values = [*(registers_before or states[n]), *outputs, z.tensor() if isinstance(z, Draw) else z]
                found.add_coefficients(n, values, inner, cotangents)
            if found.noise is not None and self.draws[n]:
                found.add_noise(n, back.noise[n]([*cotangents, *inner, None])[0])
            cotangents = back.registers[n]([*cotangents, *inner, None])
        found.x = cotangents[0]
        return found

    def input(self, n: int, s: int, inputs: list[Tensor]) -> Tensor:
        """The input of an evaluation. If its graph is kept, the graph holds the input."""
        i = self.index[n, s]
        return self.kept[i].u if i in self.kept else inputs[i - self.skipped]

    def pull(
        self, place: tuple[int, int], u: Tensor, along: Tensor | None, found: Gradients
    ) -> tuple[Tensor | None, Tensor]:
        """The cotangent of u, and k, for the cotangent ``along`` of k. Adds all other gradients to ``found``."""
        call = self.kept.pop(self.index[place], None) or self.call(place, u, graph=True)
        if along is None or not call.k.requires_grad or place[0] < self.first_step:
            return None, call.k.detach()
        self.refuse_undeclared(call)  # of every call: what a net depends on may change with the time
        wanted = [call.u, *([call.live] if call.live.requires_grad else []), *found.active]
        along = along.to(call.k.dtype)
        grads: list[Tensor | None]
        if self.net.sharded:
            torch.autograd.backward(call.k, along)
            grads = [t.grad for t in wanted]
            for t in wanted:
                t.grad = None
        else:
            grads = list(torch.autograd.grad(call.k, wanted, along, allow_unused=True))
        own = grads.pop(0)
        if call.live.requires_grad:
            found.add_point(self.index[place], grads.pop(0))
        found.add(grads)
        return own, call.k.detach()


class Transposed(NamedTuple):
    """Cotangents of a step's values, as sums of those of the registers after it and of the stages' inputs."""

    outputs: list[list[Mix]]  # of every stage, in every step
    registers: list[Mix]
    noise: list[Mix]


def transposed(scheme: Scheme, inputs: Tensor, after: Tensor, constant: int, like: Tensor) -> Transposed:
    """The steps backwards, of coefficients made by :func:`fold`; predictions of the first ``constant`` ones have no
    cotangent."""
    stages, registers = scheme.inputs.shape[1:]
    b, outputs_each = after.shape[1], (after.shape[3] - registers - 1) // stages
    linear = fold(scheme, Prediction(0 * ONE, ONE, ONE.expand(b, outputs_each)))
    inputs, after = (
        torch.cat([old[:constant], new[constant:]]) for old, new in zip(linear, (inputs, after), strict=True)
    )
    c = torch.cat([after, inputs], 2).detach().transpose(2, 3)  # (N, b, W, R + S)
    outputs = [mixes(part, like, 0) for part in c[:, :, registers:-1].tensor_split(stages, 2)]
    alone = registers + stages
    return Transposed(outputs, mixes(c[:, :, :registers], like, alone), mixes(c[:, :, -1:], like, alone))


class Exact(torch.autograd.Function):
    """The sample as a function of :meth:`Plan.inputs`."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> Tensor:
        """Runs the sampler."""
        sample, inputs, states = plan.forward()
        flat = [t for registers in states for t in registers]
        ctx.plan, ctx.counts = plan, (len(inputs), len(plan.parameters) + len(plan.leaves))
        ctx.save_for_backward(*plan.parameters, *plan.leaves, *inputs, *flat)
        return sample

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Goes through the steps in reverse."""
        if torch.is_grad_enabled():
            hint = "Hint: use grad='autograd' for second derivatives"
            raise NotImplementedError(f"sample: grad='exact' has no second derivative (create_graph=True). {hint}")
        ctx.plan.refuse_changes()
        evaluations, others = ctx.counts
        saved, width = list(ctx.saved_tensors)[others:], ctx.plan.scheme.carry.shape[1]  # versions are checked here
        inputs, flat = saved[:evaluations], saved[evaluations:]
        states = [flat[i : i + width] for i in range(0, len(flat), width)]
        return (None, *ctx.plan.backward(grads[0], inputs, states).in_order())
