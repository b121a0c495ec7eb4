"""Skill of every embedded generator at every quality level, on every intrinsic, with the controls beside it.

    python -m zoo.evaluate_levels --out runs/levels

    python -m zoo.evaluate_levels --out runs/levels --collect true

    python -m zoo.evaluate_levels --figure zoo/results/controls.png

Runs what is missing (a killed fit is taken up) and prints the table of RESULTS.md; `--collect true` adds finished
runs to zoo/results/; `--figure` draws from what lies there what is left of each probe above its controls, and runs nothing.
The trained controls (`random`, `crossed`) are fitted for the best level of each family.
"""
from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from jsonargparse import auto_cli

import generators
import probes
from probes._files import write_bytes_atomically, write_text_atomically
from probes.report import judge_name
from probes.studies import get_study

CONTROLS = ("latent", "rgb", "random", "crossed", "shuffled")
INTRINSICS = ("normal", "depth", "albedo", "shading")
RESULTS = Path(__file__).parent / "results"


def _row(folder: Path) -> dict:
    """A finished run folder as a row of results."""
    metrics, record = (json.loads((folder / name).read_text()) for name in ("metrics.json", "probe.json"))
    level, intrinsic, request = record["generator"]["name"], record["intrinsic"]["name"], record["request"]
    card, entry = generators.card(level), metrics["metrics"][metrics["primary"]]
    row = dict(generator=level, images=card["images"], frechet=card["frechet"]["value"], intrinsic=intrinsic,
               teacher=record["teacher"]["name"], against=judge_name(metrics) or record["teacher"]["name"],
               encoding=record["intrinsic"]["options"].get("encoding", ""),
               mode=_mode(record["generator"].get("options", {})), metric=metrics["primary"], protocol=metrics["protocol"],
               n=entry["n"], seed=request["seed"], samples=request["samples"], steps=request["steps"],
               trivial=entry["trivial"]["value"], probe=entry["value"],
               skill=entry["skill"], skill_low=entry["skill_ci95"][0], skill_high=entry["skill_ci95"][1])
    for name, control in entry["controls"].items():
        low, high = control.get("skill_ci95") or (None, None)
        row |= {name: control["value"], f"{name}_skill": control["skill"], f"{name}_skill_low": low, f"{name}_skill_high": high}
    return row


def _mode(options: dict) -> str:
    """How a diffusion model says it; empty for other generators."""
    if options.get("mode") != "multi":
        return options.get("mode", "")
    return (f"multi: {options['steps']} steps, guidance {options['guidance']:g}, "
            f"{'zero' if options['zero_snr'] else 'its own'} terminal SNR")


def _markdown(rows: list[dict]) -> str:
    lines = ["| generator | images | Fréchet | pairs, steps | intrinsic | taught by, against | trivial | probe | "
             "skill [95 %] | latent | rgb | random | crossed |", "| --- " * 13 + "|"]
    for r in rows:
        controls = [f"{float(r[f'{c}_skill']):.2f}" if r.get(f"{c}_skill") not in (None, "") else "–"
                    for c in ("latent", "rgb", "random", "crossed")]
        name = r["generator"] + (f" ({r['mode']})" if r.get("mode") not in (None, "", "single") else "")
        lines.append(f"| {name} | {int(r['images']) // 1000}k | {float(r['frechet']):.3g} | {r['samples']}, "
                     f"{r['steps']} | {r['intrinsic']} | {r['teacher']}, {r['against']} | "
                     f"{float(r['trivial']):.3g} | {float(r['probe']):.3g} | **{float(r['skill']):.2f}** "
                     f"[{float(r['skill_low']):.2f}, {float(r['skill_high']):.2f}] | {' | '.join(controls)} |")
    return "\n".join(lines)


