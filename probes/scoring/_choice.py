"""What a scoring is about: by which protocols, of which intrinsic, on which samples; and what does not go together."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._intrinsics import Intrinsic, get_intrinsic
from .._probe import Probe
from ..data import Data, Photographs, get_data
from ..labelling._label import select
from ..metrics import Protocol, check_protocol, get_protocol, protocols
from ..teachers import teachers
from ..teachers._labels import file_of
from ._sources import get_source

AUTO = "auto"
_CROPS = ("-nyu", "-kitti")     # of protocols that fit one dataset only


def choose(wanted: str | Sequence[str], intrinsic: str, meaning: str, truth: str) -> tuple[list[Protocol], list[str]]:
    """(protocols to score by, a note for each that does not apply).

    Args:
        wanted: "auto", or names, of which each must apply
        meaning, truth: of the predicted and of the true depth

    Raises UnknownNameError; ValueError for a protocol of another intrinsic, or that cannot compare such depths.
    """
    if wanted != AUTO and wanted != [AUTO]:
        names = wanted.split(",") if isinstance(wanted, str) else list(wanted)
        found = [get_protocol(name.strip()) for name in dict.fromkeys(names)]
        for protocol in found:
            check_protocol(protocol, intrinsic, meaning, truth)
        if not found:
            raise ValueError("protocol: expected at least one name, or auto")
        return found, []
    found, notes = [], []
    usual = get_intrinsic(intrinsic).protocol
    for protocol in protocols().values():
        if (intrinsic not in protocol.intrinsics and protocol.name != usual) or protocol.name.endswith(_CROPS):
            continue
        try:
            check_protocol(protocol, intrinsic, meaning, truth)
        except ValueError as error:
            notes.append(f"{protocol.name} is left out: {str(error).removeprefix('protocol: ')}")
        else:
            found.append(protocol)
    if not found:
        raise ValueError(f"protocol: none scores {intrinsic}: {'; '.join(notes)}")
    return found, notes


def which_data(data: str | Path | Data | None, probe: Probe | None) -> Data:
    if data is not None:
        return get_data(data)
    images = None if probe is None else probe.images
    if images is None:
        raise ValueError("data: nothing says what to compare with; give data that has maps, for instance --data "
                         "diode:PATH,split=val")
    return images


def which_intrinsic(source: Any, probe: Probe | None, name: str | None, protocol: str | Sequence[str], data: Data) -> Intrinsic:
    """What is scored: the probe's, what was asked for, what the protocols are for, or the only map the data has."""
    if probe is not None:
        if name not in (None, probe.intrinsic.name):
            raise ValueError(f"intrinsic: this probe emits {probe.intrinsic.name}, not {name}; leave --intrinsic out")
        return probe.intrinsic
    if name is not None:
        return get_intrinsic(name)
    if isinstance(source, str) and not Path(source).expanduser().is_dir() and ":" not in source and source not in teachers():
        get_source(source, None, data)      # raises, and says what there is: sooner than that the intrinsic is missing
    names = [] if protocol == AUTO else protocol.split(",") if isinstance(protocol, str) else protocol
    of = {i for p in names if p != AUTO for i in get_protocol(p).intrinsics} or set(data.exact)
    if len(of) != 1:
        raise ValueError(f"intrinsic: {' and '.join(sorted(of)) or 'nothing'} could be meant; say which with --intrinsic")
    return get_intrinsic(of.pop())


def which_samples(data: Data, probe: Probe | None, first: int | None, count: int | None) -> tuple[list[int], list[str]]:
    """(which samples, notes): never those a probe was fitted on, whatever the data is called by now.

    Raises ValueError where samples are asked for that it was fitted on, and where nobody can tell which those are.
    """
    if count is not None and count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    own = None if probe is None else probe.record.get("data")
    if own is None or probe.untaught:
        return select(data, first or 0, count), []
    if own["fingerprint"] == data.fingerprint:
        held = data.first_training_index
        wanted = min(500 if count is None else count, held) if first is None else count
        numbers, fitted, notes = select(data, first or 0, wanted), set(_fitted_on(probe)), []
    else:
        fitted, notes = _fitted_in(data, probe)
        numbers = select(data, first or 0, count if first is not None or not fitted else None)
        if first is None and fitted:
            numbers = [i for i in numbers if i not in fitted][:count]
            if not numbers:
                raise ValueError(f"data: this probe was fitted on all {data.count} images of {data.name}, which it calls "
                                 f"{own['name']}; give data that it has not seen")
            notes = [f"{len(fitted)} images of {data.name} are left out: this probe was fitted on them, as {own['name']}"]
    if wrong := sorted(fitted.intersection(numbers)):
        raise ValueError(f"first: samples {numbers[0]} … {numbers[-1]} of {data.name} overlap those this probe was fitted on "
                         f"({len(wrong)} of them, {wrong[0]} … {wrong[-1]}); leave --first and --count out, and only others "
                         "are scored")
    return numbers, notes


def _fitted_on(probe: Probe) -> range:
    bank = probe.record["bank"]
    return range(bank["first_seed"], bank["first_seed"] + bank["samples"])


def _fitted_in(data: Data, probe: Probe) -> tuple[set[int], list[str]]:
    """Which images of `data` a probe was fitted on, where its own data is another, or the same read in another way: files are
    known by their paths. Images that are computed go by their numbers."""
    own, numbers = probe.record["data"], _fitted_on(probe)
    if not isinstance(data, Photographs):
        return (set(numbers) if data.name == own["name"] else set()), []
    try:
        recorded = probe.data or get_data(own["name"])
    except (ValueError, OSError) as error:
        return set(), [f"the data this probe was fitted on, {own['name']}, cannot be opened, so nobody checked that none of "
                       f"its images is scored ({' '.join(str(error).split())})"]
    if not isinstance(recorded, Photographs):
        return set(), []
    of = {_key(data, i): i for i in range(data.count)}
    if recorded.fingerprint == own["fingerprint"]:
        keys = (_key(recorded, i) for i in numbers if i < recorded.count)
        return {of[key] for key in keys if key in of}, []
    shared = next((key for i in range(recorded.count) if (key := _key(recorded, i)) in of), None)
    if shared is not None:
        raise ValueError(f"data: {data.name} shares images with {own['name']}, on which this probe was fitted ({shared[0]}, "
                         "for one), and what lies there has changed since, so nobody knows which of them it has seen; bring "
                         "the data back, or give data of other images")
    return set(), []


def _key(data: Photographs, index: int) -> tuple[str, str]:
    """What tells an image of a dataset from every other: its file, and where one file holds many, its name."""
    path = next(iter(data.files(index)), None)
    return str(path.resolve()) if path is not None else "", "" if file_of(data, index) else data.sample_name(index)
