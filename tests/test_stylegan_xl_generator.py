"""StyleGAN-XL behind the generator interface: scopes, controls, reduced precision."""
import math

import pytest
import torch
from test_stylegan_xl import WIDTHS, normals, small

from generators.stylegan_xl import StyleGANXL, affine_names, schedule
from generators.stylegan_xl._layers import SynthesisLayer


def test_sites_scopes_and_options():
    generator = StyleGANXL("tiny", small(c_dim=3, embedding="linear"), truncation_psi=0.7, world="scenes")
    names = generator.sites("affine")
    assert names == affine_names(generator.network) and "synthesis.input.affine" not in names and len(names) == 7
    assert all(isinstance(generator.network.get_submodule(name), torch.nn.Linear) for name in names)
    assert generator.scopes == ("affine", "affine-convs", "affine@16", "affine@32")
    assert generator.sites("affine@16") + generator.sites("affine@32") == names
    assert generator.sites("affine-convs") == [name for name in names if not name.endswith("_3.affine")]
    with pytest.raises(ValueError, match="scope: tiny has no scope 'mid'; it has affine"):
        generator.sites("mid")
    assert generator.options == dict(truncation_psi=0.7, truncate_to="class", precision="fp32")
    for option in (dict(truncate_to="mode"), dict(precision="fp8"), dict(truncation_psi="0.7"), dict(truncation_psi=math.nan)):
        with pytest.raises(ValueError, match=next(iter(option))):
            StyleGANXL("tiny", generator.network, **option)
    with pytest.raises(ValueError, match="classes: expected one label"):
        generator.sample([1, 2], classes=[3])
    labelled = generator.prepare(generator.sample([1, 2], classes=[2]))["w"]
    assert not torch.equal(labelled[0], generator.prepare(generator.sample([1, 2], classes=[1]))["w"][0])
    torch.testing.assert_close(labelled[1:], generator.prepare(generator.sample([2], classes=[2]))["w"])


@pytest.mark.parametrize("options", [{}, dict(c_dim=3, embedding="pretrained", embed_rows=3, embed_dim=5)])
def test_controls_draw_in_a_sane_range(options):
    generator = StyleGANXL("tiny", small(seed=3, **options), truncation_psi=0.9)
    generator.family = "stylegan3"
    state = generator.prepare(generator.sample(range(4)))
    fresh, crossed = generator.randomised(1), generator.crossed(1)
    with torch.no_grad():
        own = fresh.forward(fresh.prepare(fresh.sample(range(4))))
        other = crossed.forward(state)
    for image in (own, other):
        assert 0.1 < image.std() < 0.6 and (image.std((0, 2, 3)) > 0.02).all()
    assert crossed.family == fresh.family == "stylegan3" and crossed.options == generator.options
    torch.testing.assert_close(crossed.prepare(crossed.sample(range(4)))["w"], state["w"], rtol=0, atol=0)
    assert fresh.fingerprint == generator.randomised(1).fingerprint != generator.fingerprint
    average = fresh.network.mapping.w_avg
    drawn = fresh.network.mapping(normals(3000, 8), torch.zeros(3000, dtype=torch.long) if options else None)[:, 0].mean(0)
    torch.testing.assert_close(average[0] if options else average, drawn, atol=0.4 * drawn.abs().mean().item(), rtol=0.4)
    truncated = StyleGANXL("tiny", fresh.network, truncation_psi=0)
    w = truncated.prepare(truncated.sample(range(2)))["w"]
    torch.testing.assert_close(w, average[:2] if options else average.expand(2, -1))


def test_half_precision_on_a_cpu_is_close():
    network = small(seed=3)
    exact, rough = StyleGANXL("tiny", network), StyleGANXL("tiny", network, precision="bf16")
    state = exact.prepare(exact.sample(range(2)))
    with torch.no_grad():
        a, b = exact.forward(state), rough.forward(state)
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    assert (a - b).square().mean().sqrt() < 0.03 * a.std()


def test_a_layer_in_half_precision_does_not_overflow():
    """What CUDA runs for `use_fp16`: weights and styles far outside fp16's range cancel before they get there."""
    geometry = schedule(32, 6, **WIDTHS)[1][1]
    layer = SynthesisLayer(geometry, 10, 0.999)
    torch.nn.init.normal_(layer.weight, std=1e5, generator=torch.Generator().manual_seed(1))
    layer.magnitude_ema.fill_(1e4)
    x, w = normals(1, geometry.in_channels, *geometry.in_size), 1e4 * normals(1, 10, seed=3)
    with torch.no_grad():
        exact, half = layer(100 * x, w), layer((100 * x).half(), w)
    assert half.dtype == torch.float16 and 0.1 < exact.std() < 2
    assert (half.float() - exact).abs().max() < 0.02
