"""VQGAN behind the generator interface: condition -> codes is the frozen prefix, codes -> image the adapted part.

The transformer draws the codes once; what a step runs is post_quant_conv and the decoder G (Esser et al. 2021, figure 2).
Intrinsic LoRA (arXiv 2311.17137, section 4) adapts the 1x1 projections of the decoder's attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._base import Generator, State, check_classes
from ..checkpoints import Checkpoint, CheckpointError, native_state
from ._config import VQGANConfig
from ._network import VQGANNetwork
from ._sampling import coordinate_tokens, draw

_PRECISIONS = ("fp32", "bf16")
CACHE_BYTES = 2 << 30  # for the keys and values of the sequences that are drawn at once; a FacesHQ sequence has 100 MB
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class VQGAN(Generator):
    """Scopes: `decoder-attention` (query, key, value and output projections of every attention of the decoder),
    `decoder` (those and its convolutions).

    Args:
        temperature: of the transformer's distribution; below 1 draws the likelier codes more often
        top_k: codes are drawn among the k most probable only; None for all
        top_p: and among the most probable that together reach this probability; None for all
        precision: of the decoder: "fp32", or "bf16", which is faster where the hardware has it

    Raises:
        ValueError: for a network without transformer, or whose images are not RGB, and for options out of range
    """

    family = "vqgan"
    latent_key = "codes"
    body = ("first_stage.post_quant_conv", "first_stage.decoder")
    recommended = dict(samples=2048, steps=1000, batch=8, learning_rate=0.01)

    def __init__(self, name: str, network: VQGANNetwork, temperature: float = 1.0, top_k: int | None = None,
                 top_p: float | None = None, precision: str = "fp32", **about):
        config = network.config
        if network.transformer is None:
            raise ValueError(f"{name}: a first stage without its transformer draws no images of its own; pass a checkpoint "
                             "that holds both. To encode and decode with it, see generators.vqgan.VQGANNetwork")
        if config.out_channels != 3:
            raise ValueError(f"{name}: draws {config.out_channels} channels; a probe needs a generator of RGB images")
        if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < float("inf"):
            raise ValueError(f"temperature: expected a number above 0, got {temperature!r}")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k: expected a whole number of codes, at least 1, or None, got {top_k!r}")
        if top_p is not None and (not isinstance(top_p, (int, float)) or not 0 < top_p <= 1):
            raise ValueError(f"top_p: expected a probability in (0, 1], or None, got {top_p!r}")
        if precision not in _PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {precision!r}")
        classes = config.num_classes if config.conditioning == "class" else 0
        super().__init__(name, network, config.resolution, num_classes=classes, **about)
        network.first_stage.decoder.to(memory_format=torch.channels_last)  # a sixth off a step in fp32
        self.temperature, self.top_k, self.top_p, self.precision = temperature, top_k, top_p, precision

    def sample(self, seeds: Sequence[int], classes: Sequence[int] | None = None) -> State:
        """seed: int64 [N], what each sequence's random stream starts from; c: int64 [N], its label, with classes."""
        seeds = [int(s) for s in seeds]
        source = {"seed": torch.tensor(seeds, dtype=torch.int64)}
        labels = check_classes(self, seeds, classes)
        if labels is not None:
            source["c"] = torch.tensor(labels, dtype=torch.int64)
        return source

    def prefix(self, source: State) -> Tensor:
        """The tokens before the codes: int64 [N, P]."""
        config, count = self.network.config, len(source["seed"])
        if config.conditioning == "class":
            tokens = source["c"][:, None]
        elif config.conditioning == "coordinate":
            where = coordinate_tokens(config.resolution, config.coord_factor, config.coord_embed)
            tokens = where.expand(count, -1)
        else:
            tokens = torch.full((count, 1), config.sos_token)
        return tokens.to(self.device)

    @torch.no_grad()
    def indices(self, source: State) -> Tensor:
        """Draws the codes' indices: int64 [N, h, w], on the CPU."""
        config, gpt = self.network.config, self.network.config.gpt
        seeds, prefix = source["seed"].tolist(), self.prefix(source)
        each = 8 * gpt.n_layer * gpt.n_embd * (config.prefix_length + config.code_length)
        step = max(1, CACHE_BYTES // each)
        drawn = [draw(self.network.transformer, prefix[i : i + step], seeds[i : i + step], config.code_length, config.n_embed,
                      self.temperature, self.top_k, self.top_p) for i in range(0, len(seeds), step)]
        return torch.cat(drawn).view(len(seeds), config.side, config.side)

    @torch.no_grad()
    def prepare(self, source: State) -> State:
        """seed (and c) -> codes: float [N, embed_dim, h, w], the code vectors the transformer chose."""
        return {"codes": self.network.lookup(self.indices(source).to(self.device))}

    def forward(self, state: State) -> Tensor:
        codes = state["codes"].to(self.device)
        if self.precision == "fp32":
            return self.network.decode(codes)
        with torch.autocast(codes.device.type, torch.bfloat16):
            return self.network.decode(codes).float()

    def feature_sites(self) -> list[str]:
        """The decoder's first convolution, its middle and its blocks of each resolution."""
        decoder = "first_stage.decoder"
        return [f"{decoder}.conv_in", f"{decoder}.mid_block",
                *(f"{decoder}.up_blocks.{i}" for i in range(len(self.network.first_stage.decoder.up_blocks)))]

    def example(self) -> State:
        """Codes of zero: drawing them takes the transformer one pass a position."""
        config = self.network.config
        return {"codes": torch.zeros(1, config.embed_dim, config.side, config.side, device=self.device)}

    @property
    def scopes(self) -> tuple[str, ...]:
        return ("decoder-attention", "decoder")

    def sites(self, scope: str = "decoder-attention") -> list[str]:
        if scope not in self.scopes:
            raise ValueError(f"scope: {self.name} has no scope {scope!r}; it has {', '.join(self.scopes)}")
        # An adapted module has moved to `.base_layer`; the site is the place where it was.
        modules = {n.removesuffix(".base_layer"): m for n, m in self.network.first_stage.decoder.named_modules()
                   if ".lora_" not in n}
        attention = [n for n in modules if ".attentions." in n and n.endswith(_PROJECTIONS)]
        wanted = attention if scope == "decoder-attention" else [
            n for n, m in modules.items() if n in attention or isinstance(m, nn.Conv2d)]
        return [f"first_stage.decoder.{n}" for n in wanted]

    def _fresh(self, seed: int) -> VQGANNetwork:
        network = VQGANNetwork(self.network.config, seed=seed).to(self.device)
        # A codebook starts within ±1/n_embed of zero, where every code decodes to the same picture. Trained ones are of
        # order one; without that a random decoder would be a trivial control.
        with torch.no_grad():
            network.codebook.copy_(torch.randn(network.codebook.shape, generator=torch.Generator().manual_seed(seed)))
        return network

    def _sibling(self, network: VQGANNetwork, weights: str) -> VQGAN:
        return VQGAN(self.name, network, **self.options, world=self.world, weights=weights)

    def randomised(self, seed: int) -> VQGAN:
        return self._sibling(self._fresh(seed), f"random:{seed}")

    def crossed(self, seed: int) -> VQGAN:
        network = self._fresh(seed)
        kept = ("transformer.", "first_stage.quantize.")
        state = {name: value for name, value in self.base_state().items() if name.startswith(kept)}
        network.load_state_dict(state, strict=False)
        return self._sibling(network, f"crossed:{seed}")

    @property
    def options(self) -> dict:
        return dict(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, precision=self.precision)

    def describe(self) -> dict:
        return {**self.network.config.to_dict(), **self.options}


GENERATOR = VQGAN


def build(name: str, checkpoint: Checkpoint, **options) -> VQGAN:
    """The generator a checkpoint holds. `options` are those of `VQGAN`.

    Raises:
        CheckpointError: if it holds a first stage only.
    """
    config, state = native_state(checkpoint)
    parsed = VQGANConfig.from_dict(config)
    if parsed.gpt is None:
        raise CheckpointError(f"{checkpoint.source} holds a VQGAN's first stage; the transformer half is missing, and "
                              "without it nothing can be drawn. Pass the checkpoint of a transformer run (its "
                              "`state_dict` has both `transformer.` and `first_stage_model.`) with its project.yaml; to "
                              "encode and decode with a first stage, use generators.vqgan.VQGANNetwork.")
    return VQGAN(name, load_network(parsed, state), **options)


def load_network(config: VQGANConfig, state: dict[str, Tensor]) -> VQGANNetwork:
    """The network with these weights in float32, which become its own where they are that already; nothing is drawn first,
    which would take longer than reading."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        network = VQGANNetwork(config)
    # A file may hold half the bits; computing is done with all of them.
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network.eval()
