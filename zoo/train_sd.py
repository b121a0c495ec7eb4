"""Trains `sd-scenes` on rendered scenes, in the two stages of latent diffusion; resumable, keeping quality levels.

    python -m zoo.render_scenes --out scenes
    python -m zoo.train_sd first --data scenes --out runs/sd-scenes
    python -m zoo.train_sd second --data scenes --out runs/sd-scenes

`first` trains the autoencoder; `second` the U-Net and the text encoder on its latents and the scenes' captions, and writes
snapshot-KIMG.pt, whole generators for `zoo.export`.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from generators._files import file_sha256
from generators.stable_diffusion import StableDiffusionConfig, StableDiffusionNetwork
from probes._intrinsics import get_intrinsic
from probes.data.colour import linear_to_srgb
from probes.data.scenes import captions, render
from probes.data.scenes._captions import LONGEST, VOCABULARY
from probes.data.scenes._store import Store
from probes.metrics import get_protocol

from ._diffusion import AutoencoderRecipe, AutoencoderStage, UNetRecipe, UNetStage, draw, posteriors, start_as_downscaling
from ._training import card, chosen_device, falling, keeper, load_state, resume, run, save_atomically

HELD_OUT = 2_000_000             # first seed of scenes that no training sees
MEASURED = 200                   # of them, for the autoencoder's reconstruction


def vae_config(resolution: int) -> dict[str, Any]:
    """Of `diffusers.AutoencoderKL`: f = 4, four latent channels, no attention, 0.74 M parameters."""
    return dict(in_channels=3, out_channels=3, sample_size=resolution, latent_channels=4, layers_per_block=1,
                down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
                block_out_channels=[16, 48, 64], norm_num_groups=2, mid_block_add_attention=False)


def new_vae(resolution: int, seed: int):
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return start_as_downscaling(AutoencoderKL.from_config(vae_config(resolution)))


def network_config(resolution: int, scaling_factor: float) -> StableDiffusionConfig:
    """U-Net of 2.9 M parameters in Stable Diffusion's layout, on latents a quarter the size of the image; a text encoder."""
    return StableDiffusionConfig(
        resolution=resolution, vocabulary=VOCABULARY, vae=dict(vae_config(resolution), scaling_factor=scaling_factor),
        unet=dict(sample_size=resolution // 4, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=8,
                  down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
                  up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
                  block_out_channels=[48, 80, 96], attention_head_dim=2, cross_attention_dim=64),
        text_encoder=dict(vocab_size=len(VOCABULARY), hidden_size=64, intermediate_size=256, num_hidden_layers=2,
                          num_attention_heads=4, max_position_embeddings=LONGEST + 2, projection_dim=64,
                          bos_token_id=VOCABULARY.index("<start>"), eos_token_id=VOCABULARY.index("<end>"),
                          pad_token_id=VOCABULARY.index("<end>")),
        scheduler=dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                       prediction_type="v_prediction"))


def first(data: str, out: str, kimg: float = 48, recipe: AutoencoderRecipe = AutoencoderRecipe(),  # noqa: B008
          device: str = "auto") -> None:
    """Trains the autoencoder until `kimg` thousand images; run again to go on from the last state.

    Writes first.pt (averaged weights), first.json (what training it took, the latents' scaling factor and what
    reconstruction loses) and first.png.

    Args:
        data: scene store, from `python -m zoo.render_scenes`
        out: folder for state, weights and pictures
        kimg: where to stop; the learning rate falls linearly over the last third
        recipe: what decides the result
        device: cpu, cuda or auto
    """
    where, folder, store = chosen_device(device), Path(out), Store(data)
    folder.mkdir(parents=True, exist_ok=True)
    stage = AutoencoderStage(new_vae(store.manifest["size"], recipe.seed), store, recipe, where)
    resume(stage, folder / "first-state.pt")
    run(stage, folder / "first-state.pt", kimg, lambda: None,
        lambda images: max(0.03, min(1.0, 1 - (images / (kimg * 1000) - 0.65) / 0.35)))
    save_atomically(dict(model=stage.ema.state_dict()), folder / "first.pt")
    finish(data, out, device)


def finish(data: str, out: str, device: str = "auto") -> None:
    """Measures the autoencoder that `first` left in `out`, also one that is not done: first.pt, first.json, first.png.

    Args:
        data: its scene store
        out: folder of `first`
        device: cpu, cuda or auto
    """
    where, folder, store = chosen_device(device), Path(out), Store(data)
    stored = torch.load(folder / "first-state.pt", weights_only=True)
    recipe = AutoencoderRecipe(**stored["recipe"])
    stage = AutoencoderStage(new_vae(store.manifest["size"], recipe.seed), store, recipe, where)
    stage.load(stored)
    save_atomically(dict(model=stage.ema.state_dict()), folder / "first.pt")
    vae, size = stage.ema, store.manifest["size"]
    floor = reconstruction(vae, size, folder / "first.png")
    latents = posteriors(vae, store, where, count=2000)[0].float()
    about = dict(card(stage, where, store), scaling_factor=round(1 / latents.std().item(), 6), reconstruction=floor)
    (folder / "first.json").write_text(json.dumps(about, indent=2))
    print(json.dumps(about["reconstruction"]), "scaling_factor", about["scaling_factor"], flush=True)


