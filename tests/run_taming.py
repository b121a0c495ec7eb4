"""Runs the published taming-transformers on forged runs; started in a process of its own by test_taming.py.

usage: run_taming.py SITE RUN...    SITE: where the package is installed; writes RUN/outputs.npz

The package asks for old releases of pytorch_lightning and transformers, and its losses for torchvision. None of them takes
part in what is compared, so empty modules stand in for them here, and only here.
"""
import importlib
import sys
import types
from pathlib import Path

import numpy as np
import torch
import yaml


def instantiate_from_config(config):
    module, _, name = config["target"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**config.get("params", {}))


def stand_in(name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module


def without_losses(node):
    """The configuration with every loss replaced by an identity."""
    if not isinstance(node, dict):
        return node
    return {k: {"target": "torch.nn.Identity"} if k == "lossconfig" else without_losses(v) for k, v in node.items()}


def coordinates(size):
    """As taming.data.faceshq makes them."""
    return torch.from_numpy((np.arange(size * size).reshape(1, 1, size, size) / (size * size)).astype(np.float32))


@torch.no_grad()
def run(folder):
    project = yaml.safe_load(next((folder / "configs").glob("*-project.yaml")).read_text())
    model = instantiate_from_config(without_losses(project["model"] | {"base_learning_rate": None})).eval()
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing and all(".loss." in name for name in unexpected), (missing, unexpected)
    stage, rng = model.first_stage_model, torch.Generator().manual_seed(1)
    size = project["model"]["params"]["first_stage_config"]["params"]["ddconfig"]["resolution"]
    image = torch.rand(2, 3, size, size, generator=rng) * 2 - 1
    if hasattr(stage.quantize, "proj"):  # its own forward draws at random; the most probable code is what it draws from
        z = stage.quant_conv(stage.encoder(image))
        indices = stage.quantize.proj(z).argmax(1)
    else:
        z, _, (_, _, indices) = stage.encode(image)
    side = z.shape[-1]
    tokens = torch.randint(20, (2, side, side), generator=rng)
    entry = stage.quantize.get_codebook_entry(tokens.flatten(), (2, side, side, z.shape[1]))
    if model.be_unconditional:
        condition = model.encode_to_c(image)[1]
    elif hasattr(model.cond_stage_model, "n_classes"):
        condition = model.encode_to_c(torch.tensor([1, 4]))[1]
    else:
        condition = model.encode_to_c(coordinates(size).expand(2, -1, -1, -1))[1]
    sequence = torch.cat([condition, tokens.flatten(1)], 1)[:, :-1]
    greedy = model.sample(tokens.flatten(1)[:, :0], condition, steps=side * side, sample=False)
    outputs = dict(image=image, indices=indices.reshape(2, -1), tokens=tokens, pictures=stage.decode(entry), greedy=greedy,
                   sequence=sequence, logits=model.transformer(sequence)[0], condition=condition)
    np.savez(folder / "outputs.npz", **{name: value.numpy() for name, value in outputs.items()})


if __name__ == "__main__":
    from make_taming import lightning

    sys.path.insert(0, sys.argv[1])
    stand_in("pytorch_lightning", LightningModule=torch.nn.Module)
    stand_in("transformers", top_k_top_p_filtering=None)
    stand_in("taming.main", instantiate_from_config=instantiate_from_config)
    with lightning():
        for name in sys.argv[2:]:
            run(Path(name))
