"""Trains the encoder of the scenes world without a label: a small DINOv2 with registers that learns from images alone.

    python -m zoo.render_scenes --out scenes
    python -m zoo.train_encoder --data scenes --out runs/encoder-scenes

It is the embedded stand-in for the DINOv2 that the paper sets beside generators (arXiv 2311.17137, Table 3): the architecture
is transformers' Dinov2WithRegistersModel, the objective is another. Self-distillation as DINOv2 does it needs large batches and
long runs; a masked autoencoder (He et al. 2022, arXiv 2111.06377) learns within minutes of one core, because its encoder sees a
quarter of the patches only. A shallow decoder, thrown away afterwards, restores the others.

What it has learnt is read off by a linear map from its frozen patch tokens to exact normals and depth, the same as from an
untrained twin and from the bare pixels of the patches: all three numbers travel with it in its card.
"""
from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jsonargparse import auto_cli
from torch import Tensor, nn

from generators._files import atomic, file_sha256
from probes._record import hardware
from probes.data.scenes._store import Store

from ._training import check_recipe, chosen_device, load_state, real_batch, save_atomically

MEAN = STD = (0.5, 0.5, 0.5)        # images reach the encoder in [-1, 1]


@dataclass
class Recipe:
    """Everything that decides the result.

    Args:
        size: of the images, pixels a side
        patch: pixels a side
        width: channels of a token
        layers: of the encoder
        heads: of its attention
        mlp_ratio: hidden channels of its MLPs, in multiples of the width
        registers: tokens beside the patches and the class (Darcet et al. 2023, arXiv 2309.16588)
        hidden: part of the patches that the encoder does not see
        contrast: standard deviation, in [0, 1], below which a patch's contrast is no longer brought to one; plain walls would
            otherwise ask for their rounding errors
        decoder_width: channels of the decoder
        decoder_layers: of the decoder
        batch: images a step
        learning_rate: peak of a one-cycle cosine schedule
        weight_decay: AdamW's
        ema_steps: half-life of the weights' moving average
        seed: of weights, order and masks
    """

    size: int = 64
    patch: int = 8
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    registers: int = 4
    hidden: float = 0.75
    contrast: float = 0.03
    decoder_width: int = 96
    decoder_layers: int = 1
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    ema_steps: int = 200
    seed: int = 0


def fresh_encoder(recipe: Recipe, **other: int) -> nn.Module:
    """transformers' Dinov2WithRegistersModel, drawn by torch's generator as it stands; `other` fields replace the recipe's."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    about = dict(hidden_size=recipe.width, num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads,
                 patch_size=recipe.patch, mlp_ratio=recipe.mlp_ratio, image_size=recipe.size,
                 num_register_tokens=recipe.registers)
    # On a CPU torch's fused attention takes longer for so few tokens, in bf16 backward several times as long.
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**about | other, attn_implementation="eager"))


class MaskedAutoencoder(nn.Module):
    """image [N, 3, H, W] in [-1, 1], a random order of its P patches [N, P] -> the loss on the patches that stayed hidden."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe, width = recipe, recipe.decoder_width
        self.count = (recipe.size // recipe.patch) ** 2
        self.visible = self.count - round(recipe.hidden * self.count)
        self.encoder = fresh_encoder(recipe)
        self.enter = nn.Linear(recipe.width, width)
        self.blank = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, self.count, width) * 0.02)
        same = fresh_encoder(recipe, hidden_size=width, num_hidden_layers=recipe.decoder_layers, num_attention_heads=4)
        self.decoder, self.norm = same.encoder, same.layernorm
        self.leave = nn.Linear(width, 3 * recipe.patch**2)

    def forward(self, image: Tensor, order: Tensor) -> Tensor:
        others = 1 + self.recipe.registers                      # the class token and the registers are always seen
        cut = patches(image, self.recipe.patch)
        shown, hidden = order[:, :self.visible], order[:, self.visible:]
        seen = self.encoder.encoder(self.embed(_rows(cut, shown), shown)).last_hidden_state
        place = self.place.expand(len(image), -1, -1)
        known = self.enter(self.encoder.layernorm(seen)[:, others:]) + _rows(place, shown)
        asked = self.blank + _rows(place, hidden)
        restored = self.decoder(torch.cat([known, asked.to(known.dtype)], 1)).last_hidden_state[:, self.visible:]
        wanted = _rows(cut, hidden)
        wanted = wanted - wanted.mean(2, keepdim=True)
        wanted = wanted / (wanted.square().mean(2, keepdim=True) + (2 * self.recipe.contrast) ** 2).sqrt()
        return F.mse_loss(self.leave(self.norm(restored)).float(), wanted)

    def embed(self, cut: Tensor, shown: Tensor) -> Tensor:
        """What `encoder.embeddings` makes of the patches at the places `shown` [N, V] alone, of their pixels [N, V, 3 · size²].
        Its convolution, whose kernels do not overlap, is one matrix product."""
        own, count = self.encoder.embeddings, len(cut)
        place = own.position_embeddings
        made = F.linear(cut, own.patch_embeddings.projection.weight.flatten(1), own.patch_embeddings.projection.bias)
        made = made + _rows(place[:, 1:].expand(count, -1, -1), shown)
        first = torch.cat([own.cls_token + place[:, :1], own.register_tokens], 1).expand(count, -1, -1)
        return torch.cat([first, made], 1)


