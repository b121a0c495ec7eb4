"""The configurations of a Stable Diffusion's parts: what diffusers' folders and the publishers state, in one form.

A config.json holds whatever the constructor of its day took, so two files of one network differ by version and by who saved
them. Here a part always states the same fields (`STATED`), and others only where they differ from diffusers' defaults: the
same network has the same configuration, whether it came in a folder or in a single file.
"""
from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints._errors import CheckpointError
from ._config import StableDiffusionConfig

PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
SECOND = "text_encoder_2"       # of Stable Diffusion XL
CLASSES = {**PARTS, SECOND: "CLIPTextModelWithProjection"}
STATED = {
    "unet": ("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels",
             "layers_per_block", "attention_head_dim", "cross_attention_dim", "use_linear_projection", "upcast_attention",
             "norm_num_groups", "norm_eps", "act_fn", "flip_sin_to_cos", "freq_shift"),
    "vae": ("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels",
            "layers_per_block", "latent_channels", "norm_num_groups", "act_fn", "scaling_factor"),
}
# transformers' own defaults have changed over time (the token numbers); these are those of CLIP's publication.
TEXT = {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512, "num_hidden_layers": 12,
        "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0, "initializer_range": 0.02, "initializer_factor": 1.0, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2}
SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
READABLE = "only Stable Diffusion 1.x, 2.x and XL and what is built like them can be read."
PREDICTIONS = ("epsilon", "v_prediction", "sample")
PUBLISHED = ("sd15", "sd21-base", "sd21", "sdxl")
_CONFIGS = Path(__file__).parent / "configs"
_INPUTS = {
    8: "an image latent beside the noise, as InstructPix2Pix does; pass concatenated=True for all of it, or take "
       "its conv_in alone with read_conv_in",
    9: "a mask and a masked image beside the noise: an inpainting model; give the model it was made from",
    5: "a depth map beside the noise: a depth-to-image model; give the model it was made from",
    7: "a low-resolution image beside the noise: an upscaler; give a text-to-image model",
}


def part_config(part: str, stated: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The configuration of a part in our form, from what a config.json states.

    Raises CheckpointError where it is of another class.
    """
    known = stated.get("_class_name") or next(iter(stated.get("architectures") or ()), CLASSES[part])
    if known != CLASSES[part]:
        raise CheckpointError(f"{source}: its {part} is a {known!s:.60}, expected a {CLASSES[part]}; {READABLE}")
    if part in ("text_encoder", SECOND):
        return {name: stated.get(name, default) for name, default in TEXT.items()}
    import diffusers

    defaults = _defaults(getattr(diffusers, CLASSES[part]))
    values = {name: json.loads(json.dumps(stated.get(name, default))) for name, default in defaults.items()}
    defaults = json.loads(json.dumps(defaults))
    return {name: value for name, value in values.items() if name in STATED[part] or value != defaults[name]}


def scheduler_config(stated: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The noise schedule: the fields of `SCHEDULE`, and `rescale_betas_zero_snr` where it is set.

    Raises CheckpointError where it is no schedule of betas between two ends.
    """
    import diffusers

    name = str(stated.get("_class_name", "DDPMScheduler"))
    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    defaults = {**_defaults(diffusers.DDPMScheduler), **(_defaults(kind) if kind else {})}
    if "beta_start" not in stated and (kind is None or "beta_start" not in _defaults(kind)):
        raise CheckpointError(f"{source}: its scheduler, a {name:.60}, has no beta_start: it is not the noise schedule of a "
                              f"denoising diffusion model; {READABLE}")
    if stated.get("trained_betas") is not None:
        raise CheckpointError(f"{source}: its scheduler lists trained_betas; expected a schedule from beta_start to beta_end.")
    found = {field: stated.get(field, defaults[field]) for field in SCHEDULE}
    if found["prediction_type"] not in PREDICTIONS:
        raise CheckpointError(f"{source}: prediction_type is {found['prediction_type']!r:.60}, expected one of "
                              f"{', '.join(PREDICTIONS)}.")
    if stated.get("rescale_betas_zero_snr"):
        found["rescale_betas_zero_snr"] = True
    return found


def assemble(parts: Mapping[str, Mapping[str, Any]], scheduler: Mapping[str, Any], source: str, concatenated: bool = False,
             tokenizer: str | None = None, silent_is_zero: bool = False) -> StableDiffusionConfig:
    """The whole configuration, from what the files state of its parts.

    Args:
        parts: by "unet", "vae" and "text_encoder", of a Stable Diffusion XL "text_encoder_2" too
        scheduler: of the noise schedule
        source: for messages
        concatenated: whether a U-Net may take two latents, side by side
        tokenizer: folder of CLIP's tokenizer
        silent_is_zero: see `StableDiffusionConfig`; of two text encoders only

    Raises:
        CheckpointError: for a part of another class, or parts that do not belong together.
    """
    unet, vae, text = (part_config(part, parts[part], source) for part in PARTS)
    second = part_config(SECOND, parts[SECOND], source) if parts.get(SECOND) is not None else None
    try:
        latent, width, factor = vae["latent_channels"], unet["cross_attention_dim"], 2 ** (len(vae["block_out_channels"]) - 1)
        if unet["out_channels"] != latent:
            raise CheckpointError(f"{source}: the U-Net predicts {unet['out_channels']} channels, the VAE's latents have "
                                  f"{latent}; they are of different models.")
        if unet["in_channels"] not in (latent, 2 * latent if concatenated else latent):
            beside = _INPUTS.get(unet["in_channels"], "something else beside the noise; give a text-to-image model")
            raise CheckpointError(f"{source}: the U-Net takes {unet['in_channels']} channels, expected the latent's {latent}: "
                                  f"it reads {beside}.")
        words = text["hidden_size"] + (second["hidden_size"] if second else 0)
        if width != words:
            raise CheckpointError(f"{source}: the U-Net attends to vectors of {width} numbers, the text encoder"
                                  f"{'s give' if second else ' gives'} {words}; they are of different models.")
        if second:
            _check_second(unet, second, source)
        if extra := [name for name in ("class_embed_type", "addition_embed_type", "encoder_hid_dim", "encoder_hid_dim_type",
                                   "num_class_embeds")
                     if unet.get(name) is not None and not (second and name == "addition_embed_type")]:
            raise CheckpointError(f"{source}: the U-Net asks for more than an image, a timestep and a prompt: "
                                  f"{', '.join(extra)}; {READABLE}")
        side = unet["sample_size"]
        side = side[0] if isinstance(side, list) and len(set(side)) == 1 else side
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise CheckpointError(f"{source}: the U-Net's sample_size is {unet['sample_size']!r:.60}, expected the side of its "
                                  "latents; set it in unet/config.json (64 for 512 px).")
        return StableDiffusionConfig(unet, vae, text, scheduler_config(scheduler, source), side * factor, tokenizer=tokenizer,
                                     text_encoder_2=second, silent_is_zero=bool(second and silent_is_zero))
    except (TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{source}: its configuration is not a Stable Diffusion's: {str(error)[:200]}") from error


def _check_second(unet: Mapping[str, Any], second: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError unless the U-Net reads the second text encoder's summary of the prompt and three pairs of
    sizes."""
    kind, takes = unet.get("addition_embed_type"), unet.get("projection_class_embeddings_input_dim")
    numbers, summary = 6 * (unet.get("addition_time_embed_dim") or 0), second["projection_dim"]
    if kind != "text_time" or takes != summary + numbers or summary > unet["cross_attention_dim"]:
        raise CheckpointError(f"{source}: beside the prompt the U-Net takes {takes} numbers ({kind}), expected the {summary} "
                              f"of its second text encoder and {numbers} of six sizes (text_time), as Stable Diffusion "
                              "XL's base does; its refiner cannot be read.")


def check_fields(config: StableDiffusionConfig, source: str) -> None:
    """Raises CheckpointError for a configuration that states fields beyond those of its parts, or for parts that `assemble`
    would not put together: what no reader here can have made."""
    import diffusers

    known: dict[str, Any] = {part: TEXT if part.startswith("text_encoder") else _defaults(getattr(diffusers, CLASSES[part]))
                             for part in config.parts}
    known["scheduler"] = (*SCHEDULE, "rescale_betas_zero_snr")
    for part, fields in known.items():
        if strange := sorted(set(getattr(config, part)) - set(fields)):
            raise CheckpointError(f"{source}: {part} states {', '.join(strange)[:120]}, which is no field of a Stable "
                                  "Diffusion's; it was tampered with, or written by a newer version: convert the original "
                                  "again.")
    assemble({part: getattr(config, part) for part in config.parts}, config.scheduler, source, concatenated=True)
    if type(config.resolution) is not int or config.resolution < 1 or config.resolution % config.factor:
        raise CheckpointError(f"{source}: resolution is {config.resolution!r:.60}, expected a multiple of {config.factor}, "
                              "which is what its VAE divides by; convert the original again.")


def published(name: str) -> dict[str, Any]:
    """What the publishers state of "sd15", "sd21-base", "sd21" or "sdxl": the parts, scheduler, and the source."""
    if name not in PUBLISHED:
        raise ValueError(f"config: expected one of {', '.join(PUBLISHED)}, or a folder in diffusers' layout, got {name!r:.80}")
    return json.loads((_CONFIGS / f"{name}.json").read_text())


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError unless the file is there and holds a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: there is no {path.name}; download the folder again, with it.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({str(error)[:120]}); download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}; download it again.")
    return content


def _defaults(kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
