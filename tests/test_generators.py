"""What every generator promises, checked on the one table of families."""
import pytest
import torch
from families import FAMILIES, states

import adapters
import generators


@pytest.fixture(params=FAMILIES)
def generator(request):
    return FAMILIES[request.param][0]()


@pytest.fixture
def state(generator):
    return states(generator, range(3))


def image(generator, state):
    with torch.no_grad():
        return generator.to_image(generator.forward(state))


def test_a_seed_draws_the_same_image_in_any_batch(generator, state):
    alone = states(generator, [2])
    for name, value in state.items():
        torch.testing.assert_close(alone[name][0], value[2])
    assert image(generator, state).shape == (3, 3, generator.resolution, generator.resolution)
    torch.testing.assert_close(image(generator, alone)[0], image(generator, state)[2], atol=1e-4, rtol=1e-4)


def test_sites_are_exact_and_adapters_off_is_bit_identical(generator, state, request):
    before, fingerprint = image(generator, state), generator.fingerprint
    adapter = adapters.attach(generator, "a", rank=4)
    expected = FAMILIES[request.node.callspec.params["generator"]][1]
    assert adapter.site_names == generator.sites(generator.scopes[0]) and len(adapter.site_names) == expected
    assert torch.equal(image(generator, state), before)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(0.3)
    with adapter.active():
        assert not torch.allclose(image(generator, state), before, atol=1e-3)
    assert torch.equal(image(generator, state), before)
    del generator._fingerprint
    assert generator.fingerprint == fingerprint
    adapters.detach(adapter)
    assert torch.equal(image(generator, state), before)
    assert not any("lora" in name for name, _ in generator.network.named_modules())


def test_only_the_active_adapter_is_trained_and_heard(generator, state):
    first, second = adapters.attach(generator, "first", rank=2), adapters.attach(generator, "second", rank=3)
    with torch.no_grad():
        for parameter in second.parameters().values():
            parameter.add_(0.3)
    before = image(generator, state)
    with first.active(train=True):
        assert torch.equal(image(generator, state), before)
        generator.regress(state, generator.to_target(before))[0].square().mean().backward()
    trained = {p for p in first.parameters().values()}
    assert all((p.grad is not None) == (p in trained) for p in generator.network.parameters())
    assert not any(p.requires_grad for p in generator.network.parameters())


def test_controls_differ_but_have_the_same_shape(generator, state):
    fresh, again, other = generator.randomised(0), generator.randomised(0), generator.randomised(1)
    assert fresh.fingerprint == again.fingerprint != generator.fingerprint
    assert other.fingerprint != fresh.fingerprint and fresh.weights == "random:0"
    own = states(fresh, range(3))
    same = generator.driven_by == "images"             # what comes from outside is the control's too
    assert all(own[name].shape == value.shape and torch.equal(own[name], value) == same for name, value in state.items())
    assert not torch.allclose(image(fresh, state), image(generator, state), atol=1e-2)
    crossed = generator.crossed(0)
    torch.testing.assert_close(states(crossed, range(3)), state)
    assert not torch.allclose(image(crossed, state), image(generator, state), atol=1e-2)


def test_bad_scopes_ranks_and_classes_are_named(generator):
    with pytest.raises(ValueError, match=f"scope.*{generator.scopes[0]}"):
        generator.sites("everything")
    with pytest.raises(ValueError, match="rank"):
        adapters.attach(generator, "a", rank=0)
    adapters.attach(generator, "a")
    with pytest.raises(ValueError, match="name"):
        adapters.attach(generator, "a")
    if generator.driven_by == "noise":
        with pytest.raises(ValueError, match="classes"):
            generator.sample(range(2), classes=[99, 0])
        with pytest.raises(ValueError, match="driven by noise"):
            generator.encode(torch.zeros(1, 3, 32, 32))
    else:
        with pytest.raises(ValueError, match="driven by images"):
            generator.sample(range(2))


def test_a_generator_is_rebuilt_from_its_options(generator):
    again = type(generator)(generator.name, generator.network, world=generator.world, **generator.options)
    assert again.options == generator.options and again.fingerprint == generator.fingerprint


def test_options_and_families_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="a stylegan2 has no option temperature; it has truncation_psi, noise_mode, precision"):
        generators.load("stylegan2-scenes", temperature=2.0)


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(generators.UnknownNameError, match="stylegan2-scenes.*probes list generators"):
        generators.load("stylegan2-scene")
    with pytest.raises(ValueError, match="weights.*random:SEED"):
        generators.load("stylegan2-scenes", weights="untrained")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        generators.load("nowhere/ffhq.pkl")


def test_every_embedded_level_loads_and_has_its_card():
    levels = [e for e in generators.catalog().values() if e.kind == "embedded"]
    assert len(levels) >= 5
    for entry in levels:
        card = generators.card(entry.name)
        assert {"recipe", "images", "hardware", "frechet", "data"} <= set(card)
        drawn = generators.load(entry.name)
        picture = drawn.image(states(drawn, [0]))
        assert torch.isfinite(picture).all() and picture.std() > 0.1
    for family in {e.family for e in levels}:                                     # catalog order: best first
        distances = [generators.card(e.name)["frechet"]["value"] for e in levels if e.family == family]
        assert distances == sorted(distances)
