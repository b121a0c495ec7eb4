"""What every long training shares: real images, the loop with its log, and a state written whole or not at all."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from generators._files import atomic
from probes._record import hardware
from probes.data.scenes._store import Store


class Stage(Protocol):
    """A training that `run` can step, save and take up."""

    images: int
    seconds: float
    recipe: Any

    def train_step(self, decay: float) -> dict[str, float]: ...
    def state(self) -> dict: ...
    def load(self, state: dict) -> None: ...


def save_atomically(value: object, path: Path) -> None:
    with atomic(path) as temporary:
        torch.save(value, temporary)


def load_state(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def resume(stage: Stage, path: Path) -> None:
    """Takes up the state at `path` if there is one."""
    state = load_state(path)
    if state is not None:
        stage.load(state)


def run(stage: Stage, path: Path, kimg: float, keep: Callable[[], None], decay: Callable[[int], float]) -> None:
    """Steps until `kimg` thousand images, logging and keeping the state.

    Args:
        stage: resumed already
        path: of the state
        kimg: where to stop
        keep: called after every step; writes the snapshots that are due
        decay: images -> factor of the learning rate

    Raises FloatingPointError when a loss is not finite; the last state is kept.
    """
    clock = last_save = last_log = time.time()
    while stage.images < kimg * 1000:
        row = stage.train_step(decay(stage.images))
        now = time.time()
        stage.seconds += now - clock
        clock = now
        if not all(math.isfinite(value) for value in row.values()):
            raise FloatingPointError(f"loss is not finite at {stage.images} images; the last state is kept in {path}: lower "
                                     "the learning rate and start again")
        if now - last_log > 20:
            row.update(kimg=stage.images / 1000, minutes=stage.seconds / 60, rate=stage.images / stage.seconds)
            print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
            last_log = now
        keep()
        if now - last_save > 240:
            save_atomically(stage.state(), path)
            last_save = now
    save_atomically(stage.state(), path)


def falling(since: float | None, kimg: float, least: float) -> Callable[[int], float]:
    """images -> factor of the learning rate: 1 until `since` thousand of them, then linearly down to `least` at `kimg`."""
    def factor(images: int) -> float:
        if since is None or images <= since * 1000:
            return 1.0
        return max(least, 1 - (1 - least) * (images / 1000 - since) / (kimg - since))

    return factor


def keeper(stage: Stage, snapshots: Sequence[float], kimg: float, keep: Callable[[int], None]) -> Callable[[], None]:
    """What calls `keep` with the kimg of each snapshot when it is due; the last is due at `kimg`."""
    due = sorted(k for k in snapshots if stage.images < k * 1000 and k < kimg) + [kimg]

    def keep_due() -> None:
        while due and stage.images >= due[0] * 1000:
            keep(int(due.pop(0)))

    return keep_due


def check_recipe(stored: dict, recipe: Any, free: tuple[str, ...] = ()) -> None:
    """Raises ValueError if a stored training is another recipe's, but for the fields in `free`."""
    now = asdict(recipe)
    changed = [name for name, value in stored.items() if name not in free and now[name] != value]
    if changed:
        raise ValueError(f"recipe: the stored training has another {', '.join(changed)}; choose another --out")


def card(stage: Stage, device: torch.device, store: Store) -> dict:
    """What a generator's card says of its training."""
    return dict(recipe=asdict(stage.recipe), images=stage.images, steps=stage.images // stage.recipe.batch,
                hardware=hardware(device), minutes=round(stage.seconds / 60, 1), data=store.manifest,
                torch=torch.__version__)


def real_batch(store: Store, count: int, rng: torch.Generator) -> Tensor:
    """Random scenes, half of them mirrored: [count, 3, H, W] in [-1, 1], channels last."""
    picks = torch.randint(len(store), (count,), generator=rng).numpy()
    x = torch.from_numpy(store.batch("image", picks)) * 2 - 1
    flip = torch.rand(count, generator=rng) < 0.5
    x[flip] = x[flip].flip(3)
    return x.contiguous(memory_format=torch.channels_last)


def chosen_device(device: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
