"""Trains the albedo and shading teacher on paradigms: fake albedo × fake shading, and nothing else.

    python -m zoo.train_paradigms --out runs/paradigms

There is no data to fetch: every step samples new paradigms. It never sees an albedo or a shading of the scenes world; the
renderer's exact maps only score it at the end, beside Retinex, two trivial answers and the network before any training, and the
figures travel in its card.
"""
from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file
from torch import Tensor

from generators._files import file_sha256
from probes._record import hardware
from probes.data import get_data
from probes.data.colour import srgb_to_linear
from probes.metrics import bootstrap_mean
from probes.teachers.paradigms._network import ParadigmsNet
from probes.teachers.paradigms._sample import Paradigms, sample_paradigms
from probes.teachers.paradigms._teacher import decompose

from ._training import check_recipe, chosen_device, load_state, save_atomically


@dataclass
class Recipe:
    """Everything that decides the result, with the number of steps.

    Args:
        batch: images a step at the first size; at larger sizes fewer, so that a step costs the same
        sizes: pixels a side of the paradigms, one size a step; small ones teach the most in a given time
        weights: how often each size comes
        learning_rate: peak of a one-cycle cosine schedule
        weight_decay: AdamW's
        ema_steps: half-life of the weights' moving average
        seed: of weights and paradigms
    """

    batch: int = 32
    sizes: tuple[int, ...] = (32, 64, 96)
    weights: tuple[float, ...] = (0.5, 0.4, 0.1)
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-2
    ema_steps: int = 150
    seed: int = 0


def loss(shading: Tensor, paradigms: Paradigms) -> Tensor:
    """What is wrong with the log shading [N, 1, H, W], up to one scale an image; since the albedo is the image over it, that
    is also what is wrong with the albedo.

    Squared differences, of values and of gradients: the network gives an edge that could be either's to both by their chances,
    and the integral of mean gradients is the mean field. (Absolute ones make it decide, and a wrong decision at an edge is
    carried across the picture.) Dark pixels, whose logarithms are noise, count less.
    """
    light = paradigms.product.mean(1, keepdim=True)
    weight = light / (light + 0.03)
    weight = weight / weight.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
    wrong = shading - paradigms.shading.mean(1, keepdim=True).log()
    wrong = wrong - (weight * wrong).mean((1, 2, 3), keepdim=True)
    total = (weight * wrong.square()).mean()
    for axis in (2, 3):
        least = torch.minimum(weight.narrow(axis, 1, weight.shape[axis] - 1), weight.narrow(axis, 0, weight.shape[axis] - 1))
        total = total + 4 * (least * wrong.diff(dim=axis).square()).mean()
    return 4 * total


class Trainer:
    """The network, its moving average, optimiser and random numbers; `state` and `load` go on exactly."""

    def __init__(self, recipe: Recipe, steps: int, device: torch.device):
        torch.manual_seed(recipe.seed)
        self.recipe, self.steps, self.device = recipe, steps, device
        self.network = ParadigmsNet().to(device, memory_format=torch.channels_last)
        averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5 ** (1 / recipe.ema_steps))
        self.average = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=averaging, use_buffers=True)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), recipe.learning_rate, betas=(0.9, 0.99),
                                           weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, recipe.learning_rate, total_steps=steps,
                                                            pct_start=0.02)
        self.rng = torch.Generator().manual_seed(recipe.seed)
        self.step, self.images, self.seconds = 0, 0, 0.0

    def _parts(self) -> dict:
        return {k: getattr(self, k) for k in ("network", "average", "optimiser", "schedule")}

    def state(self) -> dict:
        return dict({k: v.state_dict() for k, v in self._parts().items()}, rng=self.rng.get_state(), step=self.step,
                    steps=self.steps, images=self.images, seconds=self.seconds, recipe=asdict(self.recipe))

    def load(self, state: dict) -> None:
        check_recipe(state["recipe"], self.recipe)
        if state["steps"] != self.steps:
            raise ValueError(f"steps: the stored training has {state['steps']}, which decides its schedule, got {self.steps}; "
                             f"give --steps {state['steps']}, or choose another --out")
        for k, v in self._parts().items():
            v.load_state_dict(state[k])
        self.rng.set_state(state["rng"])
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]

    def train_step(self) -> float:
        sizes, weights = self.recipe.sizes, torch.tensor(self.recipe.weights)
        size = sizes[int(torch.multinomial(weights, 1, generator=self.rng))]
        count = max(2, round(self.recipe.batch * (sizes[0] / size) ** 2))
        paradigms = sample_paradigms(count, size, self.rng)
        paradigms = Paradigms(*(getattr(paradigms, k).to(self.device, memory_format=torch.channels_last)
                                for k in ("image", "albedo", "shading")))
        with torch.autocast(self.device.type, torch.bfloat16):
            shading = self.network(paradigms.image)
        wrong = loss(shading, paradigms)
        self.optimiser.zero_grad(set_to_none=True)
        wrong.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        self.step += 1
        self.images += count
        return wrong.item()


