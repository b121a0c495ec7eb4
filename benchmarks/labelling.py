"""Where the time of labelling and scoring goes: images/s of each stage alone, and of the pipeline that overlaps them.

    python benchmarks/labelling.py                                     # Retinex on 24 photographs of 768 × 1024
    python benchmarks/labelling.py --teacher paradigms --intrinsic albedo
    python benchmarks/labelling.py --teacher zoedepth-nyu --intrinsic depth --device cuda --json labelling.json

The photographs are made on the fly, PNG with a .npy map beside each. Sequential is one stage after the other, an image at a
time, in one thread; the pipeline is `probes.label` and `probes.score`, which decode in threads and write or score in another
while the teacher works. Both run in one process, in turns, so whatever else the machine does meets both alike.
"""
from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _timing import machine, table  # noqa: E402

from probes._intrinsics import get_intrinsic  # noqa: E402
from probes._parallel import threads_for  # noqa: E402
from probes.data import Photographs, Sample  # noqa: E402
from probes.images import Photo, fit, read_image, write_map  # noqa: E402
from probes.labelling import label  # noqa: E402
from probes.metrics import prepare_depth  # noqa: E402
from probes.scoring import score  # noqa: E402
from probes.scoring._choice import choose  # noqa: E402
from probes.teachers import get_teacher  # noqa: E402
from probes.teachers._labels import digest  # noqa: E402


class Made(Photographs):
    """Photographs with one map each, as a dataset holds them."""

    def __init__(self, folder: Path, intrinsic: str):
        self.name, self.exact, self.masked = str(folder), (intrinsic,), True
        self.paths = sorted(folder.glob("*.png"))
        self.count = len(self.paths)

    def identity(self) -> dict:
        return {}

    def sample_name(self, index: int) -> str:
        return self.paths[index].stem

    def files(self, index: int) -> list[Path]:
        return [self.paths[index], *(self.paths[index].with_suffix(".npy") for _ in self.exact)]

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        maps = {i: torch.from_numpy(np.load(self.paths[index].with_suffix(".npy"))) for i in intrinsics}
        return Sample(self.sample_name(index), read_image(self.paths[index]).pixels, maps)


