"""Adapters of every method on small generators, and pairs for them in memory: what the tests of the methods share."""
import torch
import torch.nn.functional as F
from families import FAMILIES, states

import adapters
from probes._intrinsics import get_intrinsic
from probes._train import Schedule, train

KINDS = ("stylegan2", "stylegan-xl", "vqgan", "stable-diffusion")
# method -> (its options, learning rate, how far the loss must fall within a few steps)
METHODS = {
    "lora": ({}, 0.02, 0.97), "lora-dora": (dict(dora=True), 0.02, 0.97), "lora-pissa": (dict(init="pissa"), 0.02, 0.97),
    "lora-olora": (dict(init="olora"), 0.02, 0.97), "lora-rslora": (dict(rslora=True, init="orthogonal"), 0.02, 0.97),
    "full": ({}, 0.003, 0.95), "linear": ({}, 0.003, 0.95), "offset": ({}, 0.05, 0.9999), "pixels": ({}, 0.02, 0.9),
    "token": (dict(tokens=2), 0.1, 0.9999),
}

class Pairs:
    """A bank in memory: the pictures' brightness."""

    def __init__(self, generator, count=12):
        self.states = states(generator, range(count))
        light = generator.image(self.states).mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
        self.targets, self.latents = light, generator.to_target(light, range(count))

    def __len__(self):
        return len(self.targets)

    def state(self, rows):
        return {k: v[rows] for k, v in self.states.items()}

    def batch(self, rows):
        return self.state(rows), self.targets[rows]

    def lesson(self, rows):
        return self.state(rows), self.latents[rows]


class Shelf:
    """Generators and their pairs, built once."""

    def __init__(self):
        self.made = {}

    def __call__(self, family):
        if family not in self.made:
            generator = FAMILIES[family][0]()
            self.made[family] = generator, Pairs(generator)
        return self.made[family]

    def clear(self):
        """Takes off what a test left on them."""
        for generator, _ in self.made.values():
            for adapter in list(adapters._base._LIVING.get(generator.network, ())):
                adapters.detach(adapter)


def build(generator, name, **more):
    options = METHODS[name][0]
    prompt = "shading" if generator.reads_text else None
    return adapters.build(name.partition("-")[0], generator, more.pop("as_", "a"), prompt, options, rank=2, seed=1, **more)


def fit(adapter, pairs, steps=15, rate=0.01, **more):
    return train(adapter, pairs, get_intrinsic("shading"), Schedule(steps, 4, rate, 0), **more)


def drawn(generator, pairs):
    with torch.no_grad():
        return generator.forward(pairs.state(slice(0, 2)))


def emitted(adapter, pairs):
    with adapter.active():
        return adapter.emit(pairs.state(slice(0, 2)))


def loss(adapter, pairs):
    with torch.no_grad(), adapter.active():
        read = pairs.batch if adapter.output_space == "pixels" else pairs.lesson
        prediction, target = adapter.regress(*read(slice(0, 12)))
        return F.mse_loss(prediction, target).item()
