"""Photographs with maps of a made-up teacher, some with holes, one with nothing but a hole: what scoring is tested on."""
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import probes
from probes import Teacher
from probes.data import Photographs, Sample
from probes.images import read_image, write_map

SIZES = ((40, 32), (32, 40), (32, 40), (36, 36))


class Slopes(Teacher):
    """Normals and depth off the picture's own brightness: made up, quick, a function of the image."""

    name, version, licence = "slopes", "1", "Apache-2.0"
    intrinsics, worlds, batch = ("normal", "depth", "shading"), ("photographs",), 2

    def label(self, image, intrinsic):
        time.sleep(float(os.environ.get("SLOW", "0")))
        x = (image.mean(1, keepdim=True) + 1) / 2
        if intrinsic == "normal":
            down = torch.linspace(1, -1, x.shape[2])[:, None].expand_as(x)
            return F.normalize(torch.cat([x - 0.5, down, -torch.ones_like(x)], 1), dim=1)
        return 1 + 3 * x if intrinsic == "depth" else x


class Rooms(Photographs):
    """Photographs with maps: those of Slopes, tilted and with holes."""

    exact, masked, parallel = ("normal", "depth", "shading"), True, True

    def __init__(self, folder):
        self.name, self.paths = str(folder), sorted(Path(folder).glob("*.png"))
        self.count = len(self.paths)

    def sample_name(self, index):
        return f"rooms/{self.paths[index].stem}"

    def files(self, index):
        return [self.paths[index]]

    def identity(self):
        return {}

    def sample(self, index, intrinsics=()):
        self.require(intrinsics)
        image = read_image(self.paths[index]).pixels
        maps = {}
        for name in intrinsics:
            values = Slopes().label(image[None], name)[0]
            if name == "normal":
                values = F.normalize(values + torch.tensor([0.1, 0.0, 0.0])[:, None, None], dim=0)
            elif name == "depth":
                values = values * 1.1
            else:
                values = values + 0.05
            values[:, :5] = torch.nan
            if self.paths[index].stem == "p03":
                values[:] = torch.nan
            maps[name] = values
        return Sample(self.sample_name(index), image, maps)


if "slopes" not in probes.teachers():
    probes.register_teacher("slopes", Slopes, "for tests")


def make_rooms(folder):
    """Twelve pictures of four sizes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        small = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize(SIZES[i % 4][::-1], Image.BICUBIC).save(folder / f"p{i:02d}.png")
    return Rooms(folder)


def predictions(rooms, folder, intrinsic="normal", change=lambda x: x, formats=("npy",)):
    for i in range(rooms.count):
        values = Slopes().label(rooms.sample(i).image[None], intrinsic)[0]
        write_map(folder / f"{rooms.sample_name(i)}-{intrinsic}", change(values), intrinsic, formats)
    return folder


def with_maps(rooms, folder, intrinsics=("depth",)):
    """maps:FOLDER, of the images of rooms that have a map."""
    folder.mkdir()
    for i in (i for i in range(rooms.count) if i != 3):
        sample = rooms.sample(i, intrinsics)
        (folder / rooms.paths[i].name).write_bytes(rooms.paths[i].read_bytes())
        for name in intrinsics:
            np.save(folder / f"{rooms.paths[i].stem}-{name}.npy", sample.maps[name].numpy())
    return folder
