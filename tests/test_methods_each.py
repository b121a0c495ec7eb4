"""What each method beside LoRA is alone in, and the variants of LoRA."""
import copy

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES
from methods import KINDS, Shelf, build, drawn, emitted, fit

import adapters
from adapters._pixels import DILATIONS, PictureNetwork

SHELF = Shelf()


@pytest.fixture
def made():
    yield SHELF
    SHELF.clear()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rank", [2, 8])
def test_pixels_has_the_size_of_the_lora(family, rank):
    generator = FAMILIES[family][0]()
    pixels = adapters.build("pixels", generator, "a", rank=rank)
    assert abs(pixels.size / adapters.lora_size(generator, rank=rank) - 1) <= 0.05
    assert pixels.output_space == "pixels"


def test_pixels_sees_far_and_nothing_but_the_picture(made):
    network = PictureNetwork(4, 30).requires_grad_(False)
    for parameter in network.parameters():
        parameter.uniform_(0.1, 0.2)
    image = torch.zeros(1, 3, 65, 65, requires_grad=True)
    network(image)[0, :, 32, 32].sum().backward()
    reached = image.grad[0].abs().sum(0).nonzero()
    assert reached.min().item() == 32 - 23 and reached.max().item() == 32 + 23 and 2 * (1 + sum(DILATIONS)) + 1 == 47
    generator, pairs = made("stylegan2")
    adapter, state = build(generator, "pixels"), pairs.state(slice(0, 1))
    fit(adapter, pairs, 3)
    with adapter.active():
        assert torch.equal(adapter.forward(state), adapter.network(generator.image(state)))
    with pytest.raises(ValueError, match="rank: the LoRA that this is measured by has 64 parameters"):
        adapters.build("pixels", generator, "b", rank=1, scope="affine@4")
    with torch.no_grad():                   # sizes that patches do not divide
        assert PictureNetwork(4, 30, patch=4)(torch.zeros(1, 3, 30, 37)).shape == (1, 3, 30, 37)


@pytest.mark.parametrize("family", ["stylegan2", "stylegan-xl"])
def test_offset_adds_what_it_says(family, made):
    generator, pairs = made(family)
    state, shift = pairs.state(slice(0, 2)), torch.linspace(-1, 1, 16)
    adapter = build(generator, "offset")
    adapter.load_state({"offset": shift})
    with torch.no_grad():
        wanted = generator.forward({"w": state["w"] + shift})
    assert torch.equal(emitted(adapter, pairs), wanted)
    layered = adapters.build("offset", generator, "b", options=dict(per_layer=True))
    assert layered.size == 16 * generator.latent_layers
    layered.load_state({"offset": shift.expand(generator.latent_layers, -1)})
    torch.testing.assert_close(emitted(layered, pairs), wanted, atol=1e-5, rtol=1e-5)
    one = torch.zeros(generator.latent_layers, 16)
    one[-1] = shift
    layered.load_state({"offset": one})
    assert not torch.allclose(emitted(layered, pairs), wanted, atol=1e-3)
    with pytest.raises(ValueError, match="per_position: w of tiny is a vector"):
        adapters.build("offset", generator, "c", options=dict(per_position=True))


def test_offset_of_codes_is_one_number_a_channel_or_a_position(made):
    generator, pairs = made("vqgan")
    shift = torch.linspace(-1, 1, 8).view(8, 1, 1)
    adapter, everywhere = build(generator, "offset"), adapters.build("offset", generator, "b", options=dict(per_position=True))
    assert everywhere.size == pairs.states["codes"][0].numel()
    adapter.load_state({"offset": shift})
    everywhere.load_state({"offset": shift.expand_as(pairs.states["codes"][0])})
    with torch.no_grad():
        wanted = generator.forward({"codes": pairs.states["codes"][:2] + shift})
    assert torch.equal(emitted(adapter, pairs), wanted) and torch.equal(emitted(everywhere, pairs), wanted)
    with pytest.raises(ValueError, match="per_layer: tiny reads codes in one place"):
        adapters.build("offset", generator, "c", options=dict(per_layer=True))