@torch.no_grad()
def reconstruction(vae: torch.nn.Module, size: int, picture: Path | None = None) -> dict[str, float]:
    """What is lost on the way through the autoencoder, over scenes that no training sees.

    Images, albedo and shading: RMS of sRGB values in [0, 1], averaged over images; depth: RMS in metres; normals: mean angle
    in degrees. The last four were never trained on; they are the least error that a probe in this latent space can reach.
    """
    from PIL import Image

    maps = render(range(HELD_OUT, HELD_OUT + MEASURED), size)
    for name in ("image", "albedo", "shading"):
        maps[name] = linear_to_srgb(maps[name])
    device, found, rows = next(vae.parameters()).device, {}, []
    for name, values in maps.items():
        intrinsic = get_intrinsic("albedo" if name == "image" else name)
        encoded = intrinsic.to_image(values)
        parts = [vae.decode(vae.encode(x.to(device)).latent_dist.mean).sample.cpu() for x in encoded.split(50)]
        decoded = torch.cat(parts)
        rows += [encoded[:8], decoded[:8].clamp(-1, 1)]
        score = get_protocol(intrinsic.protocol)
        errors = score.score(intrinsic.to_map(decoded), values)
        found[name] = round(errors[score.primary].mean().item(), 4)
    if picture is not None:
        sheet = torch.stack(rows).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
        Image.fromarray(((sheet + 1) * 127.5).byte().numpy()).save(picture)
    return found


def second(data: str, out: str, kimg: float = 400, recipe: UNetRecipe = UNetRecipe(),  # noqa: B008
           snapshots: tuple[float, ...] = (16, 64, 160), device: str = "auto") -> None:
    """Trains U-Net and text encoder until `kimg` thousand latents; run again to go on from the last state.

    Args:
        data: scene store, from `python -m zoo.render_scenes`
        out: folder of `first`
        kimg: where to stop; a snapshot is kept there too
        recipe: what decides the result
        snapshots: at which kimg to keep the averaged weights
        device: cpu, cuda or auto

    Raises ValueError if `out` holds the latents of another autoencoder or of other scenes.
    """
    where, folder, store = chosen_device(device), Path(out), Store(data)
    about = json.loads((folder / "first.json").read_text())
    network = StableDiffusionNetwork(network_config(store.manifest["size"], about["scaling_factor"]), seed=recipe.seed)
    network.vae.load_state_dict(torch.load(folder / "first.pt", weights_only=True)["model"])
    mean, std = _latents(network, folder, store, where)
    start = store.manifest["first_seed"]
    stage = UNetStage(network, mean, std, captions(range(start, start + len(store))), recipe, where)
    resume(stage, folder / "state.pt")
    kept = keeper(stage, snapshots, kimg, lambda at: keep(stage, folder / f"snapshot-{at:06d}.pt",
                                                          dict(card(stage, where, store), autoencoder=about)))
    run(stage, folder / "state.pt", kimg, kept, falling(recipe.decay_from, kimg, 0.02))


def keep(stage: UNetStage, path: Path, about: dict[str, Any]) -> None:
    """A snapshot: the averaged weights with the autoencoder, what its card will say, and 24 samples of unseen captions."""
    from PIL import Image

    save_atomically(dict(family="stable-diffusion", ema=stage.ema.state_dict(), config=stage.config.to_dict()), path)
    path.with_suffix(".json").write_text(json.dumps(about, indent=2))
    image = draw(stage.ema, captions(range(HELD_OUT, HELD_OUT + 24))).float().cpu()
    sheet = image.reshape(3, 8, *image.shape[1:]).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    Image.fromarray(((sheet.clamp(-1, 1) + 1) * 127.5).byte().numpy()).save(path.with_suffix(".png"))


def _latents(network: StableDiffusionNetwork, folder: Path, store: Store, device: torch.device) -> tuple[Tensor, Tensor]:
    """`posteriors`, computed once for an autoencoder and its scenes."""
    path = folder / "latents.pt"
    of = dict(first_stage=file_sha256(folder / "first.pt"), data=store.manifest)
    stored = load_state(path)
    if stored is None:
        mean, std = posteriors(network.vae, store, device)
        stored = dict(of=of, mean=mean, std=std)
        save_atomically(stored, path)
    if stored["of"] != of:
        raise ValueError(f"out: {path} holds the latents of another autoencoder, or of other scenes than --data; delete it and "
                         "state.pt to begin anew, or choose another --out")
    return stored["mean"], stored["std"]


if __name__ == "__main__":
    auto_cli([first, finish, second], as_positional=False)
