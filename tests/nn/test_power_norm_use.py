"""nn.PowerNorm and nn.PowerNormV as users handle them: shapes, dtypes, copies, checkpoints, conversion, compile."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from probkernels import nn, ops, sparse, use_backend

from tests.nn.steps import module, same_state, state, step
from tests.ops import oracle

# --- drop-in behavior ---


def test_any_leading_shape() -> None:
    x = torch.randn(24, 4)
    expected = nn.PowerNorm(4)(x)
    for lead in [(24,), (2, 12), (2, 3, 4), (1, 2, 3, 4)]:
        assert torch.equal(nn.PowerNorm(4)(x.reshape(*lead, 4)), expected.reshape(*lead, 4))
    assert nn.PowerNorm(4)(x[0]).shape == (4,)


def test_pad_mask_layouts() -> None:
    x, mask = torch.randn(5, 2, 4), torch.rand(2, 5) < 0.4  # x (T, B, C), mask (B, T)
    a, b = nn.PowerNorm(4), nn.PowerNorm(4, batch_first=True)
    assert torch.equal(a(x, mask), b(x.transpose(0, 1), mask).transpose(0, 1))
    torch.testing.assert_close(a.running_psi2, b.running_psi2)
    with pytest.raises(ValueError, match=r"\(B, T\) for x \(T, B, C\).*batch_first=True"):
        nn.PowerNorm(4)(x, mask.t())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_modules_keep_float32_state(dtype: torch.dtype) -> None:
    norm = nn.PowerNorm(4)
    norm(torch.randn(8, 4)).sum().backward()
    psi2 = norm.running_psi2.clone()
    norm = norm.to(dtype)
    assert torch.equal(norm.running_psi2, psi2) and norm.running_nu.dtype is torch.float32
    x = (300 * torch.randn(64, 4)).to(dtype).requires_grad_()
    y = norm(x)
    y.float().square().mean().backward()
    assert y.dtype is x.grad.dtype is norm.weight.grad.dtype is dtype and y.abs().max() > 1
    torch.testing.assert_close(
        norm.running_psi2, psi2.lerp(x.detach().float().square().mean(0), 0.1), rtol=1e-5, atol=0
    )
    assert norm.running_nu.any() and norm.float().running_psi2.dtype is torch.float32


def test_autocast_training() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), nn.PowerNorm(4), torch.nn.Linear(4, 1))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(16, 4)).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())


def test_without_affine() -> None:
    norm = nn.PowerNorm(4, affine=False)  # the official module ignores this
    assert not list(norm.parameters())
    x = torch.randn(8, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and norm.running_nu.any()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_independent_and_complete(copier: Any) -> None:
    norm = module(num_groups=2, warmup_iters=3)
    step(norm, 1)
    twin, before = copier(norm), state(norm)
    step(twin, 2)
    same_state(before, state(norm))
    step(norm, 2)
    same_state(state(norm), state(twin))


def test_state_dict_round_trip_continues_bitwise() -> None:
    norm, twin = module(warmup_iters=2), module(warmup_iters=2)
    for k in (1, 2, 3):
        step(norm, k)
    file = io.BytesIO()
    torch.save(norm.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file))
    step(norm, 4)
    step(twin, 4)
    same_state(state(norm), state(twin))


def test_official_checkpoints_load_and_continue() -> None:
    """After step 2 of oracle D as the official module would have saved it, steps 3 and 4 follow."""
    weight, bias = oracle.affine()
    official = {
        "weight": weight,
        "bias": bias,
        "running_phi": torch.tensor(oracle.OFFICIAL["psi2"][1]).double().reshape(1, 4, 1, 1),
        "ema_gz": torch.tensor(oracle.OFFICIAL["ema_gz"][1]).double().reshape(1, 4, 1, 1),
        "iters": torch.tensor([2]),
    }
    norm = nn.PowerNorm(4, num_groups=2, warmup_iters=2, compat="official").double()
    norm.load_state_dict(official)
    assert norm.iters.item() == 2
    for k in (3, 4):
        shown = step(norm, k)
        for quantity in ("y", "grad_x", "psi2", "ema_gz"):
            wanted = torch.tensor(oracle.OFFICIAL[quantity][k - 1]).double()
            torch.testing.assert_close(shown[quantity], wanted, rtol=0, atol=4e-6)  # the printed digits' rounding


@pytest.mark.parametrize("bias", [True, False])
def test_fold_into_linear(bias: bool) -> None:
    norm, linear = module(), torch.nn.Linear(4, 3, bias=bias).double()
    for k in range(1, 5):
        step(norm, k)
    x = oracle.inputs(5)
    torch.testing.assert_close(norm.fold_into(linear)(x), linear(norm.eval()(x)))
    with pytest.raises(ValueError, match="without group scaling"):
        module(num_groups=2).fold_into(linear)
    with pytest.raises(ValueError, match="in_features 4"):
        norm.fold_into(torch.nn.Linear(5, 3))


class Tripled(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(x)


def test_fold_into_refuses_what_a_plain_linear_does_not_compute() -> None:
    norm, x = module().eval(), torch.randn(2, 4, dtype=torch.float64)
    for other in (Tripled(4, 3), torch.nn.Conv1d(4, 3, 1)):
        with pytest.raises(TypeError, match=r"fold_into: argument 'linear': expected an nn\.Linear"):
            norm.fold_into(other.double())
    hooked = torch.nn.Linear(4, 3).double()
    handle = hooked.register_forward_hook(lambda module, args, y: 2 * y)
    with pytest.raises(TypeError, match=r"'linear': expected a layer without forward hooks"):
        norm.fold_into(hooked)
    handle.remove()
    adapter = sparse.attach(hooked, density=0.5)
    torch.testing.assert_close(norm.fold_into(hooked)(x), hooked(norm(x)))
    adapter.detach()
    norm.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    with pytest.raises(TypeError, match=r"'self': expected a layer without forward hooks"):
        norm.fold_into(hooked)


def test_eval_is_exactly_differentiable() -> None:
    for groups in (None, 2):
        norm = module(num_groups=groups)
        step(norm, 1)
        x = oracle.inputs(2).requires_grad_()
        torch.autograd.gradcheck(norm.eval(), (x,), check_forward_ad=True)
        torch.autograd.gradgradcheck(norm, (x,))


def test_reset() -> None:
    norm = module(warmup_iters=1)
    step(norm, 1)
    norm.reset_parameters()
    same_state(state(norm), state(nn.PowerNorm(4, warmup_iters=1).double()))


KINDS = pytest.mark.parametrize("kind", [nn.PowerNorm, nn.PowerNormV])


@KINDS
def test_state_that_comes_from_meta_starts_as_new(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = kind(4, device="meta")
    assert norm(torch.randn(3, 4, device="meta")).is_meta
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t, **kw: empty_like(t, **kw).fill_(7))
    norm = norm.to_empty(device="cpu")
    monkeypatch.undo()
    same_state(
        {k: v for k, v in state(norm).items() if k not in ("weight", "bias")},
        {k: v for k, v in state(kind(4)).items() if k not in ("weight", "bias")},
    )
    norm.reset_parameters()
    x = torch.randn(8, 4)
    fresh = kind(4)
    for module_ in (norm, fresh):
        module_(x).sum().backward()
    same_state(state(norm), state(fresh))


@KINDS
def test_checkpoints_assigned_to_a_model_on_meta(kind: Any) -> None:
    """The probe of nu has to follow its state; a LayerNorm's checkpoint brings no statistics."""
    trained = kind(4)
    trained(torch.randn(8, 4)).square().sum().backward()
    layer = torch.nn.LayerNorm(4)
    torch.nn.init.normal_(layer.weight)
    for source, expected in ((trained, copy.deepcopy(trained)), (layer, kind(4))):
        norm = kind(4, device="meta")
        norm.load_state_dict(source.state_dict(), strict=source is trained, assign=True)
        if source is layer:
            expected.load_state_dict(layer.state_dict(), strict=False)
        same_state(state(norm), state(expected))
        x = torch.randn(8, 4)
        for module_ in (norm, expected):
            module_(x).square().sum().backward()
        same_state(state(norm), state(expected))


