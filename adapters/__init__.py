"""What is trained: adapters on a frozen generator, LoRA (PEFT does the work) and the baselines it is read beside."""

from ._base import Adapter as Adapter
from ._base import disable_all as disable_all
from ._base import names_on as names_on
from ._conv_transpose import ConvTranspose2d as ConvTranspose2d
from ._conv_transpose import register_conv_transpose as register_conv_transpose
from ._edit import Edit as Edit
from ._edit import Visii as Visii
from ._encoder import Encoder as Encoder
from ._full import Full as Full
from ._linear import Linear as Linear
from ._lora import LoRA as LoRA
from ._lora import attach as attach
from ._lora import detach as detach
from ._lora import lora_size as lora_size
from ._methods import Method as Method
from ._methods import build as build
from ._methods import check_method as check_method
from ._methods import get_method as get_method
from ._methods import methods as methods
from ._methods import register_method as register_method
from ._offset import Offset as Offset
from ._pixels import Pixels as Pixels
from ._sdedit import SDEdit as SDEdit
from ._token import Prompt as Prompt
from ._token import Token as Token
