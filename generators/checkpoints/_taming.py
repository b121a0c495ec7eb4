"""Checkpoints of taming-transformers: a Lightning .ckpt and, beside it, the .yaml that says what it is.

Nothing the pickle contains is run (see `_torch_file`). Discriminator, perceptual loss and optimiser are left in the file.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._files import file_sha256
from ..vqgan._config import VQGANConfig
from ..vqgan._format import parse, reference_shapes
from ..vqgan._taming_config import read_yaml, translate
from ._checkpoint import VQGAN, Checkpoint
from ._errors import CheckpointError
from ._torch_file import check_claims, load_torch

STAGE, GPT = "first_stage_model.", "transformer."
IGNORED = re.compile(
    r"(first_stage_model\.)?(loss|model_ema)\..*|cond_stage_model\..*|permuter\..*|(first_stage_model\.)?colorize"
    r"|transformer\.blocks\.\d+\.attn\.mask"
)
CHECKPOINT_FOLDERS = ("checkpoints", "ckpts", ".")
WEIGHTS = (".ckpt", ".pt", ".pth")


def read_taming(path: str | os.PathLike, config: str | os.PathLike | None = None) -> Checkpoint:
    """Reads a VQGAN in taming's format.

    Args:
        path: a .ckpt or .pt, or the folder of a run (`logs/<run>`, with `checkpoints/` and `configs/`).
        config: the .yaml; by default it is looked for beside the file (`<stem>.yaml`, one `*project.yaml`, `model.yaml`,
            `config.yaml`) and in `../configs`.

    Returns:
        A "vqgan" with its weights under taming's names, those of the first stage with `first_stage_model.` in front.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafePickleError: the file asks for classes that no checkpoint needs.
        CheckpointError: it is damaged or something else, has no .yaml, lacks a half, or does not fit its .yaml.
    """
    given = Path(path)
    path = _weights_file(given)
    paths = _yaml_files(path, config)
    source, yaml = str(path), str(paths[-1])
    model, stage_path = translate(read_yaml(paths), yaml)
    state = {name: value for name, value in load_state(path).items() if not IGNORED.fullmatch(name)}
    if not any(name.startswith(STAGE) for name in state):
        state = {name if name.startswith(GPT) else STAGE + name: value for name, value in state.items()}
    state = _complete(state, model, stage_path, given if given.is_dir() else path.parent, source, yaml)
    model["encoder"] = any(name.startswith(STAGE + "encoder.") for name in state)
    parsed = parse(model, yaml)
    _check(state, parsed, source, yaml)
    return Checkpoint(VQGAN, parsed.to_dict(), state, source, file_sha256(path))


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """{name: tensor} of a file of torch.save, memory-mapped where its format allows; executes nothing.

    Raises:
        UnsafePickleError, CheckpointError: as `read_taming`.
    """
    source = str(path)
    if not zipfile.is_zipfile(path):
        _explain(path)
    content = load_torch(path, "VQGAN checkpoint")
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{source} has no `state_dict` with weights in it; it is no checkpoint of taming-transformers.")
    return {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _explain(path: Path) -> None:
    """Raises for what is plainly no file of torch.save; its old format, a pickle after a magic number, may pass."""
    with open(path, "rb") as file:
        head = file.read(16)
    if head[:2] == b"PK":
        raise CheckpointError(f"{path} is truncated: the directory at the end of the archive is missing; download it again.")
    if head[2:3] == b"\x8a" and head[:1] == b"\x80":
        return
    kind = {b"\x80": "a pickle as StyleGAN's are", b"<": "a web page, perhaps what a server sends instead of a download",
            b"": "empty"}.get(head[:1], "of an unknown format")
    if head[8:9] == b"{":
        kind = "a .safetensors"
    raise CheckpointError(f"{path} is {kind}, not a checkpoint of taming-transformers; a StyleGAN pickle and a native "
                          ".safetensors are read without a configuration.")


def _weights_file(path: Path) -> Path:
    """The file itself, or that of a run's folder: `last.ckpt`, or the only one there is."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such checkpoint; give taming's last.ckpt or the folder of the run.")
    found: list[Path] = []
    for folder in (path / name for name in CHECKPOINT_FOLDERS):
        if (folder / "last.ckpt").is_file():
            return folder / "last.ckpt"
        if folder.is_dir():
            found += sorted(entry for entry in folder.iterdir() if entry.suffix in WEIGHTS)
    if len(found) != 1:
        what = f"{len(found)} of them: {', '.join(entry.name for entry in found[:5])}" if found else "none"
        raise CheckpointError(f"{path}: expected checkpoints/last.ckpt, or one .ckpt or .pt, in the folder; there is {what}. "
                              "Give the file itself.")
    return found[0]


