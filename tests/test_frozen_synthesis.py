"""The synthesis network with frozen weights: the plain one's images and gradients, whatever is asked of it."""

import itertools

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from test_stylegan2 import golden, normals

import generators
from generators.stylegan2 import StyleGAN2Config, StyleGAN2Network, _frozen, affine_names, fold_gains
from generators.stylegan2._frozen import FrozenSynthesis, supports
from generators.stylegan2._frozen_conv import freeze_layer, scales_weights, styled_convolution
from generators.stylegan2._layers import SynthesisLayer

TINY = dict(img_resolution=16, z_dim=8, w_dim=12, mapping_layers=2, channels={4: 8, 8: 6, 16: 4})


def make(seed=0, **options):
    """A network with biases and noise; all frozen."""
    network = StyleGAN2Network(StyleGAN2Config(**{**TINY, **options}), seed).requires_grad_(False)
    with torch.no_grad():
        for i, (name, value) in enumerate(network.named_parameters()):
            if name.endswith(("bias", "noise_strength")):
                value += 0.3 * normals(*value.shape, seed=i)
    return network


def add_adapters(network):
    """LoRA on every affine, that does something already."""
    inject_adapter_in_model(LoraConfig(r=2, target_modules=affine_names(network)), network)
    with torch.no_grad():
        for i, (name, value) in enumerate(network.named_parameters()):
            if "lora_B" in name:
                value += 0.2 * normals(*value.shape, seed=100 + i)
    return [p for p in network.parameters() if p.requires_grad]


def latents(network, n=2, seed=0):
    return normals(n, network.config.num_ws, network.config.w_dim, seed=seed)


def image_and_gradients(draw, ws, parameters, **options):
    image = draw(ws, **options)
    return image, torch.autograd.grad((image * normals(*image.shape, seed=5).to(image)).sum(), parameters)


def assert_same(draw, reference, ws, parameters, image_error=1e-4, gradient_error=1e-3, **options):
    ws = ws.clone().requires_grad_()
    image, gradients = image_and_gradients(draw, ws, [ws, *parameters], **options)
    expected, references = image_and_gradients(reference, ws, [ws, *parameters], **options)
    assert image.dtype == expected.dtype and image.shape == expected.shape
    torch.testing.assert_close(image, expected, atol=image_error, rtol=image_error)
    for gradient, correct in zip(gradients, references, strict=True):
        assert (gradient - correct).norm() <= gradient_error * correct.norm()


@pytest.fixture(params=["together", "one by one"])
def order(request, monkeypatch):
    """Both ways in which a batch passes: at these sizes it would always pass together."""
    if request.param == "one by one":
        monkeypatch.setattr(_frozen, "_ONE_BY_ONE", 4 * 16**2)


@pytest.mark.parametrize("architecture, noise_mode, conv_clamp", list(itertools.product(
    ["skip", "resnet", "orig"], ["const", "none"], [None, 0.5])))
def test_draws_what_the_plain_network_draws(architecture, noise_mode, conv_clamp, order):
    network = make(architecture=architecture, conv_clamp=conv_clamp)
    parameters = add_adapters(network)
    frozen = FrozenSynthesis(network.synthesis)
    assert_same(frozen, network.synthesis, latents(network, 3), parameters, noise_mode=noise_mode)
    assert len(parameters) == 2 * len(affine_names(network))


@pytest.mark.parametrize("options", [
    {"activation": "relu"}, {"activation": "linear"}, {"use_noise": False}, {"resample_filter": (1, 1)},
    {"resample_filter": (1, 2, 4, 1)}, {"resample_filter": (1, 2, 3, 3, 2, 1)}, {"resample_filter": (1, 2, 1)},
    {"img_resolution": 4, "channels": None, "channel_max": 6}, {"img_channels": 1},
])
def test_configurations(options, order):
    network = make(**options)
    assert_same(FrozenSynthesis(network.synthesis), network.synthesis, latents(network), add_adapters(network))


@pytest.mark.parametrize("n", [1, 2])
def test_single_channels_are_not_mistaken_for_another_layout(n, order):
    # In float64, since demodulation takes the scale out of a single channel's style: the gradients are tiny.
    network = make(channels={4: 1, 8: 1, 16: 1}).double()
    assert_same(FrozenSynthesis(network.synthesis), network.synthesis, latents(network, n).double(), [])