def as_study(results: Iterable[dict]) -> list[dict]:
    """Rows of zoo/results/*.csv as rows of the study `controls`: of each generator and intrinsic the (single-step) fit of the
    best level that has a trained control beside it; of its fits the one with the most controls, then the largest budget."""
    best: dict[tuple[str, str], dict] = {}
    for r in results:
        if (r.get("mode") or "").startswith("multi"):
            continue
        at = r["generator"].partition("@")[0], r["intrinsic"]
        if at not in best or _weight(r) > _weight(best[at]):
            best[at] = r
    rows = []
    for r in best.values():
        row = dict(key=f"{r['generator']}-{r['intrinsic']}", control="probe", generator=r["generator"],
                   intrinsic=r["intrinsic"], seed=int(r["seed"]), skill=float(r["skill"]),
                   skill_low=float(r["skill_low"]), skill_high=float(r["skill_high"]))
        for control in CONTROLS:
            for column in ("skill", "skill_low", "skill_high"):
                if r.get(f"{control}_{column}"):
                    row[f"control_{control}{column.removeprefix('skill')}"] = float(r[f"{control}_{column}"])
        rows.append(row)
    return rows


def _weight(row: dict) -> tuple[int, ...]:
    has = [bool(row.get(f"{c}_skill")) for c in CONTROLS]
    return has[CONTROLS.index("random")], int(row["images"]), sum(has), int(row["samples"]) * int(row["steps"])


def draw(figure: str | Path, results: Path = RESULTS) -> None:
    """Writes the picture of what is left above the controls, by the results that are kept; ValueError if there are none."""
    rows = as_study(r for path in sorted(results.glob("*.csv")) for r in csv.DictReader(path.read_text().splitlines()))
    if not rows:
        raise ValueError(f"figure: {results} holds no results; --collect true gathers finished runs there")
    write_bytes_atomically(Path(figure), get_study("controls").plot(rows))


def main(out: str = "runs/levels", names: list[str] | None = None, levels: list[str] | None = None,
         intrinsics: list[str] = list(INTRINSICS), options: dict | None = None, seed: int = 0,  # noqa: B006
         trained: list[str] = ["random", "crossed"], teachers: list[str] = ["auto"], collect: bool = False,  # noqa: B006
         figure: str | None = None) -> None:
    """Fits and scores.

    Args:
        out: folder of the runs
        names: of the embedded generators, without levels; all by default
        levels: which of their levels; all by default
        intrinsics: which
        options: further arguments of `probes.fit`, the same for all
        seed: of all fits
        trained: trained controls of each generator's best level
        teachers: what the probes are taught by, one fit each; exact too, for generators that are driven by images
        collect: only gather what is finished and print the table
        figure: only draw this picture from the results that are kept
    """
    if figure is not None:
        return draw(figure)
    embedded = [e.name for e in generators.catalog().values() if e.kind == "embedded"]
    everything = []
    for name in names or [e for e in embedded if "@" not in e]:
        rows = []
        for level in [e for e in embedded if e.partition("@")[0] == name and (levels is None or e in levels)]:
            for intrinsic, teacher in product(intrinsics, teachers):
                folder = Path(out) / f"{level}-{intrinsic}{'' if teacher == 'auto' else f'-{teacher}'}"
                if not collect:
                    controls = ["latent", "rgb", *(trained if "@" not in level else [])]
                    probes.fit(level, intrinsic, teacher, controls=controls, seed=seed, out=str(folder), **(options or {}))
                if (folder / "metrics.json").exists():
                    rows.append(_row(folder))
        if collect and rows:
            path = RESULTS / f"{name}.csv"
            kept = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
            write_text_atomically(path, _csv(merged(kept, rows)))
        everything += rows
    print(_markdown(everything))


def merged(kept: list[dict], found: list[dict]) -> list[dict]:
    """What was found, and what is kept already of other levels, budgets and teachers; the best level first."""
    def fit(row: dict) -> tuple:
        return tuple(str(row.get(c) or "") for c in ("generator", "intrinsic", "teacher", "against", "encoding", "mode",
                                                     "samples", "steps", "seed"))

    new = {fit(row) for row in found}
    order = [*INTRINSICS, ""]
    return sorted([*found, *(row for row in kept if fit(row) not in new)], key=lambda r: (
        -int(r["images"]), -int(r["samples"]) * int(r["steps"]), order.index(r["intrinsic"])))


def _csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(k for r in rows for k in r)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
