"""LoRA on Linear layers in one operation: the same as PEFT's pass, or PEFT's pass itself."""
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear
from torch import nn

from adapters._fused_linear import FusedLinear, _LowRank, register_fused_linear


def layer(bias: bool = True, dtype: torch.dtype = torch.float32, **options) -> FusedLinear:
    """A layer of 12 -> 20 with two adapters of rank 3 that say something; the first is active."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 20, bias=bias)).requires_grad_(False).to(dtype)
    for name in ("a", "b"):
        config = LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": ["0"], "init_lora_weights": "gaussian", **options})
        inject_adapter_in_model(register_fused_linear(config), network, adapter_name=name)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape)
    network[0].set_adapter("a")
    assert type(network[0]) is FusedLinear
    return network[0]


def passed(module: FusedLinear, x: torch.Tensor, forward) -> list[torch.Tensor]:
    """Output, and the gradients of input, W_l and W_u."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    out = forward(module, x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out.detach(), x.grad, module.lora_A["a"].weight.grad, module.lora_B["a"].weight.grad]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 4, 12)])
def test_the_same_as_pefts(bias, shape):
    module, x = layer(bias), torch.randn(shape)
    assert module._plain(x) == "a"
    for ours, theirs in zip(passed(module, x, FusedLinear.forward), passed(module, x, Linear.forward), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_function():
    x, weight, bias, lower, upper = (torch.randn(s, dtype=torch.float64) for s in ((4, 6), (5, 6), (5,), (2, 6), (5, 2)))
    free = [t.requires_grad_() for t in (x, lower, upper)]
    assert torch.autograd.gradcheck(lambda x, a, b: _LowRank.apply(x, weight, bias, a, b, 0.5), free)


def test_sixteen_bits_are_within_their_rounding_of_pefts():
    module, x = layer(dtype=torch.bfloat16), torch.randn(64, 12, dtype=torch.bfloat16)
    ours, theirs = passed(module, x, FusedLinear.forward), passed(module, x, Linear.forward)
    assert [t.dtype for t in ours] == [t.dtype for t in theirs] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.float() - other.float()).norm() < 0.01 * other.float().norm()


def test_an_input_without_a_gradient_costs_none():
    module = layer()
    out = module(torch.randn(5, 12))
    out.sum().backward()
    assert module.lora_A["a"].weight.grad.abs().sum() > 0
    assert module.lora_B["a"].weight.grad.abs().sum() > 0


def test_an_adapter_that_says_nothing_changes_no_bit():
    module, x = layer(), torch.randn(64, 12)
    module.lora_B["a"].weight.data.zero_()
    assert torch.equal(module(x), module.get_base_layer()(x))


@pytest.mark.parametrize("why", ["off", "merged", "two", "none", "dropout", "dora", "dtype", "trained", "autocast"])
def test_whatever_it_does_not_say_is_left_to_peft(why):
    module = layer(**{"dropout": dict(lora_dropout=0.5), "dora": dict(use_dora=True)}.get(why, {}))
    module.eval()
    x = torch.randn(5, 12)
    if why == "off":
        module.enable_adapters(False)
    elif why == "merged":
        module.merge()
    elif why in ("two", "none"):
        module._active_adapter = ["a", "b"] if why == "two" else ["c"]
    elif why == "trained":
        module.get_base_layer().weight.requires_grad_()
    x = x.to(torch.bfloat16 if why == "dtype" else x.dtype)
    if why == "dtype":
        assert module._plain(x) is None
        return
    with torch.autocast("cpu", enabled=why == "autocast"):
        assert module._plain(x) is None
        assert torch.equal(module(x), Linear.forward(module, x))


def test_two_adapters_are_added():
    module, x = layer(), torch.randn(5, 12)
    alone = []
    for name in "ab":
        module.set_adapter(name)
        alone.append(module(x))
    module.set_adapter(["a", "b"])
    torch.testing.assert_close(module(x), sum(alone) - module.get_base_layer()(x))