@pytest.mark.parametrize("n", [1, 2])
def test_batch_of_one_and_random_noise(n, order):
    network = make()
    frozen, ws = FrozenSynthesis(network.synthesis), latents(network, n)
    assert_same(frozen, network.synthesis, ws, add_adapters(network))
    for seed in (1, 2):
        images = [draw(ws, "random", torch.Generator().manual_seed(seed)) for draw in (frozen, network.synthesis)]
        torch.testing.assert_close(*images, atol=1e-4, rtol=1e-4)
    assert not torch.equal(frozen(ws, "random"), frozen(ws, "random"))


@pytest.mark.parametrize("name, stored", [("stylegan2-tiny", 0.0), ("stylegan2-ffhq256", 2.0**-11)])
def test_golden(name, stored):
    config, state, spec, arrays = golden(name)
    network = StyleGAN2Network(config, seed=0).requires_grad_(False)
    network.load_state_dict(fold_gains(state, config), strict=True)
    frozen, rng = FrozenSynthesis(network.synthesis), np.random.RandomState(spec["seed"])
    rng.standard_normal(arrays["z"].shape)
    expected = {key: torch.from_numpy(arrays[key]).float() for key in ("ws", "image_const", "image_none", "ws_grad")}
    ws = expected["ws"].requires_grad_()
    image = frozen(ws)
    torch.testing.assert_close(image, expected["image_const"], atol=3e-5, rtol=max(stored, 1e-5))
    probe = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))
    (gradient,) = torch.autograd.grad((image * probe).mean(), ws)
    assert (gradient - expected["ws_grad"]).abs().max() < 1e-3 * expected["ws_grad"].abs().max()
    with torch.no_grad():
        torch.testing.assert_close(frozen(ws, "none"), expected["image_none"], atol=3e-5, rtol=max(stored, 1e-5))


def test_bfloat16_convolutions_keep_the_image_and_the_gradients_direction(order):
    network = make(img_resolution=32, channels={4: 32, 8: 32, 16: 32, 32: 16})
    parameters, ws = add_adapters(network), latents(network, 4)
    expected, references = image_and_gradients(network.synthesis, ws, parameters)
    image, gradients = image_and_gradients(FrozenSynthesis(network.synthesis, torch.bfloat16), ws, parameters)
    assert image.dtype == torch.float32
    assert (image - expected).abs().mean() < 0.02 * expected.abs().mean()
    flat, correct = (torch.cat([g.flatten() for g in gs]) for gs in (gradients, references))
    assert torch.cosine_similarity(flat, correct, dim=0) > 0.99


def test_adapters_off_is_the_network_before_injection_bit_for_bit(order):
    network = make()
    frozen, ws = FrozenSynthesis(network.synthesis), latents(network)
    with torch.no_grad():
        before = frozen(ws)
        add_adapters(network)
        assert not torch.equal(frozen(ws), before)
        for module in network.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(False)
        assert torch.equal(frozen(ws), before)


@pytest.mark.parametrize("name", ["weight", "bias", "noise_strength", "noise_const"])
@pytest.mark.parametrize("change", ["in place", "replaced"])
def test_changed_weights_are_seen(name, change):
    network = make()
    frozen, ws, layer = FrozenSynthesis(network.synthesis), latents(network), network.synthesis.b8.conv0
    before, value = frozen(ws), getattr(layer, name)
    with torch.no_grad():
        if change == "in place":
            value.add_(1)
        elif name == "noise_const":
            layer.noise_const = value + 1
        else:
            setattr(layer, name, torch.nn.Parameter(value + 1, requires_grad=False))
    assert not torch.allclose(frozen(ws), before)
    torch.testing.assert_close(frozen(ws), network.synthesis(ws), atol=1e-4, rtol=1e-4)
    value.data.add_(1)
    frozen.reset()
    torch.testing.assert_close(frozen(ws), network.synthesis(ws), atol=1e-4, rtol=1e-4)