def _yaml_files(path: Path, config: str | os.PathLike | None) -> list[Path]:
    """The configuration of a checkpoint: one file, or those of a resumed run in the order they are merged in."""
    if config is not None:
        if not Path(config).is_file():
            raise CheckpointError(f"config: {config}: no such file; expected the .yaml of {path.name}.")
        return [Path(config)]
    folder, configs = path.parent, path.parent.parent / "configs"
    patterns = [(folder, f"{path.stem}.yaml"), (folder, "*project.yaml"), (folder, "model.yaml"), (folder, "config.yaml")]
    if folder.name in CHECKPOINT_FOLDERS or configs.is_dir():
        patterns += [(configs, "*-project.yaml"), (configs, "model.yaml")]
    patterns += [(folder / "configs", "*-project.yaml"), (folder / "configs", "model.yaml")]
    for where, pattern in patterns:
        if where.is_dir() and (found := sorted(f for f in where.iterdir() if f.is_file() and f.match(pattern))):
            if len(found) > 1 and where == folder:       # in a run's `configs` they are its own, and are merged
                raise CheckpointError(f"{path}: several configurations lie beside it: {', '.join(f.name for f in found[:5])}; "
                                      f"pass the one that is its own as config=, or name it {path.stem}.yaml.")
            return found
    places = "; ".join(str(where / pattern) for where, pattern in patterns)
    raise CheckpointError(f"{path} is a PyTorch archive, which is read as a checkpoint of taming-transformers, and the .yaml "
                          f"that describes it was not found. Looked for: {places}. Put it there, or pass it as config= (on the "
                          "command line --yaml of `probes convert`, --generator_options.config of `probes fit`).")


def _complete(state: dict[str, torch.Tensor], model: Mapping[str, Any], stage_path: str | None, folder: Path, source: str,
              yaml: str) -> dict[str, torch.Tensor]:
    """The state with both halves, a separate first stage read in; an error for a half that is missing."""
    has_gpt, has_stage = any(n.startswith(GPT) for n in state), any(n.startswith(STAGE + "decoder.") for n in state)
    if not has_gpt and not has_stage:
        raise CheckpointError(f"{source} holds no VQGAN: neither `transformer.` nor `decoder.` weights, but "
                              f"{', '.join(n.removeprefix(STAGE) for n in list(state)[:3]) or 'none'}.")
    if "gpt" not in model and has_gpt:
        raise CheckpointError(f"{source} holds a transformer (`{next(n for n in state if n.startswith(GPT))}`), but {yaml} "
                              "describes a first stage alone; pass the project.yaml of the transformer's run as config=.")
    if "gpt" in model and not has_gpt:
        raise CheckpointError(f"{source} holds a first stage only, but {yaml} describes a transformer on it: the transformer "
                              "half is missing. Pass the checkpoint of the transformer's run (logs/<run>/checkpoints/"
                              "last.ckpt), which has both.")
    if has_stage:
        return state
    other = _first_stage_file(stage_path, folder)
    if other is None:
        raise CheckpointError(f"{source} holds a transformer only; the first stage is missing. {yaml} names it "
                              f"{stage_path or 'nowhere'} (first_stage_config.params.ckpt_path), which is no file within "
                              f"{folder}; put it there, or correct the path.")
    stage = {STAGE + n.removeprefix(STAGE): v for n, v in load_state(other).items() if not n.startswith(GPT)}
    return {**state, **{name: value for name, value in stage.items() if not IGNORED.fullmatch(name)}}


def _first_stage_file(stage_path: str | None, folder: Path) -> Path | None:
    """`ckpt_path` within the folder that was given, or, for `logs/<run>`, within the folder that has `logs`."""
    if not stage_path or Path(stage_path).is_absolute():
        return None
    roots = [folder, *([folder.parent.parent] if folder.parent.name == "logs" else [])]
    for root in roots:
        candidate = (root / stage_path).resolve()
        if candidate.is_relative_to(root.resolve()) and candidate.is_file():
            return candidate
    return None


def _check(state: Mapping[str, torch.Tensor], config: VQGANConfig, source: str, yaml: str) -> None:
    """Raises CheckpointError unless the weights are exactly those of the configuration, and all in the file."""
    expected = reference_shapes(config)
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} {list(value.shape)} is not known" for name, value in state.items() if name not in expected]
    problems += [f"{name} is {list(state[name].shape)}, expected {list(shape)}" for name, shape in expected.items()
                 if name in state and tuple(state[name].shape) != shape]
    if not problems:
        problems = [f"{name} is a {value.dtype} tensor on {value.device}, expected plain floating-point numbers"
                    for name, value in state.items()
                    if not value.is_floating_point() or value.layout != torch.strided or value.device.type != "cpu"]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{source}: the weights do not fit {yaml}: {'; '.join(problems[:5])}{more}. Pass the .yaml of "
                              "this very run as config=.")
    check_claims(state, source)
