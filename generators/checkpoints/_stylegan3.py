"""StyleGAN3 and StyleGAN-XL in NVIDIA's persistence pickles.

Every layer carries its geometry as plain attributes and its filters as buffers. That is read, rather than recomputed from
the constructor's arguments, since a StyleGAN-XL which grew through super-resolution stages follows no single schedule.
What the weights' shapes say must agree with it.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ._errors import CheckpointError
from ._standins import Record

_GEOMETRY = ("in_channels", "out_channels", "in_size", "out_size", "in_sampling_rate", "out_sampling_rate", "in_cutoff",
             "out_cutoff", "in_half_width", "out_half_width", "conv_kernel", "up_factor", "down_factor", "up_taps",
             "down_taps", "padding", "is_torgb", "is_critically_sampled")
_WHOLE = ("in_channels", "out_channels", "conv_kernel", "up_factor", "down_factor", "up_taps", "down_taps")
_INPUT = ("channels", "size", "sampling_rate", "bandwidth")
_INTERFACE = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")
_TRANSFORM, _TABLE = "synthesis.input.transform", "mapping.embed.weight"


def read_alias_free(records: Mapping[str, Record], state: Mapping[str, torch.Tensor],
                    source: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(config, state) of a generator.

    Args:
        records: {module path: record}, "" for the generator itself
        state: {path: tensor}, all of them
        source: the file, for messages

    Returns:
        the fields of `generators.stylegan_xl.StyleGANXLConfig`, and the weights that it has, gains not folded.

    Raises:
        CheckpointError: an attribute or a weight is missing, or they contradict each other.
    """
    return _Reader(records, state, source).read()


