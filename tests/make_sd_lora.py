"""Forges LoRA files for Stable Diffusion's U-Net as their authors' tools write them; where such a tool is installed, it does
the writing. `LoRA` pairs are {site: (A, B)}, the sites named as diffusers names them."""
import warnings
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import save_file
from torch import Tensor, nn

LoRA = dict[str, tuple[Tensor, Tensor]]
TINY = dict(sample_size=8, block_out_channels=(8, 16), layers_per_block=2, norm_num_groups=4, attention_head_dim=4,
            cross_attention_dim=12, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
SD15 = dict(sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
            attention_head_dim=8)
SD21 = {**SD15, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}

SDXL = dict(sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20), use_linear_projection=True, transformer_layers_per_block=(1, 2, 10),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)


def unet(seed: int = 0, **changes) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(**{**TINY, **changes}).eval().requires_grad_(False)


def on_meta(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def attention_sites(model: nn.Module) -> list[str]:
    """Query, key, value and output of self- and cross-attention."""
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and ".attn" in n]


def lora(model: nn.Module, sites: list[str], rank: int | dict[str, int] = 3, seed: int = 1, scale: float = 0.4) -> LoRA:
    rng = torch.Generator().manual_seed(seed)
    pairs = {}
    for site in sites:
        weight = model.get_submodule(site).weight
        r = rank if isinstance(rank, int) else rank[site]
        a = torch.randn(r, *weight.shape[1:], generator=rng) * scale
        pairs[site] = a, torch.randn(len(weight), r, *[1] * (weight.ndim - 2), generator=rng) * scale
    return pairs


def peft_names(pairs: LoRA) -> dict[str, Tensor]:
    return {f"{site}.lora_{letter}.weight": pair["AB".index(letter)] for site, pair in pairs.items() for letter in "AB"}


def attention_processors(path: Path, pairs: LoRA, prefix: str = "") -> Path:
    """What `unet.save_attn_procs` wrote before diffusers 0.17: a pickle, the projection named within the processor."""
    state = {}
    for site, (a, b) in pairs.items():
        attention, _, projection = site.removesuffix(".0").rpartition(".")
        state[f"{prefix}{attention}.processor.{projection}_lora.down.weight"] = a
        state[f"{prefix}{attention}.processor.{projection}_lora.up.weight"] = b
    torch.save(state, path)
    return path


def lora_layers(path: Path, pairs: LoRA) -> Path:
    """diffusers 0.17 to 0.2x."""
    state = {f"unet.{site}.lora.{part}.weight": value for site, pair in pairs.items()
             for part, value in zip(("down", "up"), pair, strict=True)}
    save_file(state, path, {"format": "pt"})
    return path


def diffusers_weights(path: Path, pairs: LoRA, **config) -> Path:
    """By diffusers; config: PEFT's, which it keeps in the header."""
    StableDiffusionPipeline.save_lora_weights(path.parent, peft_names(pairs), weight_name=path.name,
                                              unet_lora_adapter_metadata=config or None)
    return path


def peft_folder(path: Path, model: nn.Module, pairs: LoRA, **config) -> Path:
    """By PEFT."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, LoraConfig(target_modules=list(pairs), **config))
        for site, (a, b) in pairs.items():
            layer = wrapped.base_model.model.get_submodule(site)
            layer.lora_A["default"].weight.data.copy_(a)
            layer.lora_B["default"].weight.data.copy_(b)
        wrapped.save_pretrained(path)
    return path


def unet_adapter(path: Path, model: UNet2DConditionModel, pairs: LoRA, **config) -> Path:
    """By diffusers, from a U-Net alone: no prefix, neither in the keys nor in the header."""
    from peft import LoraConfig

    model.add_adapter(LoraConfig(target_modules=list(pairs), **config))
    for site, (a, b) in pairs.items():
        layer = model.get_submodule(site)
        layer.lora_A["default"].weight.data.copy_(a)
        layer.lora_B["default"].weight.data.copy_(b)
    model.save_lora_adapter(path)
    return path


def kohya(path: Path, pairs: LoRA, alpha: float | dict[str, float], names: dict[str, str] | None = None,
          dtype: torch.dtype = torch.float32) -> Path:
    """By diffusers' exporter, with the alpha that kohya's scripts were told; `names` renames modules."""
    state = convert_state_dict_to_kohya({f"unet.{name}": value for name, value in peft_names(pairs).items()})
    for site in pairs:
        name = "lora_unet_" + site.replace(".", "_")
        value = alpha if isinstance(alpha, (int, float)) else alpha[site]
        state[f"{name}.alpha"] = torch.tensor(float(value))
        if names:
            for part in ("alpha", "lora_down.weight", "lora_up.weight"):
                state[f"lora_unet_{names[site].replace('.', '_')}.{part}"] = state.pop(f"{name}.{part}")
    save_file({key: value.to(dtype).contiguous() for key, value in state.items()}, path, {"ss_network_module": "networks.lora"})
    return path


def original_names(model: UNet2DConditionModel) -> dict[str, str]:
    """Every Linear and convolution by the name it has in the original U-Net, found by walking the blocks in the order in
    which they run, as the original numbers them."""
    places: dict[str, str] = {"conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
                              "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
                              "add_embedding.linear_2": "label_emb.0.2"}
    number = 1
    for i, block in enumerate(model.down_blocks):
        for j in range(len(block.resnets)):
            places[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers is not None:
            places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    places |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
               "mid_block.resnets.1": "middle_block.2"}
    number = 0
    for i, block in enumerate(model.up_blocks):
        attends = hasattr(block, "attentions")
        for j in range(len(block.resnets)):
            places[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers is not None:
            places[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{2 if attends else 1}.conv"
    inner = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
             "conv_shortcut": "skip_connection"}
    names = {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)):
            continue
        place = next(p for p in places if name == p or name.startswith(f"{p}."))
        rest = name[len(place) + 1:]
        rest = inner.get(rest, rest) if "resnets" in place else rest
        names[name] = f"{places[place]}.{rest}".removesuffix(".")
    return names
