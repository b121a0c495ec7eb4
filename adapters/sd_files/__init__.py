"""LoRA files of the Stable Diffusion world, in and out.

    file = read_lora("normal.bin")                       any spelling -> LoRAFile, its state as `adapters.attach` names it
    fits(file, generator.network)                        or an error that says which base model it is of
    write_lora("export/", state, rank=8, alpha=8)        for diffusers' load_lora_weights, or style="comfyui"

A LoRA of rank r adds alpha / r · B A to the weight of a site (arXiv 2106.09685). All files hold that; they differ in how they
spell a site, in where they keep alpha, and in the container.
"""
from ._file import LoRAFile as LoRAFile
from ._file import fits as fits
from ._read import read_lora as read_lora
from ._write import write_lora as write_lora
