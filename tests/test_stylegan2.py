"""StyleGAN2 against the reference's numbers, the paper's equations, and itself."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from generators.stylegan2 import (
    StyleGAN2Config,
    StyleGAN2Network,
    affine_names,
    affine_resolutions,
    fold_gains,
    initialise,
    learning_rate_scales,
)
from generators.stylegan2._layers import SynthesisLayer, conv_up2d, filter_kernel, fold_filter, upsample2d

GOLDEN = Path(__file__).parent / "golden"
SMALL = dict(img_resolution=16, z_dim=8, w_dim=12, mapping_layers=2, channels={4: 8, 8: 6, 16: 4})
FFHQ256 = StyleGAN2Config(img_resolution=256)


def golden(name):
    """The configuration, raw state, and arrays of a golden file."""
    fill = runpy.run_path(str(GOLDEN / "fill.py"))["fill"]
    spec = json.loads((GOLDEN / f"{name}.json").read_text())
    options = dict(spec["kwargs"])
    options["mapping_layers"] = options.pop("mapping_kwargs")["num_layers"]
    options |= options.pop("synthesis_kwargs")
    state = {key: torch.as_tensor(fill(key, shape)) for key, shape in spec["state"].items()}
    return StyleGAN2Config.from_dict(options), state, spec, np.load(GOLDEN / f"{name}.npz")


def small(seed=0, **options):
    network = StyleGAN2Network(StyleGAN2Config(**{**SMALL, **options}), seed)
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    return network


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# float16 keeps 11 bits: half a unit in the last place is 2^-12 of the next power of two, at most 2^-11 of the value.
@pytest.mark.parametrize("name, stored", [("stylegan2-tiny", 0.0), ("stylegan2-ffhq256", 2.0**-11)])
def test_golden(name, stored):
    config, state, spec, arrays = golden(name)
    network = StyleGAN2Network(config, seed=0)
    network.load_state_dict(fold_gains(state, config), strict=True)
    assert sum(p.numel() for p in network.parameters()) == spec["parameters"]
    keys = ("z", "ws", "image_const", "image_none", "ws_grad")
    expected = {key: torch.from_numpy(arrays[key]).float() for key in keys}

    ws = network.mapping(expected["z"], truncation_psi=spec["truncation_psi"])
    torch.testing.assert_close(ws, expected["ws"], atol=1e-5, rtol=0)

    rng = np.random.RandomState(spec["seed"])
    rng.standard_normal(expected["z"].shape)
    ws = expected["ws"].requires_grad_()
    image = network.synthesis(ws, noise_mode="const")
    torch.testing.assert_close(image, expected["image_const"], atol=3e-5, rtol=stored)
    probe = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))
    (gradient,) = torch.autograd.grad((image * probe).mean(), ws)
    assert (gradient - expected["ws_grad"]).abs().max() < 1e-3 * expected["ws_grad"].abs().max()
    with torch.no_grad():
        image = network.synthesis(ws, noise_mode="none")
    torch.testing.assert_close(image, expected["image_none"], atol=3e-5, rtol=stored)


def test_fold_gains_folds_each_run_time_gain():
    config = StyleGAN2Config(**SMALL, c_dim=3, embed_dim=5, architecture="resnet")
    network = StyleGAN2Network(config, seed=0)
    raw = {name: torch.ones_like(value) for name, value in network.state_dict().items()}
    raw["synthesis.b8.resample_filter"] = torch.ones(4, 4)
    folded = fold_gains(raw, config)
    network.load_state_dict(folded, strict=True)
    expected = {
        "mapping.fc0.weight": 0.01 / (8 + 5) ** 0.5,
        "mapping.fc1.weight": 0.01 / 12**0.5,
        "mapping.fc1.bias": 0.01,
        "mapping.embed.weight": 3**-0.5,
        "mapping.embed.bias": 1,
        "synthesis.b8.conv0.affine.weight": 12**-0.5,
        "synthesis.b8.conv0.affine.bias": 1,
        "synthesis.b16.torgb.affine.weight": (12 * 4) ** -0.5,
        "synthesis.b16.torgb.affine.bias": 4**-0.5,
        "synthesis.b16.skip.weight": 6**-0.5,
        "synthesis.b16.conv1.weight": 1,
    }
    for name, gain in expected.items():
        torch.testing.assert_close(folded[name], torch.full_like(folded[name], gain), msg=name)
    with pytest.raises(KeyError, match=r"synthesis\.b32\.conv0\.weight.*no entry of a 16px"):
        fold_gains({"synthesis.b32.conv0.weight": torch.ones(1)}, config)


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 1), (1, 2, 1), (1, 2, 3, 5), (1, 4, 6, 4, 1)])
def test_resampling_is_zero_insertion_filter_convolution(taps):
    x, weight, kernel, t = normals(2, 3, 5, 5), normals(4, 3, 3, 3, seed=1), filter_kernel(taps), len(taps)
    zeros = torch.zeros(2, 3, 10, 10)
    zeros[:, :, ::2, ::2] = x
    depthwise = kernel.flip(0, 1).expand(3, 1, t, t)
    left, right = (t + 1) // 2, (t - 2) // 2
    expected = F.conv2d(F.pad(zeros, (left, right) * 2), depthwise, groups=3)
    torch.testing.assert_close(upsample2d(x, kernel), expected)
    wider = F.conv2d(F.pad(zeros, (left + 1, right + 1) * 2), depthwise, groups=3)
    expected = F.conv2d(wider, weight.flip(2, 3))
    torch.testing.assert_close(conv_up2d(x, weight, kernel), expected, atol=1e-5, rtol=1e-5)
    folded = F.conv_transpose2d(x, fold_filter(weight, kernel).transpose(0, 1), stride=2, padding=t // 2)
    torch.testing.assert_close(folded[:, :, :10, :10], expected, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(conv_up2d(x, weight, kernel).float(), expected, atol=0.2, rtol=0.02)


def layer(**options):
    made = SynthesisLayer(
        **{
            **dict(in_channels=6, out_channels=5, w_dim=7, resolution=8, up=False, taps=(1, 3, 3, 1)),
            **dict(activation="lrelu", conv_clamp=None, use_noise=True),
            **options,
        }
    )
    for i, value in enumerate([*made.parameters(), *made.buffers()]):
        value.data.copy_(normals(*value.shape, seed=i))
    return made


@pytest.mark.parametrize("activation", ["lrelu", "relu", "linear"])
def test_layer_follows_the_equations(activation):
    made, x, w = layer(activation=activation, conv_clamp=2.0), normals(2, 6, 8, 8), normals(2, 7, seed=1)
    styles = made.affine(w)
    weights = made.weight * styles[:, None, :, None, None]                                   # eq. 1
    weights = weights / (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()        # eq. 3
    expected = torch.cat([F.conv2d(x[i : i + 1], weights[i], padding=1) for i in range(2)])
    expected = expected + made.noise_strength * made.noise_const + made.bias[:, None, None]
    nonlinearity = {"lrelu": lambda y: F.leaky_relu(y, 0.2) * 2**0.5, "relu": lambda y: y.relu() * 2**0.5}
    expected = nonlinearity.get(activation, lambda y: y)(expected).clamp(-2, 2)
    torch.testing.assert_close(made(x, w), expected, atol=1e-5, rtol=1e-5)


def test_half_precision_survives_styles_and_weights_beyond_its_range():
    made, x, w = layer(use_noise=False), normals(2, 6, 8, 8), normals(2, 7, seed=1)
    made.weight.data *= 1e5
    made.affine.weight.data *= 1e6
    torch.testing.assert_close(made(x.half(), w).float(), made(x, w), atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("options", [{}, {"c_dim": 3}, {"c_dim": 3, "embed_dim": 5}, {"mapping_dim": 20}])
def test_mapping_shapes(options):
    network = small(**options)
    c = F.one_hot(torch.tensor([0, 2]), 3).float() if "c_dim" in options else None
    assert network.mapping(normals(2, 8), c).shape == (2, 6, 12)
    assert network(normals(2, 8), c).shape == (2, 3, 16, 16)
    if c is not None:
        assert network.mapping.fc0.in_features == 8 + options.get("embed_dim", 12)
        assert not torch.equal(network.mapping(normals(2, 8), c), network.mapping(normals(2, 8), c.roll(1, 0)))


def test_mapping_ignores_the_length_of_z_and_autocast():
    mapping, z = small().mapping, normals(2, 8)
    torch.testing.assert_close(mapping(z), mapping(5 * z))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mapping(z), small().mapping(z))


def test_truncation():
    network = small()
    network.mapping.update_w_avg(network.mapping(normals(64, 8, seed=9))[:, 0])
    z = normals(3, 8)
    with torch.no_grad():
        images = network(z, truncation_psi=0)
        mean = network.synthesis(network.mapping.w_avg.expand(1, 6, 12))
    torch.testing.assert_close(images, mean.expand_as(images))
    ws, cut = network.mapping(z), network.mapping(z, truncation_psi=0.5, truncation_cutoff=2)
    assert torch.equal(cut[:, 2:], ws[:, 2:])
    torch.testing.assert_close(cut[:, :2], (ws[:, :2] + network.mapping.w_avg) / 2)


def test_update_w_avg_is_the_only_thing_that_moves_the_mean():
    mapping = small(w_avg_beta=0.9).mapping
    w = mapping(normals(4, 8))[:, 0]
    assert mapping.w_avg.abs().max() == 0
    mapping.update_w_avg(w)
    torch.testing.assert_close(mapping.w_avg, 0.1 * w.detach().mean(0))


def test_noise_modes():
    network, ws = small(), small().mapping(normals(2, 8)).detach()

    def draw(mode, seed=None):
        return network.synthesis(ws, mode, None if seed is None else torch.Generator().manual_seed(seed))

    assert torch.equal(draw("const"), draw("const"))
    assert torch.equal(draw("random", 1), draw("random", 1))
    assert not torch.equal(draw("random", 1), draw("random", 2))
    assert not torch.equal(draw("const"), draw("none"))
    silent = small(use_noise=False)
    assert not any("noise" in name for name in silent.state_dict())
    assert torch.equal(silent.synthesis(ws, "const"), silent.synthesis(ws, "none"))


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("resolution", [4, 16])
def test_every_parameter_gets_a_gradient(architecture, resolution):
    network = small(architecture=architecture, img_resolution=resolution, channels=None, channel_max=6, conv_clamp=256)
    image = network(normals(2, 8))
    assert image.shape == (2, 3, resolution, resolution) and image.std() > 0
    image.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert len(affine_names(network)) == len(list(affine_resolutions(network)))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_second_order_gradients(autocast, channels_last):
    network = small()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    ws = network.mapping(normals(2, 8))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        image = network.synthesis(ws)
    assert image.dtype == torch.float32
    # Path length (StyleGAN2, eq. 4), and a penalty on the image's own scale as R1's gradient reaches it.
    (path,) = torch.autograd.grad((image * normals(*image.shape) / 16).sum(), ws, create_graph=True)
    (power,) = torch.autograd.grad(image.square().sum(), ws, create_graph=True)
    (path.square().sum(2).mean(1).sqrt().square().mean() + power.square().mean()).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert len(gradients) > 30 and all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradients[f"{name}.weight"].any() for name in affine_names(network))


def test_gradients_match_finite_differences():
    network = small(img_resolution=8, channels=None, channel_max=3, w_dim=4).double()
    ws = network.mapping(normals(1, 8).double()).detach().requires_grad_()
    assert torch.autograd.gradcheck(network.synthesis, (ws,))
    assert torch.autograd.gradgradcheck(network.synthesis, (ws,))


def test_bfloat16_and_channels_last_draw_the_same_image():
    network, z = small(), normals(2, 8)
    with torch.no_grad():
        expected = network(z)
        network = network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(z), expected, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert (network(z) - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_initialise_is_reproducible_and_scaled():
    one, two, other = small(seed=3).state_dict(), small(seed=3).state_dict(), small(seed=4).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["synthesis.b8.conv0.weight"], other["synthesis.b8.conv0.weight"])
    network = small(seed=4)
    initialise(network, 3)
    assert torch.equal(network.state_dict()["synthesis.b4.const"], one["synthesis.b4.const"])
    network = StyleGAN2Network(StyleGAN2Config(img_resolution=8, channel_max=64, z_dim=256, w_dim=128), seed=0)
    state = network.state_dict()
    assert state["mapping.fc0.weight"].std() == pytest.approx(256**-0.5, rel=0.02)
    assert state["synthesis.b8.conv1.affine.weight"].std() == pytest.approx(128**-0.5, rel=0.05)
    assert state["synthesis.b8.conv1.weight"].std() == pytest.approx(1, rel=0.02)
    assert (state["synthesis.b8.conv1.affine.bias"] == 1).all()
    assert torch.allclose(state["synthesis.b8.torgb.affine.bias"], torch.tensor(64**-0.5))
    assert not state["mapping.fc0.bias"].any() and not state["synthesis.b8.conv1.noise_strength"].any()


def test_learning_rate_scales_are_the_gains_of_every_parameter():
    network = small(c_dim=3, architecture="resnet")
    scales = learning_rate_scales(network)
    assert set(scales) == {name for name, _ in network.named_parameters()}
    folded = fold_gains({name: torch.ones(()) for name in scales}, network.config)
    assert scales == pytest.approx({name: value.item() for name, value in folded.items()})


def test_lora_on_every_affine_counts_as_in_the_paper():
    from peft import LoraConfig, inject_adapter_in_model

    with torch.device("meta"):
        network = StyleGAN2Network(FFHQ256)
    names = affine_names(network)
    assert names[:3] == ["synthesis.b4.conv1.affine", "synthesis.b4.torgb.affine", "synthesis.b8.conv0.affine"]
    assert len(names) == 2 + 6 * 3 and affine_resolutions(network)["synthesis.b256.torgb.affine"] == 256
    with torch.device("meta"):
        inject_adapter_in_model(LoraConfig(r=8, target_modules=names), network)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 141_312


def test_lora_adapts_the_affines_as_they_are():
    from peft import LoraConfig, inject_adapter_in_model

    network, z = small(), normals(2, 8)
    before = network(z).detach()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=affine_names(network)), network)
    assert torch.equal(network(z), before)
    network(z).square().mean().backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert len(trained) == 2 * 8 and sum(bool(p.grad.any()) for p in trained) == 8


def test_config_round_trip_and_widths():
    config = StyleGAN2Config(**SMALL, conv_clamp=256.0, num_fp16_res=2)
    assert StyleGAN2Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    pairs = {**SMALL, "channels": ((16, 4), (8, 6), (4, 8))}
    assert hash(config) == hash(StyleGAN2Config(**pairs, conv_clamp=256.0, num_fp16_res=2))
    assert [config.uses_fp16(r) for r in config.resolutions] == [False, True, True]
    assert [FFHQ256.channels_at(r) for r in FFHQ256.resolutions] == [512, 512, 512, 512, 256, 128, 64]
    assert FFHQ256.num_ws == 14 and [FFHQ256.first_ws(r) for r in (4, 8, 16)] == [0, 1, 3]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"img_resolution": 100}, "img_resolution=100.*power of two.*img_resolution=128"),
        ({"img_resolution": 2}, "power of two >= 4"),
        ({"architecture": "unet"}, "architecture='unet': expected one of 'skip', 'resnet', 'orig'"),
        ({"activation": "swish"}, "activation='swish'"),
        ({"channels": {24: 8}}, "resolutions among 4, 8, 16"),
        ({"resample_filter": (1,)}, "resample_filter"),
        ({"w_dim": 0}, "w_dim=0"),
    ],
)
def test_config_errors_say_what_to_type(options, message):
    with pytest.raises(ValueError, match=message):
        StyleGAN2Config(**{**SMALL, "channels": None, **options})


def test_errors_name_the_argument():
    network = small(c_dim=3)
    with pytest.raises(ValueError, match="unknown StyleGAN2 option 'fmap_base'; known options: img_resolution"):
        StyleGAN2Config.from_dict({"img_resolution": 8, "fmap_base": 1})
    with pytest.raises(ValueError, match="needs img_resolution"):
        StyleGAN2Config.from_dict({})
    with pytest.raises(ValueError, match=r"z has shape \[2, 9\], expected \[N, 8\]"):
        network(normals(2, 9))
    with pytest.raises(ValueError, match="c is missing"):
        network(normals(2, 8))
    with pytest.raises(ValueError, match=r"ws has shape \[2, 12\], expected \[N, 6, 12\]"):
        network.synthesis(normals(2, 12))
    with pytest.raises(ValueError, match="noise_mode='fixed'"):
        network.synthesis(normals(2, 6, 12), noise_mode="fixed")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"conv_clamp": 0.5}, {"architecture": "resnet"}, {"resample_filter": (1, 2, 1)}])
def test_compiled_ops_draw_the_same_with_the_same_gradients(options, monkeypatch):
    """The network on `generators.ops` as C++ (what a GPU runs as CUDA) against plain torch, to second order."""
    network = StyleGAN2Network(
        StyleGAN2Config(img_resolution=32, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16, **options),
        seed=0,
    )
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    ws = network.mapping(torch.randn(2, 16, generator=torch.Generator().manual_seed(0))).detach().requires_grad_()
    results = []
    for mode in ("torch", "cpu"):
        monkeypatch.setenv("PROBES_OPS", mode)
        image = network.synthesis(ws)
        (first,) = torch.autograd.grad((image * torch.arange(32)).mean(), ws, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), ws)
        results.append((image, first, second))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, atol=2e-6 * plain.abs().max().item(), rtol=1e-4)
