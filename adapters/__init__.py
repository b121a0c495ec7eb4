"""What is trained: adapters on a frozen generator. PEFT does the work; this package says where, and which is active."""

from ._conv_transpose import ConvTranspose2d as ConvTranspose2d
from ._conv_transpose import register_conv_transpose as register_conv_transpose
from ._lora import LoRA as LoRA
from ._lora import attach as attach
from ._lora import detach as detach
from ._lora import disable_all as disable_all
