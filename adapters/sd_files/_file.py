"""A LoRA file read, and whether it belongs to a network."""
from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor, nn

_TEXT_WIDTHS = {768: "SD1.5", 1024: "SD2.1", 2048: "SDXL"}        # of the text embedding that cross-attention reads


@dataclass(frozen=True)
class LoRAFile:
    """What `read_lora` found.

    Attributes:
        state: {`unet.MODULE.lora_A.weight`: float32 [rank, in], `….lora_B.weight`: [out, rank]}, with the kernel behind for
            convolutions (A: [rank, in, kh, kw], B: [out, rank, 1, 1]); sorted by module
        rank: of every site; sites of a lower rank in the file are filled up with zeros
        alpha: of every site: the update is alpha / rank · B A
        style: how the file spells it: "attention-processor", "diffusers-lora-layer", "diffusers", "peft", "kohya" or
            "kohya-sgm" (the original U-Net's block numbers)
        source: the file, for messages
        metadata: the text that a .safetensors carries, or adapter_config.json's content under that name
        ignored: modules of text encoders that were left out
    """

    state: dict[str, Tensor]
    rank: int
    alpha: float
    style: str
    source: str
    metadata: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def sites(self) -> list[str]:
        """Exact module names, for `attach(..., sites=)`."""
        return [name.removesuffix(".lora_A.weight") for name in self.state if name.endswith(".lora_A.weight")]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(value.numel() for value in self.state.values())

    @property
    def base_model(self) -> str | None:
        """"SD1.5", "SD2.1" or "SDXL" by the width of its text embedding; None where the shapes do not say."""
        for site in self.sites:
            if site.endswith((".attn2.to_k", ".attn2.to_v")):
                return _TEXT_WIDTHS.get(self.state[f"{site}.lora_A.weight"].shape[1])
        deep = any(re.search(r"\.transformer_blocks\.[1-9]", site) for site in self.sites)
        return "SDXL" if deep else None


def fits(file: LoRAFile, network: nn.Module) -> None:
    """Checks that every site of a file is a module of `network` (which has the U-Net as `unet`) of the right shape.

    Raises ValueError naming the first that is not, its shape here and there, and the base model the file looks like.
    """
    modules = dict(network.named_modules())
    for site in file.sites:
        a, b = (file.state[f"{site}.lora_{letter}.weight"] for letter in "AB")
        module = modules.get(site)
        weight = getattr(getattr(module, "base_layer", module), "weight", None)
        if weight is None or weight.ndim < 2:
            raise ValueError(f"{_other(file)}: the network has no module {site} with a weight")
        expected = [file.rank, *weight.shape[1:]], [weight.shape[0], file.rank, *[1] * (weight.ndim - 2)]
        if [list(a.shape), list(b.shape)] != list(expected):
            raise ValueError(f"{_other(file)}: {site} has A {list(a.shape)} and B {list(b.shape)}, where the network's weight "
                             f"of {list(weight.shape)} takes {expected[0]} and {expected[1]}")


def _other(file: LoRAFile) -> str:
    looks = f" (it looks like {file.base_model} by its shapes)" if file.base_model else ""
    name = f"; load {file.base_model} as the generator" if file.base_model else "; load it on the one it was trained with"
    return f"{file.source}: LoRA of another base model{looks}{name}"