@KINDS
def test_loaders_that_set_tensors_one_by_one(kind: Any) -> None:
    """As transformers and accelerate do: nothing of the module hears of it."""
    trained = kind(4)
    trained(torch.randn(8, 4)).square().sum().backward()
    norm = kind(4, device="meta")
    for name, buffer in trained.named_buffers():
        norm._buffers[name] = buffer.clone()
    for name, parameter in trained.named_parameters():
        norm._parameters[name] = torch.nn.Parameter(parameter.detach().clone())
    x = torch.randn(8, 4)
    for module_ in (norm, trained):
        module_(x).square().sum().backward()
    same_state(state(norm), state(trained))


@KINDS
def test_statistics_that_nobody_wrote_are_refused(kind: Any) -> None:
    norm = kind(4, device="meta")
    for name, buffer in norm.named_buffers():
        norm._buffers[name] = torch.zeros_like(buffer, device="cpu")  # as fresh memory often is
    for name, parameter in norm.named_parameters():
        norm._parameters[name] = torch.nn.Parameter(torch.ones_like(parameter, device="cpu"))
    with pytest.raises(ValueError, match=r"'running_psi2'.*what nobody wrote.*reset_running_stats"):
        norm(torch.randn(8, 4))
    norm.reset_running_stats()
    norm(torch.randn(8, 4)).sum().backward()


