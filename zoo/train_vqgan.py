"""Trains `vqgan-scenes` on rendered scenes, in the two stages of the paper; resumable, keeping quality levels.

    python -m zoo.render_scenes --out scenes
    python -m zoo.train_vqgan first --data scenes --out runs/vqgan-scenes
    python -m zoo.train_vqgan second --data scenes --out runs/vqgan-scenes --level 96 --kimg 200

`first` keeps snapshots of the first stage; `second` trains a transformer over the codes of one of them and writes
snapshot-LEVEL.pt, a whole generator without the encoder, for `zoo.export`. A level is as good as its first stage.
"""
from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from jsonargparse import auto_cli

from generators._files import file_sha256
from generators.vqgan import GPTConfig, VQGANConfig, VQGANNetwork
from probes._fit import hardware
from probes.data.scenes._store import Store

from ._gan import chosen_device
from ._state import load_state, save_atomically
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
    _resume(stage, folder / "first.pt")
    due = sorted(k for k in snapshots if stage.images < k * 1000 and k < kimg) + [kimg]

    def keep() -> None:
        while due and stage.images >= due[0] * 1000:
            name = f"first-{int(due.pop(0)):06d}"
            save_atomically(dict(model=stage.ema.state_dict()), folder / f"{name}.pt")
            card = _card(stage, where, store)
            (folder / f"{name}.json").write_text(json.dumps(card, indent=2))
            _reconstructions(stage, folder / f"{name}.png")

    _run(stage, folder / "first.pt", kimg, keep, lambda x: 1.0 if x < 0.8 else 1 - 0.9 * (x - 0.8) / 0.2)


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
    _resume(stage, path)
    _run(stage, path, kimg, lambda: None, lambda x: 0.55 + 0.45 * math.cos(math.pi * x))
    config = network_config(store.manifest["size"], encoder=False)
    names = set(VQGANNetwork(config, seed=0).state_dict())
    state = {name: value for name, value in network.cpu().state_dict().items() if name in names}
    target = folder / f"snapshot-{level:06d}.pt"
    save_atomically(dict(family="vqgan", ema=state, config=config.to_dict()), target)
    card = json.loads((folder / f"first-{level:06d}.json").read_text())
    card["recipe"] |= {k: v for k, v in asdict(recipe).items() if k.startswith("transformer_")}
    card |= dict(transformer_seed=recipe.seed, transformer_images=stage.images,
                 transformer_minutes=round(stage.seconds / 60, 1), transformer_hardware=hardware(where))
    target.with_suffix(".json").write_text(json.dumps(card, indent=2))


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


def _resume(stage: FirstStage | TransformerStage, state_path: Path) -> None:
    state = load_state(state_path)
    if state is not None:
        stage.load(state)


def _run(stage: FirstStage | TransformerStage, state_path: Path, kimg: float, keep: Callable[[], None],
         decay: Callable[[float], float]) -> None:
    """Steps until `kimg`, keeping the state; `decay` is the learning rate's over the way done."""
    clock = last_save = last_log = time.time()
    while stage.images < kimg * 1000:
        row = stage.step(decay(stage.images / (kimg * 1000)))
        now = time.time()
        stage.seconds += now - clock
        clock = now
        if not all(math.isfinite(v) for v in row.values()):
            raise FloatingPointError(f"loss is not finite at {stage.images} images; the last state is kept in "
                                     f"{state_path}: lower the learning rate and start again")
        if now - last_log > 20:
            row.update(kimg=stage.images / 1000, minutes=stage.seconds / 60, rate=stage.images / stage.seconds)
            print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
            last_log = now
        keep()
        if now - last_save > 240:
            save_atomically(stage.state(), state_path)
            last_save = now
    save_atomically(stage.state(), state_path)


def _card(stage: FirstStage, device: torch.device, store: Store) -> dict:
    return dict(recipe=asdict(stage.recipe), images=stage.images, steps=stage.images // stage.recipe.batch,
                hardware=hardware(device), minutes=round(stage.seconds / 60, 1), data=store.manifest,
                torch=torch.__version__)


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