def scale_invariant_error(prediction: Tensor, truth: Tensor) -> Tensor:
    """RMS in linear light after the one scale an image that makes it least, [N]; both linear [N, C, H, W], and an albedo's
    channels share the scale."""
    scale = (prediction * truth).sum((1, 2, 3), keepdim=True) / prediction.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-9)
    return (scale * prediction - truth).square().mean((1, 2, 3)).sqrt()


def score(answer: Callable[[Tensor], dict[str, Tensor]], scenes: range, size: int = 64) -> dict[str, list[float]]:
    """{intrinsic: scale-invariant errors of every scene}; `answer` takes images [N, 3, H, W] in [-1, 1], gives sRGB maps."""
    data, errors = get_data("scenes"), {"albedo": [], "shading": []}
    for i in range(scenes.start, scenes.stop, 50):
        block = range(i, min(i + 50, scenes.stop))
        image = data.images(block, size)
        got = answer(image)
        for name, values in errors.items():
            values += scale_invariant_error(srgb_to_linear(got[name].cpu()),
                                            srgb_to_linear(data.truth(block, size, name))).tolist()
    return errors


def answers(network: ParadigmsNet, averaging: int) -> dict[str, Callable[[Tensor], dict[str, Tensor]]]:
    """What is scored: the network, what it started from, Retinex, and the two answers that look at nothing."""
    from probes.teachers._retinex import RetinexTeacher

    device, retinex = next(network.parameters()).device, RetinexTeacher()
    start = ParadigmsNet().to(device).eval()
    torch.nn.init.zeros_(start.head.weight)

    @torch.no_grad()
    def paradigms(image: Tensor) -> dict[str, Tensor]:
        return decompose(network, (image.to(device) + 1) / 2, averaging)

    def constant(image: Tensor) -> dict[str, Tensor]:
        """One grey for all surfaces; one light everywhere."""
        return dict(albedo=torch.full_like(image, 0.5), shading=torch.ones_like(image[:, :1]))

    def itself(image: Tensor) -> dict[str, Tensor]:
        """Albedo: the image, as if light were constant. Shading: its brightness, as if surfaces were."""
        return dict(albedo=(image + 1) / 2, shading=((image + 1) / 2).mean(1, keepdim=True))

    @torch.no_grad()
    def untrained(image: Tensor) -> dict[str, Tensor]:
        return decompose(start, (image.to(device) + 1) / 2)

    def land(image: Tensor) -> dict[str, Tensor]:
        return {name: retinex.label(image, name) for name in ("albedo", "shading")}

    return {"paradigms": paradigms, "untrained": untrained, "Retinex": land, "constant": constant, "the image itself": itself}


