"""Forges checkpoints as taming-transformers writes them: a Lightning .ckpt with all that a real one drags along, and its .yaml.

Lightning keys the state of its callbacks by their class, so the pickle names `pytorch_lightning`; that module exists only
while the file is written.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from generators.vqgan import VQGANConfig
from generators.vqgan._format import reference_shapes

TINY = dict(resolution=16, ch=32, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[8], z_channels=8, embed_dim=6,
            n_embed=20)
GPT = dict(vocab_size=24, block_size=128, n_layer=2, n_head=2, n_embd=16)
CONDITIONS = {
    "none": dict(conditioning="none", sos_token=3),
    "class": dict(conditioning="class", num_classes=5),
    "coordinate": dict(conditioning="coordinate", coord_embed=20, coord_factor=2),
}


def config(conditioning: str = "none", **changes: Any) -> VQGANConfig:
    """A tiny VQGAN with transformer."""
    return VQGANConfig.from_dict({**TINY, "gpt": GPT, **CONDITIONS[conditioning], **changes})


def weights(config: VQGANConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under taming's names, with the buffers and the loss that a file has besides."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in reference_shapes(config).items():
        matrix = name.startswith("transformer.") and len(shape) > 1       # large, so that what came before decides what comes
        draw = torch.randn(shape, generator=rng) * (0.6 if matrix else 0.1)
        state[name] = draw + 1 if name.endswith("weight") and len(shape) == 1 else draw
    state["first_stage_model.loss.discriminator.main.0.weight"] = torch.ones(4, 3, 4, 4)
    state["first_stage_model.loss.perceptual_loss.lin0.model.1.weight"] = torch.ones(1, 4, 1, 1)
    if config.gpt is None:
        return {name.removeprefix("first_stage_model."): value for name, value in state.items()}
    for i in range(config.gpt.n_layer):
        size = config.gpt.block_size
        state[f"transformer.blocks.{i}.attn.mask"] = torch.ones(size, size).tril().view(1, 1, size, size)
    return state


def description(config: VQGANConfig) -> dict[str, Any]:
    """The project.yaml of a run, as plain values."""
    dd = dict(double_z=False, z_channels=config.z_channels, resolution=config.resolution, in_channels=config.in_channels,
              out_ch=config.out_channels, ch=config.ch, ch_mult=list(config.ch_mult), num_res_blocks=config.num_res_blocks,
              attn_resolutions=list(config.attn_resolutions), dropout=0.0)
    params: dict[str, Any] = dict(embed_dim=config.embed_dim, n_embed=config.n_embed, ddconfig=dd,
                                  lossconfig=dict(target="taming.modules.losses.DummyLoss"))
    target = "taming.models.vqgan.VQModel"
    if config.quantizer == "gumbel":
        target = "taming.models.vqgan.GumbelVQ"
        schedule = dict(warm_up_steps=0, lr_min=0.1, lr_max=1.0, lr_start=1.0, max_decay_steps=1)
        params.update(kl_weight=1e-8, temperature_scheduler_config=dict(
            target="taming.lr_scheduler.LambdaWarmUpCosineScheduler", params=schedule))
    stage = dict(target=target, params=params)
    if config.gpt is None:
        return {"model": dict(base_learning_rate=4.5e-6, **stage)}
    gpt = dict(config.to_dict()["gpt"])
    condition = {
        "none": "__is_unconditional__",
        "class": dict(target="taming.modules.util.Labelator", params=dict(n_classes=config.num_classes)),
        "coordinate": dict(target="taming.modules.misc.coord.CoordStage",
                           params=dict(n_embed=config.coord_embed, down_factor=config.coord_factor)),
    }[config.conditioning]
    net = dict(cond_stage_config=condition, cond_stage_key="image", first_stage_config=stage,
               transformer_config=dict(target="taming.modules.transformer.mingpt.GPT", params=gpt))
    if config.conditioning == "none":
        net["sos_token"] = config.sos_token
    return {"model": dict(base_learning_rate=4.5e-6, target="taming.models.cond_transformer.Net2NetTransformer", params=net),
            "data": dict(target="main.DataModuleFromConfig", params=dict(batch_size=2))}


@contextmanager
def foreign(name: str) -> Iterator[type]:
    """Registers an empty class under the full name of somebody else's; yields it."""
    module, _, leaf = name.rpartition(".")
    parts = module.split(".")
    names = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    added = {n: ModuleType(n) for n in names if n not in sys.modules}
    sys.modules.update(added)
    kind = type(leaf, (), {"__module__": module})
    setattr(sys.modules[module], leaf, kind)
    try:
        yield kind
    finally:
        for n in added:
            del sys.modules[n]


def lightning() -> AbstractContextManager[type]:
    """Lightning's ModelCheckpoint."""
    return foreign("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")


def write_checkpoint(path: Path, state: dict[str, Any], **more: Any) -> Path:
    """A Lightning checkpoint of this state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    moments = {0: dict(step=7, exp_avg=torch.zeros(3), exp_avg_sq=torch.zeros(3))}
    with lightning() as kind:
        content = {"epoch": 3, "global_step": 700, "pytorch-lightning_version": "1.0.8",
                   "callbacks": {kind: dict(best_model_score=torch.tensor(1.5), best_model_path="logs/x.ckpt",
                                            dirpath="logs", current_score=None)},
                   "optimizer_states": [dict(state=moments, param_groups=[dict(lr=1e-4, betas=(0.9, 0.95), params=[0])])],
                   "lr_schedulers": [], "state_dict": state, **more}
        torch.save(content, path)
    return path


def write_yaml(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def write_run(folder: Path, config: VQGANConfig, seed: int = 0) -> Path:
    """A run's folder with `checkpoints/last.ckpt` and `configs/…-project.yaml`; returns it."""
    write_checkpoint(folder / "checkpoints" / "last.ckpt", weights(config, seed))
    write_yaml(folder / "configs" / "2021-04-23T18-11-19-project.yaml", description(config))
    return folder
