"""Single files in the original layout of CompVis' latent-diffusion code, and how their weights become this network's.

    model.diffusion_model.*                     the U-Net
    first_stage_model.*                         the VAE
    cond_stage_model.transformer.*              CLIP's text encoder (Stable Diffusion 1.x)
    cond_stage_model.model.*                    OpenCLIP's, query, key and value in one matrix (2.x); the last layer is not used
    conditioner.embedders.0.transformer.*       CLIP's, and
    conditioner.embedders.1.model.*             OpenCLIP's with its projection (XL)
    model_ema.*                                 the U-Net's moving average, names without dots, in files to train further

diffusers' own conversion does the work; what is here decides what a file is, and that nothing of it gets lost.
"""
from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from ..checkpoints._errors import CheckpointError
from ._format import file_name
from ._parts import READABLE

UNET, VAE, TEXT, CLIP, OPEN_CLIP = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.",
                                    "cond_stage_model.transformer.", "cond_stage_model.model.")
CLIP_XL, OPEN_CLIP_XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
CONV_IN = f"{UNET}input_blocks.0.0."
_EMA = "model_ema."
_OTHERS = (     # what is often given instead, by a part of one of its names
    (r"conditioner\.embedders\.0\.model\.", "the refiner of a Stable Diffusion XL; give its base"),
    (r"(.*\.)?joint_blocks\.", "a Stable Diffusion 3, which has a transformer for its U-Net"),
    (r"(.*\.)?double_blocks\.", "a FLUX, which has a transformer for its U-Net"),
    (r"lora_(unet|te)|.*\.lora[_.](A|B|down|up)|.*_lora\.", "a LoRA, an addition to a model; give the model it was made for"),
    (r"control_model\.|controlnet_", "a ControlNet, an addition to a model"),
    (r"(down_blocks|up_blocks|mid_block|conv_in)\.",
     "a U-Net alone, in diffusers' layout; give the folder with model_index.json, unet/, vae/, text_encoder/ and scheduler/"),
    (r"(encoder|decoder)\.(down_blocks|up_blocks|conv_in|down|up)\.",
     "a VAE alone; give a file that holds the U-Net and the text encoder too"),
    (r"(input_blocks|output_blocks|middle_block)\.",
     "a U-Net alone; give a file that holds the VAE and the text encoder too, or a diffusers folder"),
)


def is_original(names: Any) -> bool:
    """Whether these are the names of a model in the original layout, whole or in part."""
    return any(name.startswith((UNET, CLIP, OPEN_CLIP, CLIP_XL, OPEN_CLIP_XL)) for name in names)


def kin(names: Any) -> str | None:
    """What these are the names of, where that is something often given instead of a Stable Diffusion."""
    return next((what for pattern, what in _OTHERS if any(re.match(pattern, name) for name in names)), None)


def check_names(names: Any, source: str) -> None:
    """Raises CheckpointError unless these are the names of a U-Net, a VAE and a text encoder in the original layout."""
    names = list(names)
    for pattern, what in _OTHERS[:5]:
        if any(re.match(pattern, name) for name in names):
            raise CheckpointError(f"{source} is {what}; {READABLE}")
    two = any(name.startswith("conditioner.embedders.") for name in names)
    texts = (("first text encoder", CLIP_XL), ("second text encoder", OPEN_CLIP_XL)) if two else (("text encoder", TEXT),)
    has = {what: any(name.startswith(prefix) for name in names) for what, prefix in (("U-Net", UNET), ("VAE", VAE), *texts)}
    if not has["U-Net"] and any(name.startswith(_EMA + "diffusion_model") for name in names):
        raise CheckpointError(f"{source} holds the U-Net's moving average alone, under names that do not say where its weights "
                              "go; give the file that was made for inference (\"ema-only\", \"pruned\").")
    if not any(has.values()):
        if what := kin(names):
            raise CheckpointError(f"{source} is {what}.")
        raise CheckpointError(f"{source} is no Stable Diffusion: none of its {len(names)} weights ({', '.join(names[:3])}) is "
                              "called as the original layout does.")
    if missing := [what for what, found in has.items() if not found]:
        raise CheckpointError(f"{source} lacks the {' and the '.join(missing)}, as some pruned files do; give a file with the "
                              "U-Net, the VAE and the text encoder, or a diffusers folder.")


