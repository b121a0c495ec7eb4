"""NVIDIA's persistence pickles: stylegan2-ada-pytorch here, stylegan3 and stylegan-xl in `_stylegan3.py`.

A dict {G, D, G_ema, ...} of networks, each a record of its class's name and its `__dict__`: children under `_modules`,
weights under `_parameters` and `_buffers`, everything else as plain attributes. The generator is G_ema, the moving
average that the papers evaluate. A StyleGAN2's geometry is read where it cannot lie (shapes), then from attributes, then
from the constructor's arguments.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ._checkpoint import STYLEGAN2, STYLEGAN3, STYLEGAN_XL, as_float32, channel_fields
from ._errors import CheckpointError
from ._standins import Array, Record
from ._stylegan3 import read_alias_free

MAX_DEPTH = 16
MAX_ITEMS = 20_000
MAX_TAPS = 64
DEFAULT_TAPS = [1.0, 3.0, 3.0, 1.0]


def is_persistence(root: Any) -> bool:
    """Whether an unpickled file is of this kind: networks by name, or one network."""
    return isinstance(root, Record) or (
        type(root) is dict and any(type(v) is Record for k, v in root.items() if k in ("G_ema", "G", "D"))
    )


def read_persistence(root: Any, source: str, limit: int) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """(family, config, state) of the generator in the unpickled `root`; at most `limit` bytes of tensors."""
    generator = root if isinstance(root, Record) else root.get("G_ema")
    if type(generator) is not Record:
        found = ", ".join(sorted(str(key)[:40] for key in root)) if type(root) is dict else "something else"
        raise CheckpointError(f"{source} has no G_ema, the averaged generator; it holds: {found}.")
    records = dict(bounded(_walk(generator, source), source))
    state: dict[str, torch.Tensor] = {}
    for path, record in records.items():
        for group in ("_parameters", "_buffers"):
            for name, value in _dict(record.state, group).items():
                if type(value) is torch.Tensor:
                    state[f"{path}.{name}" if path else name] = value
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > limit:
        raise CheckpointError(f"{source}: its tensors share memory to look larger than the file; it was tampered with.")
    family = _family(generator, records, source)
    if family != STYLEGAN2:
        config, weights = read_alias_free(records, state, source)
        return family, config, {name: as_float32(value) for name, value in weights.items()}
    config = _Reader(generator, records, state, source).config()
    weights = {name: as_float32(value) for name, value in state.items() if not name.endswith("resample_filter")}
    return family, config, weights


def bounded(items: Iterable[Any], source: str) -> Iterator[Any]:
    """`items`, refused beyond MAX_ITEMS: records that share children are exponentially many along their paths."""
    for count, item in enumerate(items):
        if count >= MAX_ITEMS:
            raise CheckpointError(f"{source} has more than {MAX_ITEMS} modules; this is no network.")
        yield item


def _walk(record: Record, source: str, path: str = "", depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise CheckpointError(f"{source}: modules are nested {depth} deep; this is no network.")
    yield path, record
    for name, child in _dict(record.state, "_modules").items():
        if type(child) is Record:
            yield from _walk(child, source, f"{path}.{name}" if path else str(name), depth + 1)


def _dict(state: dict[str, Any], key: str) -> dict[str, Any]:
    value = state.get(key)
    return value if type(value) is dict else {}


def _family(generator: Record, records: dict[str, Record], source: str) -> str:
    synthesis = records.get("synthesis")
    if synthesis is None or "mapping" not in records:
        raise CheckpointError(
            f"{source}: its generator is a {generator.class_name[:80]} without `mapping` and `synthesis`; "
            "StyleGAN2, StyleGAN3 and StyleGAN-XL generators can be read."
        )
    if "synthesis.b4" in records:
        return STYLEGAN2
    entry = records.get("synthesis.input")
    if "layer_names" in synthesis.state or (entry is not None and entry.class_name == "SynthesisInput"):
        embed = records.get("mapping.embed")
        return STYLEGAN_XL if embed is not None and embed.class_name == "Embedding" else STYLEGAN3
    raise CheckpointError(f"{source}: its {generator.class_name[:80]} is of no known family (no b4, no layer_names).")


def plain(value: Any) -> Any:
    """`value` in JSON's types; what has no counterpart there, and what is nested or large beyond reason, is None."""
    room = [MAX_ITEMS]

    def convert(value: Any, depth: int) -> Any:
        room[0] -= 1
        if value is None or type(value) in (bool, int, float, str):
            return value
        if depth > MAX_DEPTH or room[0] < 0:
            return None
        if type(value) is Array:
            return value.value.tolist() if value.value.size <= MAX_ITEMS else None
        if type(value) in (list, tuple):
            return [convert(item, depth + 1) for item in value[:MAX_ITEMS]]
        if type(value) is dict:
            return {str(key): convert(item, depth + 1) for key, item in list(value.items())[:MAX_ITEMS]}
        return None

    return convert(value, 0)