@pytest.mark.parametrize("family", KINDS)
def test_linear_is_linear_in_the_features_and_sends_no_gradient_into_them(family, made):
    generator, pairs = made(family)
    adapter, state = build(generator, "linear"), pairs.state(slice(0, 3))
    fit(adapter, pairs, 3, 0.05)
    with adapter.active(train=True):
        prediction, target = adapter.regress(*pairs.lesson(slice(0, 3)))
        prediction.square().mean().backward()
    assert all(p.grad is None for p in generator.network.parameters())
    assert all(p.grad is not None for p in adapter.parameters().values())
    by_hand = 0.0                           # the long way: features to the output's size first, then the map
    for site, value in adapter._features(state)[0].items():
        own = adapter.state()
        value = (value - own[f"{site}.mean"][:, None, None]) / own[f"{site}.deviation"][:, None, None]
        value = F.interpolate(value, target.shape[2:], mode="bilinear", align_corners=False)
        by_hand = by_hand + F.conv2d(value, own[f"{site}.weight"], own[f"{site}.bias"])
    torch.testing.assert_close(prediction.detach(), by_hand, atol=1e-4, rtol=1e-4)


def test_a_linear_map_of_the_features_is_found_before_the_first_step(made):
    generator, pairs = made("stylegan2")
    truth, probe = (adapters.build("linear", generator, name) for name in "ab")
    state, _ = pairs.lesson(slice(0, 8))
    generator_of = torch.Generator().manual_seed(0)
    with truth.active():
        truth.calibrate(*pairs.lesson(slice(0, 8)))
        for value in truth.parameters().values():
            value.data.copy_(torch.randn(value.shape, generator=generator_of) * 0.1)
        target = truth.forward(state)
    target[:2, :, :, :5] = torch.nan                          # what has no value has no say
    with probe.active():
        probe.calibrate(state, target)
        said = probe.forward(state)
    rest = (said - target).nan_to_num(0.0).square().mean() / (target - target.nanmean()).nan_to_num(0.0).square().mean()
    assert rest < 0.03 and torch.isfinite(said).all()
    for adapter in (truth, probe):
        adapters.detach(adapter)


def test_linear_on_one_layer_by_name_or_number(made):
    generator, pairs = made("stylegan2")
    sites = generator.feature_sites()
    assert sites[0] == "synthesis.b4.conv1" and sites[-1] == "synthesis.b32.conv1"
    by_name = adapters.build("linear", generator, "a", options=dict(layers=sites[2]))
    by_number = adapters.build("linear", generator, "b", options=dict(layers=2))
    assert by_name.site_names == by_number.site_names == [sites[2]]
    assert adapters.build("linear", generator, "c", options=dict(layers="-1")).site_names == [sites[-1]]
    with pytest.raises(ValueError, match="layers: expected a number in -7 … 6, got 7"):
        adapters.build("linear", generator, "d", options=dict(layers=7))
    with pytest.raises(ValueError, match="layers: unknown name '--1'"):
        adapters.build("linear", generator, "d", options=dict(layers="--1"))
    with pytest.raises(ValueError, match="layers.*did you mean 'synthesis.b8.conv1'"):
        adapters.build("linear", generator, "d", options=dict(layers="synthesis.b8.conv2"))
    multi = FAMILIES["stable-diffusion-multi"][0]()
    with pytest.raises(ValueError, match="mode 'multi' samples in several"):
        adapters.build("linear", multi, "a")


