"""What does an encoder of images know? A self-supervised ViT with LoRA and one linear head, asked about the drawn picture.

The discriminative counterpart of a probe, as the paper asks it of DINOv2 (Intrinsic LoRA, arXiv 2311.17137, Table 3): a network
that learnt from images without labels and draws none, frozen, with a LoRA on the q, k, v and output projections of its
attention, and one linear map from every patch's token to the pixels of that patch. Like `pixels` it sees the finished picture
only and reads no prompt; unlike it, it has seen many pictures before. Its control is `weights="random"`: the same architecture,
the same LoRA and head, on weights that were never trained.

The head is zero at the start, so the untrained adapter says 0 everywhere, which as a picture is middle grey.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from generators import Generator, State

from ._base import Adapter
from ._encoder_files import EMBEDDED, read_encoder
from ._methods import Method, register_method

LEAST = 14          # patches along the shorter side, where the encoder was trained on so many: DINOv2's at 196 px
_ROLES = dict(query="q", key="k", value="v", dense="out", q_proj="q", k_proj="k", v_proj="v", o_proj="out")
_LAYER = re.compile(r"(?:^|\.)layer\.(\d+)\.attention\.")


class Encoder(Adapter):
    """A frozen encoder with a LoRA, and a linear head.

    The picture goes in with as many patches along its shorter side as it has at its own size, though not fewer than 14 and not
    more than the encoder was trained on; the longer side keeps the proportion, to the nearest patch. It is resized for that
    (bicubic, antialiased), positions are interpolated by the encoder, and the map is brought back to the picture's size
    (bilinear). The encoder of the scenes world always sees 8 patches of 8 pixels, what it was trained on.

    Args:
        model: "scenes", a folder, or owner/model on the Hugging Face hub, see `adapters._encoder_files`
        weights: "pretrained", or "random" or "random:SEED" for the control
        patches: along the shorter side, instead of the rule above
        rank, alpha: of the LoRA, whose update is scaled by alpha / rank
        seed: of its initial weights

    Raises ValueError for bad values, and what `read_encoder` does for a model that cannot be had.
    """

    method = "encoder"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None, model: str = "scenes",
                 weights: str = "pretrained", patches: int | None = None, rank: int = 8, alpha: float | None = None,
                 seed: int = 0):
        if rank < 1:
            raise ValueError(f"rank: expected at least 1, got {rank}; the paper uses 8")
        kind, _, number = str(weights).partition(":")
        if kind not in ("pretrained", "random") or (number and (kind == "pretrained" or not number.isdigit())):
            raise ValueError(f"weights: expected 'pretrained', 'random' or 'random:SEED', got {weights!r}")
        if patches is not None and (isinstance(patches, bool) or not isinstance(patches, int) or not 1 <= patches <= 256):
            raise ValueError(f"patches: expected a whole number from 1 to 256, got {patches!r}; leave it out for the "
                             "encoder's own")
        self._encoder = read_encoder(str(model), int(number or 0) if kind == "random" else None)
        super().__init__(generator, name, prompt)
        place = Path(str(model)).expanduser()
        kept = str(place.resolve()) if str(model) not in EMBEDDED and place.is_dir() else str(model)
        self._chosen = dict(model=kept, weights=weights, patches=patches)
        self._scale = dict(rank=rank, alpha=float(rank if alpha is None else alpha))
        self.network = self._encoder.network
        sites = attention_sites(self.network)
        config = LoraConfig(r=rank, lora_alpha=self._scale["alpha"], target_modules=list(sites), lora_dropout=0.0, bias="none")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, self.network, adapter_name=name)
        self.network.requires_grad_(False).to(generator.device)
        self.head = nn.Linear(self.network.config.hidden_size, 3 * self._encoder.patch**2)
        self.head.requires_grad_(False).to(generator.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._values: dict[str, nn.Parameter] = {}
        for site, short in sites.items():
            layer = self.network.get_submodule(site)
            self._values[f"{short}.lora_A.weight"] = layer.lora_A[name].weight
            self._values[f"{short}.lora_B.weight"] = layer.lora_B[name].weight
        self._values |= {"head.weight": self.head.weight, "head.bias": self.head.bias}
        self._digest = torch.frombuffer(bytearray(self._encoder.digest), dtype=torch.uint8)

    @property
    def options(self) -> dict:
        usual = dict(weights="pretrained", patches=None)
        return {k: v for k, v in self._chosen.items() if k not in usual or v != usual[k]}

    @property
    def output_space(self) -> str:
        return "pixels"

    def parameters(self) -> dict[str, nn.Parameter]:
        """layer.{i}.{q,k,v,out}.lora_A.weight [rank, width] and .lora_B.weight [width, rank], head.weight [3 · patch², width]
        and head.bias [3 · patch²]."""
        return dict(self._values)

    def buffers(self) -> dict[str, Tensor]:
        """encoder.digest, uint8 [32]: the sha256 of the encoder it was trained on."""
        return {"encoder.digest": self._digest}

    def load_state(self, state: dict[str, Tensor]) -> None:
        theirs = state.get("encoder.digest")
        if theirs is not None and not torch.equal(theirs.cpu(), self._digest.cpu()):
            raise ValueError(f"model: {self._chosen['model']} is not the encoder this adapter was trained on (sha256 "
                             f"{_hexadecimal(self._digest)}, expected {_hexadecimal(theirs)}); bring back the weights and the "
                             "configuration it was trained with, or fit it again")
        super().load_state(state)

    def file(self) -> tuple[dict[str, Tensor], dict]:
        tensors, about = super().file()
        return tensors, {**about, **self._scale, "encoder_sha256": self._encoder.digest.hex()}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches (rows, columns) that a picture of so many pixels goes in as."""
        short, patch = min(height, width), self._encoder.patch
        most = self._encoder.side
        count = self._chosen["patches"] or min(max(round(short / patch), min(LEAST, most)), most)
        return tuple(max(1, round(side * count / short)) for side in (height, width))

    def say(self, image: Tensor) -> Tensor:
        """image [N, 3, H, W] in [-1, 1] -> [N, 3, H, W]."""
        size, patch = tuple(image.shape[2:]), self._encoder.patch
        rows, columns = self.grid(*size)
        x = (image + 1) / 2
        if size != (rows * patch, columns * patch):
            x = F.interpolate(x, (rows * patch, columns * patch), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(v)[:, None, None] for v in (self._encoder.mean, self._encoder.std))
        tokens = self.network(pixel_values=(x - mean) / std).last_hidden_state[:, self._encoder.others:]
        said = F.pixel_shuffle(self.head(tokens).mT.unflatten(2, (rows, columns)), patch)
        return said if said.shape[2:] == size else F.interpolate(said, size, mode="bilinear", align_corners=False)

    def forward(self, state: State) -> Tensor:
        with torch.no_grad():
            image = self.generator.image(state)
        return self.say(image.to(self.generator.device))

    def regress(self, state: State, target: Tensor, seeds: list[int] | None = None) -> tuple[Tensor, Tensor]:
        return self.forward(state), target

    def _place(self) -> None:
        self.network.to(self.generator.device)
        super()._place()

    @contextmanager
    def _applied(self) -> Iterator[None]:
        yield