class _Reader:
    """The configuration of a StyleGAN2 record."""

    def __init__(
        self, generator: Record, records: dict[str, Record], state: dict[str, torch.Tensor], source: str
    ) -> None:
        self.records, self.state, self.source = records, state, source
        self.kwargs = _dict(generator.state, "_init_kwargs")
        positional = generator.state.get("_init_args", ())
        names = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
        if type(positional) in (list, tuple):
            self.kwargs = {**dict(zip(names, positional, strict=False)), **self.kwargs}
        self.mapping_kwargs = _dict(self.kwargs, "mapping_kwargs")
        self.synthesis_kwargs = _dict(self.kwargs, "synthesis_kwargs")
        self.block_kwargs = {**_dict(self.synthesis_kwargs, "block_kwargs"), **self.synthesis_kwargs}

    def config(self) -> dict[str, Any]:
        resolutions = sorted(int(path[11:]) for path in self.records if _is_block(path))
        channels = {r: self.shape(f"synthesis.b{r}.conv1.weight")[0] for r in resolutions}
        layers = [path for path in self.records if path.startswith("mapping.fc") and path[10:].isdigit()]
        first = self.shape("mapping.fc0.weight")
        c_dim = self.shape("mapping.embed.weight")[1] if "mapping.embed.weight" in self.state else 0
        embed_dim = self.shape("mapping.embed.weight")[0] if c_dim else None
        affine = self.shape("synthesis.b4.conv1.affine.weight")
        last = resolutions[-1]
        blocks = [self.records[f"synthesis.b{r}"] for r in resolutions]
        config = {
            "img_resolution": last,
            "z_dim": first[1] - (embed_dim or 0),
            "c_dim": c_dim,
            "w_dim": affine[1],
            "img_channels": self.shape(f"synthesis.b{last}.torgb.weight")[0],
            "mapping_layers": len(layers),
            "mapping_lr_multiplier": float(self.lr_multiplier()),
            "mapping_dim": first[0] if len(layers) > 1 and first[0] != affine[1] else None,
            "embed_dim": embed_dim,
            "w_avg_beta": float(self.number("w_avg_beta", ["mapping"], self.mapping_kwargs, 0.995)),
            "architecture": self.value("architecture", blocks, self.block_kwargs, "skip"),
            "resample_filter": self.taps(),
            "activation": self.value("activation", self.convolutions(resolutions), self.block_kwargs, "lrelu"),
            "conv_clamp": self.value("conv_clamp", self.convolutions(resolutions), self.block_kwargs, None),
            "num_fp16_res": self.fp16(blocks),
            "use_noise": any(name.endswith("noise_const") for name in self.state),
        }
        base, limit = self.synthesis_kwargs.get("channel_base", 32768), self.synthesis_kwargs.get("channel_max", 512)
        config.update(channel_fields(channels, base, limit))
        return self.agreeing(config)

    def agreeing(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration, if the generator's own attributes say the same about its interface."""
        for name in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"):
            said = plain(self.records[""].state.get(name))
            if said is not None and said != config[name]:
                raise CheckpointError(
                    f"{self.source}: the generator says {name}={said!r:.40}, its weights {config[name]}; "
                    "the file is damaged or edited."
                )
        return config

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.state or self.state[name].ndim < 2:
            raise CheckpointError(f"{self.source}: the weights of a StyleGAN2 should include {name}; it is missing.")
        return tuple(self.state[name].shape)

    def convolutions(self, resolutions: list[int]) -> list[Record]:
        paths = [f"synthesis.b{r}.conv{k}" for r in resolutions for k in (0, 1)]
        return [self.records[path] for path in paths if path in self.records]

    def value(self, name: str, records: list[Record], kwargs: dict[str, Any], default: Any) -> Any:
        """The attribute that all `records` share, else the constructor's argument, else `default`."""
        found = [plain(record.state[name]) for record in records if name in record.state]
        if any(value != found[0] for value in found):
            raise CheckpointError(
                f"{self.source}: its layers differ in {name}: {found!r:.200}; one value is supported."
            )
        return found[0] if found else plain(kwargs.get(name, default))

    def number(self, name: str, paths: list[str], kwargs: dict[str, Any], default: float) -> float:
        value = self.value(name, [self.records[path] for path in paths if path in self.records], kwargs, default)
        if value is None:  # w_avg_beta=None: the network was trained without tracking w
            return default
        if type(value) not in (int, float):
            raise CheckpointError(f"{self.source}: {name} is {value!r:.80}, expected a number.")
        return value

    def lr_multiplier(self) -> float:
        """A mapping layer's gain on its bias is its learning-rate multiplier."""
        default = self.number("lr_multiplier", [], self.mapping_kwargs, 0.01)
        return self.number("bias_gain", ["mapping.fc0"], {}, default)

    def fp16(self, blocks: list[Record]) -> int:
        flags = [record.state["use_fp16"] is True for record in blocks if "use_fp16" in record.state]
        count = sum(flags) if flags else self.synthesis_kwargs.get("num_fp16_res", 0)
        return count if type(count) is int else 0

    def taps(self) -> list[float]:
        """The 1-D filter whose normalised outer product the layers carry as a buffer."""
        said = self.block_kwargs.get("resample_filter")
        taps = [float(tap) for tap in said[:MAX_TAPS]] if type(said) in (list, tuple) and said else DEFAULT_TAPS
        buffers = [value for name, value in self.state.items() if name.endswith(".resample_filter")]
        for buffer in buffers[:1]:
            if max(buffer.shape, default=MAX_TAPS + 1) > MAX_TAPS:
                raise CheckpointError(f"{self.source}: a resampling filter has the shape {list(buffer.shape)}.")
            kernel = buffer.float() if buffer.ndim == 2 else torch.outer(buffer.float(), buffer.float())
            if not _same_filter(taps, kernel):
                row = kernel.sum(1) / kernel.sum()
                taps = [round(value, 6) for value in (row / row.abs().min().clamp_min(1e-6)).tolist()]
            if not _same_filter(taps, kernel):
                raise CheckpointError(f"{self.source}: its resampling filter is not separable; that is not supported.")
        return taps


def _same_filter(taps: list[float], kernel: torch.Tensor) -> bool:
    one = torch.tensor(taps)
    both = torch.outer(one, one) / one.sum() ** 2
    return both.shape == kernel.shape and torch.allclose(both, kernel / kernel.sum(), atol=1e-5)


def _is_block(path: str) -> bool:
    return path.startswith("synthesis.b") and path[11:].isdigit()