def make(folder: Path, intrinsic: str, count: int, height: int, width: int) -> Made:
    """Coloured blots with the grain of a photograph, which is what makes a PNG slow to decode; maps with holes."""
    rng, channels = np.random.default_rng(0), get_intrinsic(intrinsic).channels
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
        grain = rng.normal(0, 4, (height, width, 3))
        Image.fromarray((np.asarray(small.filter(ImageFilter.GaussianBlur(2))) + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"{i:04d}.png")
        values = rng.uniform(0.1, 1, (channels, height, width)).astype(np.float32)
        if intrinsic == "normal":
            values = -values / np.linalg.norm(values, axis=0)
        values[:, :height // 10] = np.nan
        np.save(folder / f"{i:04d}.npy", values)
    return Made(folder, intrinsic)


class Clock:
    """Seconds by stage, an entry an image."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = {}

    def __call__(self, stage: str, call: Callable[[], object]) -> object:
        began = time.perf_counter()
        result = call()
        self.stages.setdefault(stage, []).append(time.perf_counter() - began)
        return result


def sequential_label(data: Made, teacher, intrinsic: str, out: Path) -> Clock:
    clock = Clock()
    for i in range(data.count):
        sample = clock("decode", lambda i=i: data.sample(i))
        clock("digest", lambda i=i: digest(data, i))
        with torch.inference_mode():
            values = clock("teacher", lambda s=sample: teacher.label(s.image[None], intrinsic).float().cpu()[0])
        clock("write", lambda i=i, v=values: write_map(out / f"{data.sample_name(i)}-{intrinsic}", v, intrinsic, ("npy",)))
    return clock


def sequential_score(data: Made, teacher, intrinsic: str) -> Clock:
    clock = Clock()
    meaning = teacher.meaning(intrinsic)
    protocols, _ = choose("auto", intrinsic, meaning, data.meaning(intrinsic))
    for i in range(data.count):
        sample = clock("decode image and truth", lambda i=i: data.sample(i, (intrinsic,)))
        with torch.inference_mode():
            values = clock("predict", lambda s=sample: teacher.label(s.image[None], intrinsic).float().cpu())
        target = sample.maps[intrinsic][None]
        for protocol in protocols:
            def one(protocol=protocol, values=values, target=target):
                ready = prepare_depth(values, meaning, protocol) if intrinsic == "depth" else values
                return protocol.score(ready, target)
            clock(f"score {protocol.name}", one)
    return clock


def fits(data: Made) -> Clock:
    """What a bank does with a photograph besides: bring it to the generator's size."""
    clock = Clock()
    for i in range(min(8, data.count)):
        sample = data.sample(i)
        clock("resize to 512² (in a fit)", lambda s=sample: fit(Photo(s.image, s.name), size=512, policy="square"))
    return clock


def rows(clock: Clock, total: float | None) -> list[list[str]]:
    found = []
    for stage, times in clock.stages.items():
        each = statistics.median(times)
        share = "" if total is None else f"{100 * sum(times) / total:.0f} %"
        found.append([stage, f"{1000 * each:.1f}", f"{1 / each:.1f}", share, ""])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="retinex")
    parser.add_argument("--intrinsic", default="shading")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--size", type=int, nargs=2, default=(768, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, help="that decode; default: as many as there are processors")
    parser.add_argument("--turns", type=int, default=2, help="of sequential and pipeline")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    teacher = get_teacher(args.teacher, args.intrinsic).to(args.device)
    report: dict = {"teacher": teacher.name, "intrinsic": args.intrinsic, "size": args.size, "machine": machine()}
    with tempfile.TemporaryDirectory() as root:
        photos = Path(root) / "photos"
        photos.mkdir()
        data = make(photos, args.intrinsic, args.count, *args.size)
        threads = threads_for(data, args.threads)
        with torch.inference_mode():
            teacher.label(data.sample(0).image[None], args.intrinsic)       # the first call allocates
        about = report["machine"]
        print(f"{teacher.name}, {args.intrinsic}: {args.count} photographs of {args.size[0]}×{args.size[1]}, "
              f"{about['threads']} thread(s) for arithmetic, {threads} to decode, torch {about['torch']}\n")
        jobs = {
            "label": (lambda n: sequential_label(data, teacher, args.intrinsic, Path(root) / f"s{n}"),
                      lambda n: label(data, teacher, args.intrinsic, Path(root) / f"p{n}", threads=threads, quiet=True)),
            "score": (lambda n: sequential_score(data, teacher, args.intrinsic),
                      lambda n: score(teacher, data, intrinsic=args.intrinsic, output=Path(root) / f"e{n}", threads=threads,
                                      trivial=0)),
        }
        for name, (sequential, pipeline) in jobs.items():
            clock, times = Clock(), {"sequential": [], "pipeline": []}
            for turn in range(args.turns):
                for way, job in (("sequential", sequential), ("pipeline", pipeline)):
                    wall, cpu = time.perf_counter(), time.process_time()
                    result = job(turn)
                    times[way].append((time.perf_counter() - wall, time.process_time() - cpu))
                    clock = result if way == "sequential" else clock
            lines = rows(clock, sum(map(sum, clock.stages.values())))
            report[name] = {"stages": {k: statistics.median(v) for k, v in clock.stages.items()}}
            for way, found in times.items():
                wall, cpu = (statistics.median(values) / args.count for values in zip(*found, strict=True))
                report[name][way] = dict(wall=wall, cpu=cpu)
                share = f"{100 * wall / report[name]['sequential']['wall']:.0f} %"
                lines.append([way, f"{1000 * wall:.1f}", f"{1 / wall:.1f}", share, f"{1000 * cpu:.1f}"])
            print(table([name, "ms/image", "images/s", "share", "CPU ms/image"], lines) + "\n")
        print(table(["elsewhere", "ms/image", "images/s", "share", ""], rows(fits(data), None)))
    print("\nstages: medians of the last turn, alone; share: of the sequential time. The pipeline of `score` also draws the "
          "bootstrap.\nCPU: of all threads; where the machine is shared, wall time is the less steady of the two.")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