def test_rescale_nu_follows_the_scale_of_the_loss() -> None:
    """A state trained at one loss scale and continued at another: the gradient of x as without scaling."""
    weight = torch.arange(4.0)

    def grad(norm: nn.PowerNorm, scale: float, k: int) -> torch.Tensor:
        x = (torch.randn(32, 4, generator=torch.Generator().manual_seed(k)) + 0.5).requires_grad_()
        ((norm(x) * weight).mean() * scale).backward()
        return x.grad / scale

    scaled, plain = nn.PowerNorm(4), nn.PowerNorm(4)
    for k in range(10):
        torch.testing.assert_close(grad(scaled, 65536.0, k), grad(plain, 1.0, k))
    scaled.rescale_nu(1 / 65536)
    torch.testing.assert_close(grad(scaled, 1.0, 10), grad(plain, 1.0, 10))
    scaled.rescale_nu(2)
    torch.testing.assert_close(grad(scaled, 2.0, 11), grad(plain, 1.0, 11))
    with pytest.raises(ValueError, match=r"'factor'.*positive"):
        scaled.rescale_nu(0.0)


def test_no_host_synchronization() -> None:
    """No step of training or evaluation asks a tensor for a Python number, which would stall a GPU."""
    norm = nn.PowerNorm(4, warmup_iters=2, num_groups=2)
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoSync(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert func is not torch.ops.aten._local_scalar_dense.default, "host synchronization"
            return func(*args, **(kwargs or {}))

    with NoSync():
        for _ in range(4):
            norm(torch.randn(6, 4), torch.zeros(6, dtype=torch.bool)).sum().backward()
        norm.eval()(torch.randn(6, 4))
        with pytest.raises(AssertionError, match="host synchronization"):
            torch.ones(1).item()


# --- bad input ---


def bad_forward(**settings: Any) -> Any:
    return lambda x, mask=None: nn.PowerNorm(4, **settings)(x, mask)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: nn.PowerNorm(0), ValueError, "num_features"),
        (lambda: nn.PowerNorm(4, eps=-1.0), ValueError, "eps"),
        (lambda: nn.PowerNorm(4, alpha_fwd=1.0), ValueError, "alpha_fwd"),
        (lambda: nn.PowerNorm(4, alpha_bkw="a"), TypeError, "alpha_bkw"),
        (lambda: nn.PowerNorm(4, warmup_iters=-1), ValueError, "warmup_iters"),
        (lambda: nn.PowerNorm(4, num_groups=3), ValueError, "divisor of the 4 features"),
        (lambda: nn.PowerNorm(4, backward_scale="x"), ValueError, "backward_scale"),
        (lambda: nn.PowerNorm(4, compat="fairseq"), ValueError, "compat"),
        (lambda: nn.PowerNorm(4, sync=True, compat="official"), ValueError, "sync"),
        (lambda: bad_forward()(torch.ones(2, 5)), ValueError, r"expected shape \(..., 4\), got shape \(2, 5\)"),
        (lambda: bad_forward()(torch.ones(2, 4, dtype=torch.long)), TypeError, "int64"),
        (lambda: bad_forward()(torch.ones(2, 4), torch.zeros(3, dtype=torch.bool)), ValueError, "pad_mask"),
        (lambda: bad_forward()(torch.ones(2, 4), torch.zeros(2)), TypeError, "pad_mask"),
        (lambda: nn.convert_layernorm(torch.nn.LayerNorm((3, 4))), ValueError, "last dimension only"),
    ],
)
def test_bad_input(act: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        act()


# --- compile ---


@pytest.mark.parametrize("settings", [{}, {"num_groups": 2, "warmup_iters": 2}, {"compat": "official"}], ids=str)
def test_compile_trains_like_eager(settings: dict[str, Any]) -> None:
    torch._dynamo.reset()
    eager, compiled_module = module(**settings), module(**settings)
    compiled = torch.compile(compiled_module, fullgraph=True, backend="aot_eager")
    for k in range(1, 5):
        x1, x2 = oracle.inputs(k).requires_grad_(), oracle.inputs(k).requires_grad_()
        eager(x1).backward(oracle.output_grads(k))
        compiled(x2).backward(oracle.output_grads(k))
        torch.testing.assert_close(x1.grad, x2.grad)
    same_state(state(eager), state(compiled_module), exact=False)
    x = oracle.inputs(5)
    torch.testing.assert_close(
        torch.compile(compiled_module.eval(), fullgraph=True, backend="aot_eager")(x), eager.eval()(x)
    )


def test_compile_recompiles_once_after_warmup_only() -> None:
    torch._dynamo.reset()
    norm = nn.PowerNorm(4, warmup_iters=5)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(norm, backend=counter, fullgraph=True)
    for _ in range(12):
        compiled(torch.randn(6, 4)).sum().backward()
    assert counter.frame_count <= 2 and norm.iters.item() == 12


def test_export_in_eval_mode_is_plain_torch() -> None:
    norm = module(num_groups=2)
    step(norm, 1)
    exported = torch.export.export(norm.eval(), (oracle.inputs(1),))
    assert "probkernels" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(oracle.inputs(2)), norm(oracle.inputs(2)))


