"""The methods beside LoRA: one table, families × methods, for what all of them promise."""
import json

import pytest
import safetensors.torch
import torch
from methods import KINDS, METHODS, Shelf, build, drawn, emitted, fit, loss

import adapters
from adapters._base import names_on

# LoRA's variants where its layers are all Linear and quick; the others everywhere.
TABLE = [(family, name) for family in KINDS for name in METHODS
         if (name != "token" or family == "stable-diffusion")
         and (family in ("stylegan2", "stable-diffusion") or "-" not in name)]
SHELF = Shelf()


@pytest.fixture
def made():
    yield SHELF
    SHELF.clear()


@pytest.mark.parametrize(("family", "name"), TABLE)
def test_it_learns_off_is_the_base_and_saved_is_loaded(family, name, made):
    generator, pairs = made(family)
    before, weights = drawn(generator, pairs), generator.base_state()
    fingerprint, kept = generator.fingerprint, {k: v.clone() for k, v in weights.items()}
    adapter = build(generator, name)
    with adapter.active():
        adapter.calibrate(*pairs.lesson(slice(0, 8)))
    first = loss(adapter, pairs)
    fit(adapter, pairs, rate=METHODS[name][1])
    assert loss(adapter, pairs) < METHODS[name][2] * first
    assert torch.equal(drawn(generator, pairs), before)
    after = emitted(adapter, pairs)
    assert after.shape == (2, 3, generator.resolution, generator.resolution)
    assert torch.equal(drawn(generator, pairs), before)
    assert all(torch.equal(v, kept[k]) for k, v in generator.base_state().items())
    del generator._fingerprint
    assert generator.fingerprint == fingerprint
    assert not any(p.requires_grad for p in (*generator.network.parameters(), *adapter.parameters().values()))

    tensors, config = adapter.file()
    stored = safetensors.torch.load(safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}))
    json.dumps(config, default=str)
    again = build(generator, name, as_="b", sites=adapter.site_names)
    again.load_file(stored)
    torch.testing.assert_close(emitted(again, pairs), after, rtol=0, atol=0)
    adapters.detach(adapter)
    assert torch.equal(emitted(again, pairs), after)                    # each is by itself
    adapters.detach(again)
    assert not adapters.names_on(generator) and torch.equal(drawn(generator, pairs), before)


@pytest.mark.parametrize("name", ["lora-pissa", "full", "linear", "offset", "pixels", "token"])
def test_interrupted_and_taken_up_is_the_same(name, made, tmp_path):
    generator, pairs = made("stable-diffusion" if name == "token" else "stylegan2")
    straight = build(generator, name, as_="straight")
    fit(straight, pairs, 24, METHODS[name][1])

    class Killed(BaseException):
        pass

    def stop(step, value):
        if step == 21:
            raise Killed

    path, broken = tmp_path / "state", build(generator, name, as_="broken")
    with pytest.raises(Killed):
        fit(broken, pairs, 24, METHODS[name][1], state_path=path, save_every=0.0, progress=stop)
    taken_up = build(generator, name, as_="taken-up")
    fit(taken_up, pairs, 24, METHODS[name][1], state_path=path)
    wanted = straight.state()
    assert all(torch.equal(value, wanted[k]) for k, value in taken_up.state().items())
    assert any(not torch.equal(value, wanted[k]) for k, value in broken.state().items())
    for adapter in (straight, broken, taken_up):
        adapters.detach(adapter)


@pytest.mark.parametrize("family", KINDS)
def test_what_is_trained_is_counted_exactly(family, made):
    generator, _ = made(family)
    lora = adapters.attach(generator, "lora", rank=3)
    assert adapters.lora_size(generator, rank=3) == lora.size
    adapters.detach(lora)
    full = build(generator, "full")
    own = [v for part in generator.body for v in generator.network.get_submodule(part).parameters()]
    assert full.size == sum(v.numel() for v in own)
    linear = build(generator, "linear", as_="linear")
    outputs = 4 if family == "stable-diffusion" else 3
    widths = [v.shape[1] for v in linear._features(generator.example())[0].values()]
    assert len(widths) == len(generator.feature_sites()) >= 5 and linear.size == sum(outputs * (w + 1) for w in widths)
    wanted = {"stylegan2": 16, "stylegan-xl": 16, "vqgan": 8, "stable-diffusion": 4}[family]
    assert build(generator, "offset", as_="offset").size == wanted


def test_lora_sizes_of_convolutions_are_counted(made):
    generator, _ = made("vqgan")
    lora = adapters.attach(generator, "convolutions", "decoder", rank=3)
    assert adapters.lora_size(generator, "decoder", 3) == lora.size
    adapters.detach(lora)


def test_what_could_not_be_made_leaves_its_name(made):
    generator, _ = made("stylegan2")
    with pytest.raises(ValueError, match="layers") as kept:         # and with it the traceback
        adapters.build("linear", generator, "x", options=dict(layers="nothing"))
    assert "x" not in names_on(generator) and kept.value is not None
    adapters.detach(adapters.build("offset", generator, "x"))


@pytest.mark.parametrize(("family", "site"), [("stylegan2", "mapping.fc0"), ("stable-diffusion", "vae.quant_conv")])
def test_sites_that_only_the_prefix_runs_are_refused(family, site, made):
    generator, _ = made(family)
    assert generator.network.get_submodule(site) is not None
    with pytest.raises(ValueError, match=rf"sites: {site} is no part of what {generator.name} draws with .*choose sites"):
        adapters.attach(generator, "x", sites=[site])
    with pytest.raises(ValueError, match="sites: .* has no module 'nowhere'"):
        adapters.attach(generator, "x", sites=["nowhere"])


def test_blocks_do_not_nest(made):
    generator, pairs = made("stylegan2")
    first, second = build(generator, "lora", as_="first"), build(generator, "full", as_="second")
    with first.active(), pytest.raises(RuntimeError, match="'first' is active on tiny, so 'second' cannot"), second.active():
        pass
    with second.active():
        pass
    with pytest.raises(ValueError, match="name"):
        build(generator, "offset", as_="second")
    adapters.detach(first)