def compare(network: ParadigmsNet, scenes: range, averaging: int) -> dict[str, dict[str, dict]]:
    """{intrinsic: {who: {"value": mean scale-invariant error, "ci95": [low, high]}}} over held-out scenes at 64 px."""
    rows: dict[str, dict[str, dict]] = dict(albedo={}, shading={})
    for who, answer in answers(network, averaging).items():
        for name, values in score(answer, scenes).items():
            rows[name][who] = dict(value=round(float(np.mean(values)), 4),
                                   ci95=[round(x, 4) for x in bootstrap_mean(np.array(values))])
    return rows


def publish(trainer: Trainer, folder: Path, scenes: int, averaging: int = 1) -> None:
    """Scores the averaged weights as they ship, in half precision; writes them and their card."""
    weights = {k: v.half().contiguous() for k, v in trainer.average.module.state_dict().items()}
    network = ParadigmsNet().to(trainer.device).eval()
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    rows = compare(network, range(scenes), averaging)
    remark = (f"held-out scenes 0-{scenes - 1} of the scenes world, 64 px; scored, never trained on (the paradigms' "
              "contrasts and the network's nearness were chosen on scenes 500-649)")
    card = dict(name="paradigms", version="1", recipe=asdict(trainer.recipe), steps=trainer.steps, images=trainer.images,
                minutes=round(trainer.seconds / 60, 1), hardware=hardware(trainer.device), torch=torch.__version__,
                data="sampled paradigms; no image, albedo or shading of any other kind", licence="Apache-2.0",
                exact_errors={**{f"{name} scale-invariant RMS": row["paradigms"]["value"] for name, row in rows.items()},
                              "scenes": remark},
                comparison=dict(measure="RMS in linear light after one least-squares scale an image, mean over images",
                                averaging=averaging, data=remark, **rows))
    save_file(weights, folder / "paradigms.safetensors")
    card["sha256"] = file_sha256(folder / "paradigms.safetensors")
    (folder / "paradigms.json").write_text(json.dumps(card, indent=2) + "\n")
    for name, row in rows.items():
        for who, entry in row.items():
            print(f"{name:8} {who:16} {entry['value']:.4f}  [{entry['ci95'][0]:.4f}, {entry['ci95'][1]:.4f}]")


def main(out: str, steps: int = 4000, recipe: Recipe = Recipe(), device: str = "auto",  # noqa: B008
         exact_scenes: int = 500, until: int | None = None) -> None:
    """Trains for `steps`; run again to go on from the last state, exactly.

    Args:
        out: folder for the state, the weights and their card
        steps: optimiser steps, which decide the schedule
        recipe: what decides the result
        device: cpu, cuda or auto
        exact_scenes: how many held-out scenes its error is measured on
        until: stop after this step, to be gone on with; by default the last
    """
    folder, where = Path(out), chosen_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, steps, where)
    state = load_state(folder / "state.pt")
    if state is not None:
        trainer.load(state)
    last_save = last_log = clock = time.time()
    recent = 0.0
    while trainer.step < min(steps, until or steps):
        wrong = trainer.train_step()
        if not math.isfinite(wrong):
            raise FloatingPointError(f"loss is not finite at step {trainer.step}; the last state is kept in {folder}: lower "
                                     "--recipe.learning_rate and start again")
        recent = wrong if not recent else 0.98 * recent + 0.02 * wrong
        now = time.time()
        trainer.seconds, clock = trainer.seconds + now - clock, now
        if now - last_log > 20:
            rate = trainer.images / trainer.seconds
            print(f"step {trainer.step}/{steps}  loss {recent:.4f}  {rate:.0f} images/s", flush=True)
            last_log = now
        if now - last_save > 180:
            save_atomically(trainer.state(), folder / "state.pt")
            last_save = now
    save_atomically(trainer.state(), folder / "state.pt")
    if trainer.step == steps:
        publish(trainer, folder, exact_scenes)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
