"""Trains the teacher of the scenes world: one small U-Net, image -> normal, depth, albedo, shading.

    python -m zoo.render_scenes --out scenes
    python -m zoo.train_teacher --data scenes --out runs/scenes-teacher

It learns from exact maps of the renderer; images are slightly degraded on the way in (blur, noise), because what it is
going to label is drawn by generators and never quite clean. Its error against exact ground truth on unseen scenes is
measured at the end and travels with it in its card.
"""
from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli

from generators._files import file_sha256
from probes._record import hardware
from probes.data.scenes._store import Store
from probes.teachers._scenes_net import DEPTH_RANGE, Residual, ScenesNet, decode, encode_depth

from ._training import load_state, save_atomically


@dataclass
class Recipe:
    """Everything that decides the result.

    Args:
        batch: images a step
        learning_rate: peak of a one-cycle cosine schedule
        weight_decay: AdamW's
        ema_steps: half-life of the weights' moving average
        seed: of weights, order and degradations
    """

    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    ema_steps: int = 200
    seed: int = 0


def losses(raw: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cosine and L1 for normals, L1 and squared error for the rest; weights bring the terms to one scale."""
    normal = F.normalize(raw[:, :3].float(), dim=1)
    cosine = (1 - (normal * target["normal"]).sum(1)).mean() + 0.5 * (normal - target["normal"]).abs().mean()
    total = cosine
    for channels, name in ((slice(3, 4), "depth"), (slice(4, 7), "albedo"), (slice(7, 8), "shading")):
        difference = raw[:, channels].float() - target[name]
        total = total + 2 * (difference.abs().mean() + difference.square().mean())
    return total


class Batches:
    def __init__(self, store: Store, recipe: Recipe, device: torch.device):
        self.store, self.recipe, self.device = store, recipe, device
        self.rng = torch.Generator().manual_seed(recipe.seed)

    def __call__(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        n = self.recipe.batch
        picks = torch.randint(len(self.store), (n,), generator=self.rng).numpy()
        names = ("image", "normal", "depth", "albedo", "shading")
        maps = {name: torch.from_numpy(self.store.batch(name, picks)) for name in names}
        flip = torch.rand(n, generator=self.rng) < 0.5
        for value in maps.values():
            value[flip] = value[flip].flip(3)
        maps["normal"][flip, 0] *= -1                       # a mirrored image mirrors x
        maps["normal"] = F.normalize(maps["normal"], dim=1)
        maps["depth"] = encode_depth(maps["depth"])
        for name in ("albedo", "shading"):
            maps[name] = maps[name] * 2 - 1
        image = maps.pop("image") * 2 - 1
        blur = torch.rand(n, 1, 1, 1, generator=self.rng).square() * 0.7
        image = torch.lerp(image, F.avg_pool2d(F.pad(image, (1, 1, 1, 1), "replicate"), 3, 1), blur)
        noise = torch.rand(n, 1, 1, 1, generator=self.rng).square() * 0.06
        image = image + noise * torch.randn(image.shape, generator=self.rng)
        to = dict(device=self.device, memory_format=torch.channels_last)
        return image.to(**to), {k: v.to(**to) for k, v in maps.items()}


@torch.no_grad()
def exact_errors(network: ScenesNet, count: int = 500, size: int = 64) -> dict[str, float]:
    """Errors against exact ground truth on the unseen scenes 0 … count-1."""
    from probes.data.colour import linear_to_srgb
    from probes.data.scenes import render

    sums: dict[str, list[torch.Tensor]] = {}
    device = next(network.parameters()).device
    for i in range(0, count, 50):
        truth = {k: v.to(device) for k, v in render(range(i, min(i + 50, count)), size).items()}
        got = decode(network(linear_to_srgb(truth["image"]) * 2 - 1))
        angle = torch.rad2deg(torch.acos((got["normal"] * truth["normal"]).sum(1).clamp(-1, 1))).mean((1, 2))
        ratio = torch.maximum(got["depth"] / truth["depth"], truth["depth"] / got["depth"])
        rows = {"normal mean angular error (degrees)": angle,
                "depth RMS (m)": (got["depth"] - truth["depth"]).square().mean((1, 2, 3)).sqrt(),
                "depth delta < 1.25": (ratio < 1.25).float().mean((1, 2, 3))}
        for name in ("albedo", "shading"):
            rows[f"{name} RMS"] = (got[name] - linear_to_srgb(truth[name])).square().mean((1, 2, 3)).sqrt()
        for k, v in rows.items():
            sums.setdefault(k, []).append(v)
    return {k: round(torch.cat(v).mean().item(), 4) for k, v in sums.items()}


def main(data: str, out: str, steps: int = 5000, recipe: Recipe = Recipe(), device: str = "auto",  # noqa: B008
         fast: bool = True, exact_scenes: int = 500) -> None:
    """Trains for `steps`; run again to go on from the last state.

    Args:
        data: scene store, from `python -m zoo.render_scenes`
        out: folder for the state, the weights and their card
        steps: optimiser steps
        recipe: what decides the result
        device: cpu, cuda or auto
        fast: compile the network (needs a C++ compiler)
        exact_scenes: how many unseen scenes its error is measured on
    """
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    store = Store(data)
    network = ScenesNet().to(where, memory_format=torch.channels_last)
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5 ** (1 / recipe.ema_steps))
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.05)
    batches = Batches(store, recipe, where)
    step, seconds = 0, 0.0
    parts = dict(network=network, average=average, optimiser=optimiser, schedule=schedule)
    state = load_state(folder / "state.pt")
    if state is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        batches.rng.set_state(state["rng"])
        step, seconds = state["step"], state["seconds"]
    if fast:  # block by block: the whole network at once is more than the compiler's CPU backend manages
        for block in network.modules():
            if isinstance(block, Residual):
                block.compile()
    last_save = last_log = clock = time.time()
    while step < steps:
        image, target = batches()
        with torch.autocast(where.type, torch.bfloat16):
            raw = network(image)
        loss = losses(raw, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        step += 1
        now = time.time()
        seconds, clock = seconds + now - clock, now
        if now - last_log > 20:
            rate = step * recipe.batch / seconds
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {rate:.0f} images/s", flush=True)
            last_log = now
        if now - last_save > 180 or step == steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_atomically(dict(state, rng=batches.rng.get_state(), step=step, seconds=seconds), folder / "state.pt")
            last_save = now
    final = average.module.eval()
    card = dict(name="scenes", version="1", recipe=asdict(recipe), steps=steps, images=steps * recipe.batch,
                minutes=round(seconds / 60, 1), hardware=hardware(where), torch=torch.__version__, data=store.manifest,
                depth_range_m=DEPTH_RANGE, licence="Apache-2.0",
                exact_errors=dict(exact_errors(final, exact_scenes),
                                  scenes=f"seeds 0-{exact_scenes - 1}, never trained on, 64 px"))
    from safetensors.torch import save_file

    save_file({k: v.half().contiguous() for k, v in final.state_dict().items()}, folder / "scenes.safetensors")
    card["sha256"] = file_sha256(folder / "scenes.safetensors")
    (folder / "scenes.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["exact_errors"], indent=2))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