class _Reader:
    def __init__(self, records: Mapping[str, Record], state: Mapping[str, torch.Tensor], source: str) -> None:
        self.records, self.state, self.source = records, state, source

    def read(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        config = self.mapping()
        layers = [self.layer(name) for name in self.layer_names()]
        config.update(
            img_resolution=layers[-1]["out_size"][0],
            img_channels=layers[-1]["out_channels"],
            input={name: self.attribute("synthesis.input", name) for name in _INPUT},
            layers=layers,
            output_scale=float(self.number("synthesis", "output_scale", 1.0)),
            magnitude_ema_beta=self.shared("magnitude_ema_beta", [f"synthesis.{x['name']}" for x in layers], 0.999),
        )
        self.check_interface(config)
        return config, self.weights(config)

    def mapping(self) -> dict[str, Any]:
        layers = [path for path in self.records if path.startswith("mapping.fc") and path[10:].isdigit()]
        first, affine = self.shape("mapping.fc0.weight", 2), self.shape("synthesis.input.affine.weight", 2)
        embed, c_dim = self.records.get("mapping.embed"), self.attribute("", "c_dim")
        config = {"c_dim": c_dim, "w_dim": affine[1], "z_dim": first[1], "embedding": "none", "mapping_layers": len(layers)}
        if c_dim and embed is not None and embed.class_name == "Embedding":
            rows, width = self.shape(_TABLE, 2)
            self.activation("mapping.embed_proj", "lrelu")
            config.update(embedding="pretrained", embed_rows=rows, embed_dim=width,
                          z_dim=self.shape("mapping.embed_proj.weight", 2)[0])
        elif c_dim:
            self.activation("mapping.embed", "linear")
            config.update(embedding="linear", z_dim=first[1] - self.shape(_TABLE, 2)[0])
        for path in layers:
            self.activation(path, "lrelu")
        # A mapping layer's gain on its bias is its learning-rate multiplier.
        config["mapping_lr_multiplier"] = float(self.shared("bias_gain", layers, 0.01))
        config["w_avg_beta"] = float(self.number("mapping", "w_avg_beta", 0.998))
        return config

    def layer_names(self) -> list[str]:
        """The layers in the order in which the image passes them."""
        synthesis = self.records["synthesis"].state
        present = [name for name in synthesis["_modules"] if name != "input"]
        said = _plain(synthesis.get("layer_names"))
        if type(said) is not list:
            return self.not_empty(present)
        if sorted(map(str, said)) != sorted(map(str, present)):
            missing = [str(name) for name in said if name not in present] or [str(n) for n in present if n not in said]
            raise CheckpointError(f"{self.source}: its layer_names and its layers differ, first in {missing[0]:.80}; the "
                                  "file is damaged or edited.")
        return self.not_empty(said)

    def not_empty(self, names: list[str]) -> list[str]:
        if not names or not all(type(name) is str and f"synthesis.{name}" in self.records for name in names):
            raise CheckpointError(f"{self.source}: its synthesis network has no layers.")
        return names

    def layer(self, name: str) -> dict[str, Any]:
        path = f"synthesis.{name}"
        geometry = {"name": name, **{key: self.attribute(path, key) for key in _GEOMETRY}}
        for key in _WHOLE:                          # some are results of arithmetic on floats
            if type(geometry[key]) is float and geometry[key].is_integer():
                geometry[key] = int(geometry[key])
        geometry["conv_clamp"] = self.plain(path, "conv_clamp", None)
        geometry["use_fp16"] = self.plain(path, "use_fp16", False) is True
        down = self.state.get(f"{path}.down_filter")
        geometry["down_radial"] = down is not None and down.ndim == 2
        return geometry

    def weights(self, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        transform = self.state.get(_TRANSFORM)
        if transform is not None and (transform.shape != (3, 3) or not torch.equal(transform.float(), torch.eye(3))):
            raise CheckpointError(f"{self.source}: its picture was moved by hand (synthesis.input.transform is not the "
                                  "identity); set it back to the identity, save it again and load that.")
        unread = {_TRANSFORM} | ({_TABLE} if config["embedding"] == "none" else set())
        return {name: value for name, value in self.state.items() if name not in unread}

    def check_interface(self, config: Mapping[str, Any]) -> None:
        """The generator's own attributes must say what its parts say; a grown one's resolution may be its stem's."""
        grown = any("path_stem" in self.records[path].state for path in ("", "synthesis"))
        for name in _INTERFACE:
            if name == "img_resolution" and grown:
                continue
            said = _plain(self.records[""].state.get(name))
            if said is not None and said != config[name]:
                raise CheckpointError(f"{self.source}: the generator says {name}={said!r:.40}, its parts {config[name]}; "
                                      "the file is damaged or edited.")

    # --- reading one thing ---

    def attribute(self, path: str, name: str) -> Any:
        """A plain attribute that must be there."""
        record = self.records.get(path)
        value = None if record is None else _plain(record.state.get(name))
        if value is None:
            raise CheckpointError(f"{self.source}: {path or 'the generator'} has no {name}; a StyleGAN3 or StyleGAN-XL "
                                  "of another version, or a damaged file.")
        return value

    def plain(self, path: str, name: str, default: Any) -> Any:
        record = self.records.get(path)
        return default if record is None or name not in record.state else _plain(record.state[name])

    def number(self, path: str, name: str, default: float) -> float:
        value = self.plain(path, name, default)
        if value is None:                           # w_avg_beta=None: the network was trained without tracking w
            return default
        if type(value) not in (int, float):
            raise CheckpointError(f"{self.source}: {path}.{name} is {value!r:.80}, expected a number.")
        return value

    def shared(self, name: str, paths: Iterable[str], default: float) -> float:
        """The number that all modules at `paths` have as their attribute `name`."""
        found = {path: self.number(path, name, default) for path in paths}
        if len(set(found.values())) > 1:
            raise CheckpointError(f"{self.source}: its layers differ in {name}: {found!r:.200}; one value is supported.")
        return next(iter(found.values()), default)

    def activation(self, path: str, expected: str) -> None:
        value = self.plain(path, "activation", expected)
        if value != expected:
            raise CheckpointError(f"{self.source}: {path} has the activation {value!r:.40}; {expected!r} is supported.")

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        if name not in self.state or self.state[name].ndim != dims:
            found = "missing" if name not in self.state else f"of shape {list(self.state[name].shape)}"
            raise CheckpointError(f"{self.source}: the weights of a StyleGAN3 or StyleGAN-XL should include {name} with "
                                  f"{dims} dimensions; it is {found}.")
        return tuple(self.state[name].shape)


def _plain(value: Any) -> Any:
    """`value` in JSON's types, whole floats of arrays as integers; None where it is something else."""
    from ._stylegan import plain

    value = plain(value)
    if type(value) is list:
        return [int(item) if type(item) is float and item.is_integer() else item for item in value]
    return value
