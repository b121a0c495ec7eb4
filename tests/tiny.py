"""A fit small enough for tests: a tiny generator, a teacher without weights, a few steps."""
import torch

import probes
from probes import Teacher


class Brightness(Teacher):
    """Albedo is the picture blurred, shading its brightness: made up, quick, and a function of the image."""

    name, version, licence = "brightness", "1", "Apache-2.0"
    intrinsics, worlds = ("albedo", "shading"), ("scenes",)

    def label(self, image, intrinsic):
        x = (image + 1) / 2
        if intrinsic == "shading":
            return x.mean(1, keepdim=True)
        return torch.nn.functional.avg_pool2d(x, 3, 1, 1)


if "brightness" not in probes.teachers():
    probes.register_teacher("brightness", Brightness, "for tests")

SMALL = dict(intrinsic="shading", teacher="brightness", samples=24, steps=60, batch=4, evaluate=8, rank=2, quiet=True)
