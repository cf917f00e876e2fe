"""convert_layernorm, and PowerNorm inside torch's own transformer layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from probkernels import nn, sparse
from torch.nn.utils import prune


def test_convert_layernorm_keeps_parameters_and_sharing() -> None:
    shared = torch.nn.LayerNorm(8, eps=1e-3)
    model = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(shared, torch.nn.LayerNorm(8, bias=False))})
    torch.nn.init.normal_(shared.weight)
    converted = nn.convert_layernorm(model, num_groups=4)
    assert converted is model and isinstance(model["a"], nn.PowerNorm) and model["a"] is model["b"][0]
    assert model["a"].weight is shared.weight and model["a"].epsilon == 1e-3 and model["b"][1].bias is None
    assert isinstance(nn.convert_layernorm(torch.nn.LayerNorm(8)), nn.PowerNorm)


def test_converted_transformer_does_not_take_torchs_fused_layernorm_path() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.convert_layernorm(torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    x = torch.randn(3, 5, 8)
    model(x).sum().backward()
    model.eval()
    with torch.no_grad():
        fused = model(x)
    torch.testing.assert_close(fused, model(x).detach())


@pytest.mark.parametrize("kinds", [(nn.PowerNorm, nn.PowerNorm), (nn.PowerNormV, torch.nn.LayerNorm)], ids=str)
@pytest.mark.parametrize("pad", [False, True], ids=["dense", "padded"])
def test_norms_put_into_a_torch_layer_by_hand(kinds: tuple[Any, Any], pad: bool) -> None:
    """torch's fused path computes LayerNorms for any two norms with equal eps; here it must not be taken."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    layer.norm1, layer.norm2 = (kind(8) for kind in kinds)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x, mask = torch.randn(3, 5, 8), (torch.arange(5) >= torch.tensor([[5], [3], [4]])) if pad else None
    (3 * model(x, src_key_padding_mask=mask)).sum().backward()
    expected = model.eval()(x, src_key_padding_mask=mask).detach()
    with torch.no_grad():
        got = model(x, src_key_padding_mask=mask)
    keep = slice(None) if mask is None else ~mask
    torch.testing.assert_close(got[keep], expected[keep])
    assert layer.norm1.eps + 0 == 1e-5 and layer.norm1.eps != 1e-5


def test_a_torch_layer_with_power_norm_compiles_and_exports_in_eval_mode() -> None:
    torch._dynamo.reset()
    layer = nn.convert_layernorm(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), expected)
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected)


def test_converted_encoders_take_padding_and_others_name_nested_tensors() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = torch.nn.TransformerEncoder(layer, 2).eval()
    x, mask = torch.randn(2, 5, 8), torch.arange(5) >= torch.tensor([[5], [3]])
    by_hand = copy.deepcopy(model)
    for block in by_hand.layers:
        block.norm1 = nn.PowerNorm(8).eval()
    with torch.no_grad():
        assert nn.convert_layernorm(model)(x, src_key_padding_mask=mask).isfinite().all()
        with pytest.raises(ValueError, match=r"enable_nested_tensor=False"):
            by_hand(x, src_key_padding_mask=mask)


class LayerNorm2d(torch.nn.LayerNorm):
    """ConvNeXt's: x (B, C, H, W), features first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_convert_layernorm_leaves_other_norms_and_names_them(caplog: pytest.LogCaptureFixture) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), LayerNorm2d(8), torch.nn.LayerNorm(8), torch.nn.ModuleDict({"n": torch.nn.RMSNorm(8)})
    )
    x = torch.randn(2, 3, 8, 8)  # as wide as it has features: PowerNorm would take the last dimension for them
    expected = model[:2](x)
    with caplog.at_level("INFO", "probkernels"), pytest.warns(UserWarning) as warned:
        nn.convert_layernorm(model)
    assert torch.equal(model[:2](x), expected) and isinstance(model[2], nn.PowerNorm)
    (text,) = (str(w.message) for w in warned)
    assert "replaced 1 LayerNorms and left 2 other norms" in text and "'1' (LayerNorm2d), '3.n' (RMSNorm)" in text
    assert "replaced '2'" in caplog.text
    with pytest.warns(UserWarning, match="replaced 0 LayerNorms and found no"):
        nn.convert_layernorm(torch.nn.Linear(2, 2))


def test_a_layer_with_a_forward_of_its_own_stays() -> None:
    model = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.LayerNorm(4))
    model[1].forward = lambda x: 2 * x  # libraries that wrap a layer's forward set it on the layer
    with pytest.warns(UserWarning, match=r"left 1 other norms as they are: '1' \(LayerNorm\)"):
        nn.convert_layernorm(model)
    assert isinstance(model[0], nn.PowerNorm) and model[1](torch.ones(4)).tolist() == [2] * 4


def test_convert_layernorm_that_fails_changes_nothing() -> None:
    model = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.LayerNorm((3, 8)))
    with pytest.raises(ValueError, match="'1' over"):
        nn.convert_layernorm(model)
    assert type(model[0]) is torch.nn.LayerNorm


def test_a_layer_with_two_names_in_one_module_is_replaced_under_both() -> None:
    shared = torch.nn.LayerNorm(8)
    model = nn.convert_layernorm(torch.nn.Sequential(shared, torch.nn.ReLU(), shared))
    assert model[0] is model[2] and isinstance(model[2], nn.PowerNorm)


def test_hooks_of_a_converted_layer_run_and_can_be_removed() -> None:
    layer, seen = torch.nn.LayerNorm(4), []
    handle = layer.register_forward_hook(lambda module, args, y: seen.append(module) or 2 * y)
    layer.register_full_backward_hook(lambda module, grad_x, grad_y: seen.append("backward"))
    model = nn.convert_layernorm(torch.nn.Sequential(torch.nn.Linear(4, 4), layer))
    y = model(torch.randn(3, 4))
    y.sum().backward()
    assert seen == [model[1], "backward"]
    handle.remove()
    model.eval()
    x = torch.randn(3, 4)
    torch.testing.assert_close(model(x), model[1].forward(model[0](x)))


@pytest.mark.parametrize("how", ["adapted", "parametrized", "pruned"])
def test_layers_whose_weight_is_computed_are_refused(how: str) -> None:
    layer = torch.nn.LayerNorm(40)
    model = torch.nn.Sequential(torch.nn.LayerNorm(40), layer)
    if how == "adapted":
        torch.nn.init.normal_(layer.weight)
        sparse.attach(layer, density=0.5)
    elif how == "parametrized":
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", torch.nn.Softplus())
    else:
        prune.random_unstructured(layer, "weight", 0.5)
    with pytest.raises(ValueError, match=r"'1' with a computed (weight|bias)"):
        nn.convert_layernorm(model)
    assert all(isinstance(part, torch.nn.LayerNorm) for part in model)