def width(state: dict[str, Tensor], source: str) -> tuple[int, int]:
    """How many numbers the vectors have that the U-Net attends to (768 in 1.x, 1024 in 2.x, 2048 in XL), and how many channels
    it takes."""
    keys = (value for name, value in state.items() if name.startswith(UNET) and name.endswith("attn2.to_k.weight"))
    key, first = next(keys, None), state.get(f"{CONV_IN}weight")
    if key is None or key.ndim != 2:
        raise CheckpointError(f"{source}: its U-Net attends to no prompt; only text-to-image models can be read.")
    if first is None or first.ndim != 4:
        raise CheckpointError(f"{source}: its U-Net has no first convolution, {CONV_IN}weight; it is damaged or incomplete.")
    return key.shape[1], first.shape[1]


def averaged(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The same with the U-Net's moving average in the U-Net's place, where the file holds both."""
    if not any(name.startswith(_EMA + "diffusion_model") for name in state):
        return state
    flat = {name: _EMA + "".join(name.split(".")[1:]) for name in state if name.startswith(UNET)}
    if missing := [theirs for theirs in flat.values() if theirs not in state]:
        raise CheckpointError(f"{source}: the moving average of {len(missing)} weights is not there ({missing[0]:.80}); "
                              "download it again, whole, or give the file that was made for inference (\"ema-only\").")
    return {name: state[flat[name]] if name in flat else value for name, value in state.items()
            if not name.startswith(_EMA)}


def convert(state: dict[str, Tensor], config: dict[str, Any], source: str) -> dict[str, Tensor]:
    """Weights under their original names -> under this network's.

    Args:
        state: of the file
        config: of the network, by part
        source: for messages

    Raises:
        CheckpointError: there are weights that have no place.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    try:
        parts = {
            "unet": convert_ldm_unet_checkpoint(_only(state, UNET), config["unet"]),
            "vae": convert_ldm_vae_checkpoint(_only(state, VAE), config["vae"]),
            "text_encoder": _text(state, config["text_encoder"]),
        }
        if "text_encoder_2" in config:
            parts["text_encoder_2"] = _open_clip(state, OPEN_CLIP_XL, config["text_encoder_2"])
    except (KeyError, IndexError, AttributeError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{source}: its weights are not laid out as its configuration says ({type(error).__name__}: "
                              f"{str(error)[:120]}); pass the configuration that belongs to it as config=.") from error
    for part, prefix in (("unet", UNET), ("vae", VAE)):
        given = [name for name in _only(state, prefix)]
        if len(given) != len(parts[part]):
            raise CheckpointError(f"{source}: {len(given)} weights below {prefix} became {len(parts[part])} of the {part}; "
                                  "only networks without added or removed layers can be read.")
    return {file_name(f"{part}.{name}"): value for part, weights in parts.items() for name, value in weights.items()}


def _only(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(prefix) and not name.startswith(f"{prefix}loss.")}


def _text(state: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    clip = next((prefix for prefix in (CLIP, CLIP_XL) if any(name.startswith(prefix) for name in state)), None)
    if clip:
        found = convert_ldm_clip_checkpoint(_only(state, clip))
    else:       # the projection into the space of images is not used, and would mislead about the width
        found = _open_clip({name: value for name, value in state.items() if not name.endswith("text_projection")}, OPEN_CLIP,
                           config)
    layers = config["num_hidden_layers"]
    # Stable Diffusion 2.x reads the last layer but one: the network ends there.
    return {name: value for name, value in found.items() if not name.endswith("position_ids")
            and not ((layer := re.search(r"encoder\.layers\.(\d+)\.", name)) and int(layer[1]) >= layers)}


def _open_clip(state: dict[str, Tensor], prefix: str, config: dict[str, Any]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    like = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
    return convert_open_clip_checkpoint(like, _only(state, prefix), prefix)
