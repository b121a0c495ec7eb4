"""Photographs at the sizes networks take, and maps back at the photographs' own."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from make_images import smooth

from generators._names import UnknownNameError
from probes.images import Fitted, ImageError, Photo, fit


@pytest.mark.parametrize("policy,size,given,inner,whole", [
    ("resize", 512, (600, 901), (512, 768), (512, 768)), ("resize", 64, (901, 600), (96, 64), (96, 64)),
    ("resize", 512, (100, 100), (512, 512), (512, 512)), ("resize", None, (101, 50), (104, 48), (104, 48)),
    ("resize", 64, (20, 500), (64, 1600), (64, 1600)), ("square", 64, (600, 901), (64, 64), (64, 64)),
    ("native", 512, (33, 40), (33, 40), (40, 40)), ("native", None, (48, 56), (48, 56), (48, 56))])
def test_sizes(policy, size, given, inner, whole):
    fitted = fit(Photo(smooth(*given), "a"), size=size, policy=policy)
    assert (fitted.inner, fitted.size, fitted.original, fitted.policy) == (inner, whole, given, policy)
    assert fitted.pixels.abs().max() <= 1
    for channels in (1, 3):
        assert fitted.restore(torch.zeros(1, channels, *whole), "depth").shape == (1, channels, *given)


def test_a_multiple_of_any_size_is_reflected_as_often_as_it_takes():
    row = torch.arange(9.0).expand(3, 9, 9) / 10
    fitted = fit(Photo(row, "a"), multiple=32, policy="native")
    assert fitted.size == (32, 32)
    expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1]
    assert torch.equal((fitted.pixels[0] * 10).round(), torch.tensor(expected).float().expand(32, 32))
    near = fit(Photo(smooth(30, 29), "a"), policy="native").pixels
    assert torch.equal(near, F.pad(smooth(30, 29)[None], (0, 3, 0, 2), mode="reflect")[0])


def test_native_comes_back_bit_for_bit_and_resizing_nearly():
    photo = Photo(smooth(33, 45), "a")
    fitted = fit(photo, policy="native")
    assert torch.equal(fitted.restore(fitted.pixels[None], "image")[0], photo.pixels)
    for policy in ("resize", "square"):
        fitted = fit(Photo(smooth(90, 130), "a"), size=64, policy=policy)
        back = fitted.restore(fitted.pixels[None], "image")[0]
        assert (back - smooth(90, 130)).abs().max() < 0.02
        assert (back - smooth(90, 130))[:, 5:-5, 5:-5].abs().max() < 3e-3      # no shift: half a pixel would be 0.01


def test_resizing_does_not_alias_and_does_not_overshoot():
    stripes = (torch.arange(512) % 2 * 2.0 - 1).expand(3, 512, 512)
    assert fit(Photo(stripes, "a"), size=128).pixels[:, :, 4:-4].abs().max() < 0.05     # plain bicubic says ±0.8 or so
    step = torch.where(torch.arange(100) < 50, -1.0, 1.0).expand(3, 100, 100)
    assert fit(Photo(step, "a"), size=256).pixels.abs().max() == 1
    fitted = fit(Photo(step, "a"), size=32)
    depth = torch.where(torch.arange(32) < 16, 1.0, 7.0).expand(1, 1, 32, 32)
    back = fitted.restore(depth, "depth")
    assert back.min() == 1 and back.max() == 7 and len(back.unique()) > 2         # between its neighbours, and not nearest
    albedo = fitted.restore((depth - 1) / 6, "albedo")
    assert albedo.min() == 0 and albedo.max() == 1
    assert fitted.restore(depth * 0 - 3, "shading").max() == 0


def test_normals_stay_unit_vectors_also_where_they_cancel():
    fitted = fit(Photo(smooth(100, 76), "a"), size=64)
    normals = F.normalize(torch.randn(1, 3, *fitted.size, generator=torch.Generator().manual_seed(0)), dim=1)
    back = fitted.restore(normals, "normal")
    torch.testing.assert_close(back.square().sum(1), torch.ones(1, 100, 76))
    opposite = torch.zeros(1, 3, *fitted.size)
    opposite[:, 0, :, ::2], opposite[:, 0, :, 1::2] = 1, -1
    wide = Fitted(fitted.pixels, fitted.inner, (fitted.size[0], fitted.size[1] // 2), "resize", "a")
    back = wide.restore(opposite, "normal")
    torch.testing.assert_close(back.square().sum(1), torch.ones_like(back[:, 0]))
    assert (back[:, 2] == -1).any()
    same = fit(Photo(smooth(64, 64), "a"), size=64)
    assert torch.allclose(same.restore(normals[:, :, :64, :64] * 3, "normal"), normals[:, :, :64, :64], atol=1e-6)


def test_a_photograph_may_not_become_more_than_a_network_can_take():
    strip = Photo(smooth(8, 3000), "strip.png")
    with pytest.raises(ImageError, match=r"strip.png: its 8×3000 pixels would become 512×192000, .*size, or policy='square'"):
        fit(strip)
    assert fit(strip, size=64).size == (64, 24000) and fit(strip, policy="square").size == (512, 512)
    for options, advice in (({"size": 8192, "policy": "square"}, "8192×8192.*pass a smaller size, or crop"),
                            ({"multiple": 6000, "size": None, "policy": "native"}, "6000×6000.*policy='resize'")):
        with pytest.raises(ImageError, match=advice):
            fit(Photo(smooth(20, 20), "a.jpg"), **options)


def test_bad_fits_are_named():
    photo = Photo(smooth(20, 20), "a.jpg")
    for options, expected in (({"size": 0}, "size.*got 0"), ({"size": 4}, "at least 8"), ({"multiple": 0}, "multiple.*got 0"),
                              ({"size": 51.2}, "size.*51.2"), ({"policy": "square", "size": None}, "try size=512")):
        with pytest.raises(ValueError, match=expected):
            fit(photo, **options)
    with pytest.raises(UnknownNameError, match="policy.*did you mean 'native'"):
        fit(photo, policy="nativ")
    fitted = fit(photo, size=64)
    for values, kind in ((torch.zeros(1, 3, 8, 8), "normal"), (torch.zeros(2, 3, 64, 64), "normal"),
                         (torch.zeros(1, 1, 64, 64), "normal")):
        with pytest.raises(ValueError, match="values: "):
            fitted.restore(values, kind)