def _rows(values: Tensor, order: Tensor) -> Tensor:
    return values.gather(1, order[:, :, None].expand(-1, -1, values.shape[2]))


def patches(image: Tensor, size: int) -> Tensor:
    """[N, C, H, W] -> [N, patches in reading order, C · size²]."""
    return F.pixel_unshuffle(image, size).flatten(2).mT


def pixels(found: Tensor, size: int) -> Tensor:
    """What `patches` undoes, for square images."""
    side = math.isqrt(found.shape[1])
    return F.pixel_shuffle(found.mT.unflatten(2, (side, side)), size)


@torch.no_grad()
def tokens(encoder: nn.Module, image: Tensor) -> Tensor:
    """Frozen patch tokens [N, P, width] of images in [-1, 1]."""
    where, others = next(encoder.parameters()).device, 1 + encoder.config.num_register_tokens
    found = [encoder(pixel_values=part.to(where)).last_hidden_state[:, others:].float() for part in image.split(50)]
    return torch.cat(found).cpu()


@torch.no_grad()
def readout(features: Callable[[Tensor], Tensor] | None, train: dict[str, Tensor], test: dict[str, Tensor],
            patch: int, penalty: float = 1e-3) -> dict[str, float]:
    """Errors on `test` of ridge regressions from each patch's features, and its place, to its normals and log depth.

    Args:
        features: image [N, 3, H, W] in [-1, 1] -> [N, P, D]; None: the place alone
        train, test: image in [-1, 1], normal, and depth in metres, [N, C, H, W]
        patch: pixels a side
        penalty: of the ridge, in parts of the mean square of the standardised features
    """
    def build(image: Tensor) -> Tensor:
        count = (image.shape[2] // patch) ** 2
        place = torch.eye(count).expand(len(image), -1, -1)
        return place if features is None else torch.cat([features(image), place], 2)

    x, y = build(train["image"]).flatten(0, 1), {k: v for k, v in train.items() if k != "image"}
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    x = _standard(x, mean, deviation)
    square = x.mT @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    found = {}
    for name, value in y.items():
        value = patches(value if name == "normal" else value.log(), patch).flatten(0, 1).double()
        weight = torch.linalg.solve(square, x.mT @ value)
        said = _standard(build(test["image"]), mean, deviation) @ weight
        found[name] = pixels(said.float(), patch)
    angle = (F.normalize(found["normal"], dim=1) * test["normal"]).sum(1).clamp(-1, 1).acos().rad2deg()
    rms = (found["depth"].exp() - test["depth"]).square().mean((1, 2, 3)).sqrt()
    return {"normal mean angular error (degrees)": round(angle.mean().item(), 3), "depth RMS (m)": round(rms.mean().item(), 4)}


def _standard(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    x = ((x - mean) / deviation).double()
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)


def readouts(encoder: nn.Module, recipe: Recipe, train_scenes: int, test_scenes: int) -> dict:
    """What a linear map reads of exact normals and depth off this encoder, an untrained twin, bare patches, the place."""
    def scenes(seeds: range) -> dict[str, Tensor]:
        from probes.data.colour import linear_to_srgb
        from probes.data.scenes import render

        maps = render(seeds, recipe.size)
        return dict(image=linear_to_srgb(maps["image"]) * 2 - 1, normal=maps["normal"], depth=maps["depth"])

    test, train = scenes(range(test_scenes)), scenes(range(10_000, 10_000 + train_scenes))
    torch.manual_seed(recipe.seed + 1)
    untrained = fresh_encoder(recipe).eval()
    rows = {"trained": lambda image: tokens(encoder, image), "untrained": lambda image: tokens(untrained, image),
            "patches": lambda image: patches(image, recipe.patch), "place alone": None}
    found = {name: readout(features, train, test, recipe.patch) for name, features in rows.items()}
    return dict(found, scenes=f"fitted on seeds 10000-{9_999 + train_scenes}, scored on 0-{test_scenes - 1}: none seen before")


def main(data: str, out: str, steps: int = 1200, recipe: Recipe = Recipe(), device: str = "auto",  # noqa: B008
         save_every: float = 120.0, train_scenes: int = 1500, test_scenes: int = 300) -> None:
    """Trains for `steps`; run again to go on from the last state.

    Args:
        data: scene store, from `python -m zoo.render_scenes`; of its maps only the images are read
        out: folder for the state, and for config.json, model.safetensors, preprocessor_config.json and card.json
        steps: optimiser steps
        recipe: what decides the result
        device: cpu, cuda or auto
        save_every: seconds between writes of the state
        train_scenes: exact scenes that the linear readout is fitted on, at the end
        test_scenes: exact scenes that it is scored on
    """
    where, folder = chosen_device(device), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(data)
    torch.manual_seed(recipe.seed)
    network = MaskedAutoencoder(recipe).to(where)
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5 ** (1 / recipe.ema_steps))
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=averaging)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, (0.9, 0.95), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.05,
                                                   cycle_momentum=False)
    rng = torch.Generator().manual_seed(recipe.seed)
    parts = dict(network=network, average=average, optimiser=optimiser, schedule=schedule)
    step, seconds, curve = 0, 0.0, []
    if (state := load_state(folder / "state.pt")) is not None:
        check_recipe(state["recipe"], recipe)
        if state["steps"] != steps:
            raise ValueError(f"steps: the stored training is of {state['steps']} steps, whose learning rate falls to the last; "
                             "give that number, or choose another --out")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        rng.set_state(state["rng"])
        step, seconds, curve = state["step"], state["seconds"], state["curve"]
    clock = last_save = last_log = time.time()
    recent = torch.zeros(())
    while step < steps:
        image = real_batch(store, recipe.batch, rng).contiguous().to(where)
        order = torch.rand(recipe.batch, network.count, generator=rng).argsort(1).to(where)
        with torch.autocast(where.type, torch.bfloat16):
            loss = network(image, order)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        step, recent = step + 1, recent + loss.detach().cpu()
        now = time.time()
        seconds, clock = seconds + now - clock, now
        if step % 100 == 0 or step == steps:
            if not math.isfinite(recent.item()):
                raise FloatingPointError(f"loss is not finite at step {step}; the last state is kept in {folder}: lower "
                                         "recipe.learning_rate and start again in another --out")
            curve.append((step, round(recent.item() / (step % 100 or 100), 5)))
            recent = torch.zeros(())
        if now - last_log > 20 and curve:
            print(f"step {step}/{steps}  loss {curve[-1][1]:.4f}  {step * recipe.batch / seconds:.0f} images/s", flush=True)
            last_log = now
        # Only where the running mean is empty, so that a resumed curve is the same too.
        if step == steps or step % 100 == 0 and now - last_save > save_every:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_atomically(dict(state, rng=rng.get_state(), step=step, steps=steps, seconds=seconds, curve=curve,
                                 recipe=asdict(recipe)), folder / "state.pt")
            last_save = now
    encoder = average.module.encoder.eval()
    card = dict(name="scenes", version="1", objective="masked autoencoder, no label", recipe=asdict(recipe), steps=steps,
                images=steps * recipe.batch, minutes=round(seconds / 60, 1), hardware=hardware(where), torch=torch.__version__,
                data=store.manifest, licence="Apache-2.0", loss=curve[-1][1], curve=curve,
                parameters=sum(p.numel() for p in encoder.parameters()))
    save_encoder(encoder, folder)
    encoder = encoder.cpu().half().float()          # as it was written
    card["linear_readout"] = readouts(encoder, recipe, train_scenes, test_scenes)
    card["sha256"] = file_sha256(folder / "model.safetensors")
    with atomic(folder / "card.json") as path:
        path.write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["linear_readout"], indent=2))


def save_encoder(encoder: nn.Module, folder: Path) -> None:
    """Writes it as transformers does, in half precision, each file whole or not at all; the encoder itself is left as it is."""
    with tempfile.TemporaryDirectory() as place:
        type(encoder)(encoder.config).half().save_pretrained(
            place, state_dict={k: v.detach().cpu().half() for k, v in encoder.state_dict().items()})
        (Path(place) / "preprocessor_config.json").write_text(json.dumps(dict(
            do_resize=False, do_rescale=True, do_normalize=True, image_mean=MEAN, image_std=STD), indent=2) + "\n")
        for file in Path(place).iterdir():
            with atomic(folder / file.name) as path:
                shutil.copyfile(file, path)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