def attention_sites(network: nn.Module) -> dict[str, str]:
    """{exact name: name in files} of the q, k, v and output projections of every layer's attention. Names within transformers'
    classes changed between its versions; those in files do not."""
    found = {}
    for name, module in network.named_modules():
        layer, role = _LAYER.search(name), _ROLES.get(name.rpartition(".")[2])
        if layer and role and isinstance(module, nn.Linear):
            found[name] = f"layer.{layer[1]}.{role}"
    if not found or len(set(found.values())) != 4 * network.config.num_hidden_layers:
        raise ValueError(f"model: expected q, k, v and output projections in {network.config.num_hidden_layers} layers of "
                         f"{type(network).__name__}, found {len(found)} of them; this version of transformers names them "
                         "otherwise, install another")
    return found


def _hexadecimal(digest: Tensor) -> str:
    return bytes(digest.cpu().tolist()).hex()[:12]


# The learning rate of `full` on stylegan2-scenes@760k; not from a grid of its own, as the others' are.
register_method(Method("encoder", "a self-supervised encoder that sees the picture, LoRA and a linear head on it (model: "
                       "scenes, a folder or a name on the hub; weights, patches)", Encoder, ("model", "weights", "patches"),
                       ("rank", "alpha", "seed"), learning_rate=0.01, relative=False))