def test_the_rest_of_the_weights_is_read_at_every_call():
    network = make(architecture="resnet")
    frozen, ws = FrozenSynthesis(network.synthesis), latents(network)
    frozen(ws)
    network.load_state_dict(make(seed=1, architecture="resnet").state_dict())
    torch.testing.assert_close(frozen(ws), network.synthesis(ws), atol=1e-4, rtol=1e-4)
    network.double()
    torch.testing.assert_close(frozen(ws), network.synthesis(ws))


def test_computes_from_the_weights_only_once(monkeypatch):
    network, calls = make(), []
    monkeypatch.setattr(_frozen, "freeze_layer", lambda *a: calls.append(a) or freeze_layer(*a))
    frozen = FrozenSynthesis(network.synthesis)
    with torch.inference_mode():
        frozen(latents(network))
    frozen(latents(network).requires_grad_()).sum().backward()
    assert len(calls) == 5


def test_second_order_gradients_are_refused():
    network = make()
    ws = latents(network).requires_grad_()
    (gradient,) = torch.autograd.grad(FrozenSynthesis(network.synthesis)(ws).square().sum(), ws, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_falls_back_where_it_cannot_help():
    assert supports(StyleGAN2Config(img_resolution=8))
    assert not supports(StyleGAN2Config(img_resolution=8, resample_filter=(1, 2, 1)))
    network = make()
    frozen, ws, weight = FrozenSynthesis(network.synthesis), latents(network), network.synthesis.b8.conv0.weight
    weight.requires_grad_(True)
    frozen(ws).sum().backward()
    assert weight.grad.any()
    with torch.no_grad():                                       # nothing learns here, so nothing is lost
        assert not torch.equal(frozen(ws), network.synthesis(ws))
    with pytest.raises(ValueError, match="noise_mode='fixed'"):
        frozen(ws, "fixed")
    with pytest.raises(ValueError, match="ws has shape"):
        frozen(ws[:, 0])


def test_autocast_does_not_reach_it():
    network = make()
    frozen, ws = FrozenSynthesis(network.synthesis), latents(network)
    with torch.autocast("cpu", torch.bfloat16):
        image = frozen(ws)
    assert torch.equal(image, frozen(ws))
    generator = generators.load("stylegan2-scenes@16k")
    state = generator.prepare(generator.sample(range(2)))
    with generator.thawed(), torch.no_grad():                   # where its own weights learn, it is another road
        plain = generator.forward(state)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(generator.forward(state), plain)


@pytest.mark.parametrize("up, n, clamped, draws, noisy", [
    (up, n, clamped, draws, noisy)
    for up, n in itertools.product([False, True], [1, 2])
    for clamped, draws, noisy in [(False, False, False), (False, True, True), (True, False, True), (True, True, False)]
])
def test_gradients_match_finite_differences(up, n, clamped, draws, noisy):
    layer = SynthesisLayer(3, 1, 4, 8, up, (1, 3, 3, 1), "lrelu", None, True).double().requires_grad_(False)
    layer.weight.copy_(normals(1, 3, 3, 3))
    layer.bias.fill_(0.3)
    frozen = freeze_layer(layer, torch.float64)
    side = 4 if up else 8
    x = normals(n, 3, side, side, seed=1).double()
    assert scales_weights(x, frozen) == (n == 1)
    positive = normals(n, 1, seed=2).double().abs() + 0.5
    inputs = [x, normals(n, 3, seed=3).double(), positive]
    inputs += [2 * positive if clamped else None, normals(n, 2, 1, seed=4).double() if draws else None]
    noise = normals(n, 1, 64, seed=6).double() if noisy else None

    def run(*inputs):
        return tuple(y for y in styled_convolution(frozen, *inputs, noise) if y is not None)

    for value in inputs:
        if value is not None:
            value.requires_grad_()
    assert torch.autograd.gradcheck(run, inputs)
    if clamped:
        u = run(*inputs)[0]
        assert (u.abs() == inputs[3][:, :, None, None]).any() and (u.abs() < inputs[3][:, :, None, None]).any()


def test_styles_of_zero():
    network = make()
    with torch.no_grad():
        network.synthesis.b16.conv1.affine.weight[1] = 0
        network.synthesis.b16.conv1.affine.bias[1] = 0
    parameters = [network.synthesis.b16.conv1.affine.weight.requires_grad_()]
    assert_same(FrozenSynthesis(network.synthesis), network.synthesis, latents(network, 1), parameters)
