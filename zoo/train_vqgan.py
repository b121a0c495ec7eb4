"""Trains `vqgan-scenes` on rendered scenes, in the two stages of the paper; resumable, keeping quality levels.

    python -m zoo.render_scenes --out scenes
    python -m zoo.train_vqgan first --data scenes --out runs/vqgan-scenes
    python -m zoo.train_vqgan second --data scenes --out runs/vqgan-scenes --level 96 --kimg 200

`first` keeps snapshots of the first stage; `second` trains a transformer over the codes of one of them and writes
snapshot-LEVEL.pt, a whole generator without the encoder, for `zoo.export`.
"""
from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from jsonargparse import auto_cli

from generators._files import file_sha256
from generators.vqgan import GPTConfig, VQGANConfig, VQGANNetwork
from probes._record import hardware
from probes.data.scenes._store import Store

from ._training import card, chosen_device, falling, keeper, load_state, resume, run, save_atomically
from ._vqgan import FirstStage, Recipe, TransformerStage, all_codes


def network_config(resolution: int, encoder: bool = True) -> VQGANConfig:
    length = (resolution // 8) ** 2
    return VQGANConfig(resolution=resolution, ch=32, ch_mult=(1, 2, 3, 3), num_res_blocks=1,
                       attn_resolutions=(resolution // 4, resolution // 8), z_channels=64, embed_dim=16, n_embed=1024,
                       encoder=encoder, gpt=GPTConfig(vocab_size=1024, block_size=length, n_layer=5, n_head=5, n_embd=160))


def first(data: str, out: str, kimg: float = 96, recipe: Recipe = Recipe(), snapshots: tuple[float, ...] = (8, 32),  # noqa: B008
          device: str = "auto") -> None:
    """Trains the first stage until `kimg` thousand images; run again to go on from the last state.

    Args:
        data: scene store, from `python -m zoo.render_scenes`
        out: folder for state, snapshots and pictures
        kimg: where to stop; a snapshot is kept there too
        recipe: what decides the result
        snapshots: at which kimg to keep the averaged weights
        device: cpu, cuda or auto
    """
    where, folder, store = chosen_device(device), Path(out), Store(data)
    folder.mkdir(parents=True, exist_ok=True)
    stage = FirstStage(VQGANNetwork(network_config(store.manifest["size"]), seed=recipe.seed), store, recipe, where)
    resume(stage, folder / "first.pt")

    def keep(at: int) -> None:
        name = f"first-{at:06d}"
        save_atomically(dict(model=stage.ema.state_dict()), folder / f"{name}.pt")
        (folder / f"{name}.json").write_text(json.dumps(card(stage, where, store), indent=2))
        _reconstructions(stage, folder / f"{name}.png")

    run(stage, folder / "first.pt", kimg, keeper(stage, snapshots, kimg, keep), falling(0.8 * kimg, kimg, 0.1))


def second(data: str, out: str, level: int, kimg: float = 200, recipe: Recipe = Recipe(), device: str = "auto") -> None:  # noqa: B008
    """Trains the transformer over the codes of a first stage and writes the whole generator.

    Args:
        data: scene store, from `python -m zoo.render_scenes`
        out: folder of `first`
        level: which of its snapshots, in kimg
        kimg: thousands of images' codes to see
        recipe: what decides the result
        device: cpu, cuda or auto

    Raises ValueError if `out` holds the codes of another first stage or of other scenes.
    """
    where, folder, store = chosen_device(device), Path(out), Store(data)
    network = VQGANNetwork(network_config(store.manifest["size"]), seed=recipe.seed)
    network.first_stage.load_state_dict(torch.load(folder / f"first-{level:06d}.pt", weights_only=True)["model"])
    stage = TransformerStage(network, _codes(network, folder, level, store, where), recipe, where)
    path = folder / f"second-{level:06d}.pt"
    resume(stage, path)
    run(stage, path, kimg, lambda: None, lambda images: 0.55 + 0.45 * math.cos(math.pi * images / (kimg * 1000)))
    config = network_config(store.manifest["size"], encoder=False)
    names = set(VQGANNetwork(config, seed=0).state_dict())
    state = {name: value for name, value in network.cpu().state_dict().items() if name in names}
    target = folder / f"snapshot-{level:06d}.pt"
    save_atomically(dict(family="vqgan", ema=state, config=config.to_dict()), target)
    about = json.loads((folder / f"first-{level:06d}.json").read_text())
    about["recipe"] |= {k: v for k, v in asdict(recipe).items() if k.startswith("transformer_")}
    about |= dict(transformer_seed=recipe.seed, transformer_images=stage.images,
                  transformer_minutes=round(stage.seconds / 60, 1), transformer_hardware=hardware(where))
    target.with_suffix(".json").write_text(json.dumps(about, indent=2))


def _codes(network: VQGANNetwork, folder: Path, level: int, store: Store, device: torch.device) -> torch.Tensor:
    """`all_codes`, computed once for a first stage and its scenes."""
    path = folder / f"codes-{level:06d}.pt"
    of = dict(first_stage=file_sha256(folder / f"first-{level:06d}.pt"), data=store.manifest)
    stored = load_state(path)
    if stored is None:
        stored = dict(of=of, codes=all_codes(network.first_stage, store, device))
        save_atomically(stored, path)
    if stored["of"] != of:
        raise ValueError(f"out: {path} holds the codes of another first stage, or of other scenes than --data; delete it and "
                         f"second-{level:06d}.pt to begin anew, or choose another --out")
    return stored["codes"]


@torch.no_grad()
def _reconstructions(stage: FirstStage, path: Path, count: int = 8) -> None:
    """Scenes above, what the first stage makes of them below."""
    from PIL import Image

    from ._vqgan import quantise

    x = torch.from_numpy(stage.store.batch("image", range(count))) * 2 - 1
    model = stage.ema
    codes = quantise(model, model.encode(x.to(stage.device)).latents, 0.0)[0]
    rows = torch.stack([x, model.decoder(model.post_quant_conv(codes)).float().cpu()])
    picture = rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    Image.fromarray(((picture.clamp(-1, 1) + 1) * 127.5).byte().numpy()).save(path)


if __name__ == "__main__":
    auto_cli([first, second], as_positional=False)