def test_pn_v_module_equals_its_op_and_evaluates_on_running_state() -> None:
    norm, x = nn.PowerNormV(4), torch.randn(8, 4)
    y, mean_sq = ops.power_norm_v(x, norm.weight, norm.bias)
    assert torch.equal(norm(x), y)
    torch.testing.assert_close(norm.running_psi2, 0.9 + 0.1 * mean_sq.detach())
    with use_backend("reference"):
        expected = norm.eval()(x)
    torch.testing.assert_close(norm(x), expected)


# --- functional calls ---


def test_a_functional_call_moves_the_state_it_was_given_and_no_other() -> None:
    norm, twin = nn.PowerNorm(4), nn.PowerNorm(4)
    before = state(norm)
    given = {name: t.clone() for name, t in norm.named_buffers()}
    for _ in range(3):
        x = torch.randn(6, 4)
        torch.func.functional_call(norm, given, (x,)).sin().sum().backward()
        twin(x).sin().sum().backward()
    same_state(given, {name: t for name, t in state(twin).items() if name in given})
    same_state(state(norm), before)
    norm(x).sin().sum().backward()
    assert norm.running_nu.any()


@pytest.mark.parametrize("vmapped", [False, True])
def test_training_under_transforms_is_refused(vmapped: bool) -> None:
    norm = nn.PowerNorm(4)
    transform = torch.func.vmap if vmapped else torch.func.grad
    with pytest.raises(NotImplementedError, match=r"PowerNorm: in training.*eval\(\)"):
        transform(lambda x: norm(x).sum())(torch.randn(2, 6, 4))
    assert norm.iters == 0
