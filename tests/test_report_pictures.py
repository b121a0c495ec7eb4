"""Maps as a reader sees them: their colours, and sheets of them."""
from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from probes.report import display, error_range, sheet


def one_colour(picture: torch.Tensor) -> torch.Tensor:
    return ((picture[0, :, 0, 0] + 1) / 2).round(decimals=2)


def test_normals_have_the_usual_colours():
    def shown(*vector: float) -> list[float]:
        return one_colour(display("normal", torch.tensor(vector).view(1, 3, 1, 1))).tolist()

    assert shown(0, -1, 0) == [0.5, 1.0, 0.5]   # a floor: green
    assert shown(0, 0, -1) == [0.5, 0.5, 1.0]   # a wall that faces the camera: blue
    assert shown(1, 0, 0) == [1.0, 0.5, 0.5]    # facing right: red


def test_depth_shares_the_range_of_like_sample_by_sample():
    teacher = torch.linspace(1, 4, 64).view(1, 1, 8, 8).repeat(2, 1, 1, 1) * torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)
    alone, shared = display("depth", teacher * 2), display("depth", teacher * 2, like=teacher)
    torch.testing.assert_close(alone, display("depth", teacher))   # by itself, scale does not show
    assert (shared.mean((1, 2, 3)) < display("depth", teacher, like=teacher).mean((1, 2, 3))).all()
    torch.testing.assert_close(shared[0], shared[1])               # each sample has its own range
    both = [teacher, teacher * 2]
    lightness = torch.stack([display("depth", m, like=both).mean(1) for m in both])
    assert lightness[0, 0, 0, 0] == lightness[0].max() > lightness[1].max()   # near is bright
    assert lightness[1, 0, -1, -1] == lightness.min()


def test_maps_without_values_or_contrast_still_show():
    depth = torch.ones(1, 1, 4, 4)
    assert display("depth", depth).unique().numel() <= 3
    depth[0, 0, 0, 0] = float("nan")
    shown = display("depth", depth)
    assert shown.isfinite().all() and (shown[0, :, 0, 0] == shown[0, 0, 0, 0]).all()
    assert display("depth", torch.full((1, 1, 4, 4), float("nan"))).isfinite().all()


def test_other_maps_land_in_the_images_range():
    assert one_colour(display("albedo", np.full((1, 3, 2, 2), 0.25, np.float32))).tolist() == [0.25] * 3
    assert display("shading", torch.rand(2, 1, 4, 4, dtype=torch.float64)).shape == (2, 3, 4, 4)
    registered = display("material", torch.arange(16.0).view(1, 1, 4, 4))
    assert (registered.amin(), registered.amax()) == (-1, 1)
    error = torch.rand(2, 1, 8, 8) * 30
    assert 25 <= error_range(error) <= 31
    assert display("error", error, high=30).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="depth has 1 channel"):
        display("depth", torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
        display("normal", torch.rand(3, 4, 4))


def test_a_sheet_has_a_labelled_column_a_map_and_a_row_a_sample(tmp_path):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    path = tmp_path / "samples.png"
    data = sheet({"image": images, "probe": images.numpy()}, path, ["seed 0", "seed 1\n8.9°"], note="a note")
    assert path.read_bytes() == data
    picture = np.asarray(Image.open(io.BytesIO(data)))
    assert picture.shape[0] > 2 * 192 and picture.shape[1] > 2 * 192
    plain = np.asarray(Image.open(io.BytesIO(sheet({"image": images, "probe": images}))))
    assert plain.shape[1] < picture.shape[1] and plain.shape[0] < picture.shape[0]   # room for captions, for the note
    header, left = plain[:45], plain[:, :8]
    assert (header < 128).any() and (left == 255).all()


def test_enlarged_pixels_stay_what_they_were():
    picture = np.zeros((1, 3, 4, 4), np.uint8)
    picture[0, 0, 1, 2] = 200
    shown = np.asarray(Image.open(io.BytesIO(sheet({"x": picture}, scale=8))))
    red = (shown == [200, 0, 0]).all(-1)
    assert red.sum() == 64
    assert (shown == 0).all(-1).sum() >= 15 * 64


def test_large_pictures_are_shrunk_and_bfloat16_is_read():
    data = sheet({"image": torch.zeros(1, 3, 1024, 1024, dtype=torch.bfloat16)})
    assert max(Image.open(io.BytesIO(data)).size) < 420


@pytest.mark.parametrize("columns, captions, words", [
    ({}, None, "columns"),
    ({"a": torch.zeros(1, 3, 8, 8), "b": torch.zeros(2, 3, 8, 8)}, None, "same number"),
    ({"a": torch.zeros(1, 4, 8, 8)}, None, r"columns\['a'\]"),
    ({"a": torch.zeros(2, 3, 8, 8)}, ["one"], "captions"),
])
def test_a_sheet_refuses_what_does_not_fit(columns, captions, words):
    with pytest.raises(ValueError, match=words):
        sheet(columns, captions=captions)