@pytest.mark.parametrize("family", KINDS)
def test_full_reaches_every_weight_and_only_within_its_block(family, made):
    generator, pairs = made(family)
    with generator.prompted("shading"):
        before = drawn(generator, pairs)
    lora = adapters.attach(generator, "lora", rank=2)           # moves modules: names and weights must not care
    adapter = build(generator, "full")
    with adapter.active():
        torch.testing.assert_close(drawn(generator, pairs), before, atol=2e-5, rtol=2e-4)
    with adapter.active(train=True):
        adapter.regress(*pairs.lesson(slice(0, 2)))[0].square().mean().backward()
    reached = [k for k, p in adapter.parameters().items() if p.grad is not None]
    assert len(reached) == len(adapter.parameters())
    with torch.no_grad():
        for value in adapter.parameters().values():
            value.mul_(1.1)
    with adapter.active():
        assert not torch.allclose(drawn(generator, pairs), before, atol=1e-3)
    with generator.prompted("shading"):
        assert torch.equal(drawn(generator, pairs), before)
    adapters.detach(lora)
    with adapter.active():
        assert not torch.allclose(drawn(generator, pairs), before, atol=1e-3)


def test_lora_variants_are_pefts_own_files(made):
    """PEFT alone, given the files, computes what the probe emits."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    for name in ("lora-dora", "lora-pissa", "lora-olora", "lora-rslora"):
        generator, pairs = made("stable-diffusion")
        adapter = build(generator, name)
        fit(adapter, pairs, 4, 0.05)
        tensors, config = adapter.file()
        wanted = emitted(adapter, pairs)
        adapters.detach(adapter)
        other = copy.deepcopy(generator)
        inject_adapter_in_model(LoraConfig(**{k: v for k, v in config.items() if k in (
            "r", "lora_alpha", "target_modules", "use_dora", "use_rslora")}), other.network, "default")
        tensors = {k.removeprefix("base_model.model."): v for k, v in tensors.items()}
        result = set_peft_model_state_dict(other.network, tensors)
        assert not result.unexpected_keys
        with torch.no_grad(), other.prompted("shading"):
            found = other.to_image(other.forward(pairs.state(slice(0, 2))))
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)


def test_variants_that_cannot_be_are_refused(made):
    generator, _ = made("stylegan2")
    before = {k: v.clone() for k, v in generator.base_state().items()}
    for more, message in ((dict(init="pisa"), "init.*did you mean 'pissa'"),
                          (dict(init="pissa", rank=32), "rank: 'pissa' starts"),
                          (dict(init="orthogonal", rank=3), "even rank, got 3; choose 4"),
                          (dict(dora=True, init="pissa"), "init: dora keeps")):
        with pytest.raises(ValueError, match=message):
            adapters.attach(generator, "a", **more)
    decoder, _ = made("vqgan")
    with pytest.raises(ValueError, match="init: 'olora' is for Linear layers"):
        adapters.attach(decoder, "a", "decoder", init="olora")
    assert not adapters.names_on(generator) and not adapters.names_on(decoder)
    assert all(torch.equal(v, before[k]) for k, v in generator.base_state().items())


def test_words_learn_through_the_text_encoder(made):
    generator, pairs = made("stable-diffusion")
    words = generator.words("surface normal")
    assert words.shape == (2, 16)
    with torch.no_grad(), generator.prompted("surface normal"):
        plain = generator.context(1)
    with torch.no_grad(), generator.prompted("depth", words, instead=True):      # the words themselves, as vectors
        torch.testing.assert_close(generator.context(1), plain)
    with torch.no_grad(), generator.prompted("surface", words[1:]):              # behind another
        torch.testing.assert_close(generator.context(1), plain)
    with generator.prompted("surface", words), torch.no_grad():
        torch.testing.assert_close(generator.context(1, "surface normal"), plain)       # guidance's other prompt
    with pytest.raises(ValueError, match="5 vectors and 0 words .* 6 places.*at most 4"):
        adapters.build("token", generator, "a", "shading", dict(tokens=5))
    with pytest.raises(ValueError, match="tiny reads no text"):
        adapters.build("token", made("stylegan2")[0], "a")
