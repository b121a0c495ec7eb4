"""Which module of the U-Net a key is about, in every spelling in use.

A key is the name of a module and the part of its LoRA. The module is named with dots as diffusers names it, or with
underscores behind `lora_unet_`, where dots and the underscores of names can only be told apart by knowing the names; and
either by diffusers' blocks (`down_blocks.0.attentions.1`) or by the numbers of the original U-Net (`input_blocks.2.1`).
"""
from __future__ import annotations

import re
from dataclasses import dataclass

# style -> the part of a key. `to` is a projection that is named in the part and not in the module.
PARTS = {
    "attention-processor": re.compile(r"(?P<module>.+)\.processor\.(?P<to>to_(?:q|k|v|out))_lora\.(?P<part>down|up)\.weight"),
    "diffusers-lora-layer": re.compile(r"(?P<module>.+)\.lora\.(?P<part>down|up)\.weight"),
    "kohya": re.compile(r"(?P<module>.+)\.lora_(?P<part>down|up)\.weight"),
    "diffusers": re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"),
    "alpha": re.compile(r"(?P<module>.+)\.(?P<part>alpha)"),
}
ROLES = {"down": "A", "A": "A", "up": "B", "B": "B", "alpha": "alpha"}
TEXT_ENCODER = re.compile(r"(?:base_model\.model\.)?(?:text_encoder|text_model|lora_te)")
HARMLESS = re.compile(r"(?:down|lora_A(?:\.[^.]+)?)\.weight|\.alpha")     # what alone changes nothing
PREFIX = re.compile(r"(?:base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|unet\.)*")
KOHYA = "lora_unet_"
# Adapters of other kinds, by what their keys contain.
OTHERS = {
    "DoRA": r"dora_scale|lora_magnitude_vector",
    "LoHa": r"\.hada_",
    "LoKr": r"\.lokr_",
    "LoCon with a Tucker core": r"lora_mid",
    "OFT or BOFT": r"\.b?oft_",
    "VeRA": r"vera_lambda",
    "Custom Diffusion": r"custom_diffusion",
    "LoRA with trained biases": r"lora(?:_B|[._]up)(?:\.\w+)?\.bias$",
    "full difference of weights": r"\.(?:diff|diff_b|w_norm|b_norm)$",
}
TOP = frozenset("down_blocks mid_block up_blocks conv_in conv_out time_embedding add_embedding class_embedding".split())
_COMPOUND = (
    "down_blocks up_blocks mid_block transformer_blocks to_q to_k to_v to_out proj_in proj_out conv_in conv_out conv_shortcut "
    "time_emb_proj time_embedding add_embedding class_embedding linear_1 linear_2 "
    "input_blocks middle_block output_blocks in_layers out_layers emb_layers skip_connection time_embed label_emb"
).split()
_WORD = re.compile(f"({'|'.join(_COMPOUND)}|[A-Za-z0-9]+)(?:_|$)")
_RESNET = {"in_layers.2": "conv1", "out_layers.3": "conv2", "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"}
_EMBEDDINGS = {"input_blocks.0.0": "conv_in", "out.2": "conv_out",
               "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
               "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}
_LAYERS = 2                     # residual blocks a resolution, in every Stable Diffusion there is


@dataclass(frozen=True)
class Entry:
    """One key understood: `site` is diffusers' module name behind `unet.`, `role` is A, B or alpha."""

    site: str
    role: str
    style: str
    adapter: str | None = None


def decode(key: str) -> Entry:
    """Raises ValueError saying what about the key is not known."""
    if kind := next((kind for kind, mark in OTHERS.items() if re.search(mark, key)), None):
        raise ValueError(f"is of a {kind}, not of a LoRA of the form B A; only plain LoRA can be read")
    style, match = next(((style, found) for style, part in PARTS.items() if (found := part.fullmatch(key))), (None, None))
    if match is None:
        raise ValueError("is no part of a LoRA; expected names such as unet.….attn1.to_q.lora_A.weight, "
                         "….attn1.processor.to_q_lora.down.weight or lora_unet_…_attn1_to_q.lora_down.weight")
    groups = match.groupdict()
    module = groups["module"]
    words = _split(module.removeprefix(KOHYA)) if module.startswith(KOHYA) else PREFIX.sub("", module, count=1).split(".")
    if to := groups.get("to"):
        words += ["to_out", "0"] if to == "to_out" else [to]
    try:
        site = _from_numbers(words)
    except (ValueError, IndexError):
        site = None
    if site is None or site.split(".")[0] not in TOP:
        raise ValueError("names no module of Stable Diffusion's U-Net; the LoRA is of another kind of network "
                         f"(a module here begins with {', '.join(sorted(TOP))})")
    if style == "kohya" and site != ".".join(words):
        style = "kohya-sgm"
    return Entry(f"unet.{site}", ROLES[groups["part"]], style, groups.get("adapter"))


def to_kohya(site: str) -> str:
    """A site behind `unet.` -> the name that kohya's scripts, ComfyUI and others give it."""
    return KOHYA + site.removeprefix("unet.").replace(".", "_")


def _split(name: str) -> list[str]:
    """`down_blocks_0_attentions_1` -> [down_blocks, 0, attentions, 1]."""
    words = _WORD.findall(name)
    return words if "_".join(words) == name else [name]


def _from_numbers(words: list[str]) -> str:
    """The original U-Net's numbers -> diffusers' blocks; diffusers' own names as they are.

    Input block 0 is conv_in; then each resolution has two blocks of [resnet, attention] and one that halves. Output blocks
    come in threes, the last of which also doubles, behind its attention where it has one.
    """
    name = ".".join(words)
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    if words[0] == "middle_block":
        place = ("resnets.0", "attentions.0", "resnets.1")[int(words[1])]
        return f"mid_block.{place}.{_inner(place, words[2:])}"
    if words[0] not in ("input_blocks", "output_blocks"):
        return name
    number, inner, rest = int(words[1]), words[2], words[3:]
    down = words[0] == "input_blocks"
    block, layer = divmod(number - 1 if down else number, _LAYERS + 1)
    if block < 0:
        raise ValueError(name)
    side = "down_blocks" if down else "up_blocks"
    if down and rest == ["op"]:
        return f"{side}.{block}.downsamplers.0.conv"
    if not down and rest == ["conv"]:
        return f"{side}.{block}.upsamplers.0.conv"
    place = f"{('resnets', 'attentions')[int(inner)]}.{layer}"
    return f"{side}.{block}.{place}.{_inner(place, rest)}"


def _inner(place: str, rest: list[str]) -> str:
    inner = ".".join(rest)
    return _RESNET.get(inner, inner) if place.startswith("resnets") else inner
