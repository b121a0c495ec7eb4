"""The page of findings: every finding of the paper beside what was measured, from the study folders under one folder.

A study's verdict is taken as the study gives it, on its whole grid with all its seeds: rows of a small grid, of one intrinsic
or of a single seed can say that a rule holds so far, never that the finding is reproduced.
"""
from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ._base import Row, Study, StudyError, finished
from ._folder import open_folder
from ._page import _listed, _span, table, taught
from ._registry import get_study, studies
from ._run import grid
from ._uncovered import UNCOVERED
from ._verdict import Asked, Verdict, judge

KINDS = ("reproduced", "not reproduced", "not testable here")


@dataclass(frozen=True)
class Report:
    """What one study folder says.

    Args:
        folder: which
        study: whose
        small: whether of the small grid
        options: further arguments of its fits
        rows: all of them
        verdict: on the whole grid
        holds: whether the rule holds for the rows there are
    """

    folder: Path
    study: Study
    small: bool
    options: dict
    rows: Sequence[Row]
    verdict: Verdict
    holds: bool


def findings(folder: str | Path, links_from: str | Path | None = None) -> str:
    """Markdown: a table of the paper's findings, each with its rule, what was measured, and a link to the study's page; and
    those that no study covers, with why.

    Args:
        folder: holds study folders, such as studies/, where `probes study` puts them
        links_from: folder of the file that the text is for; links start there. `folder` itself by default

    Reads only. Raises StudyError where there are no study folders, or one of them is damaged or of another version, and
    UnknownNameError where one holds a study that nobody registered.
    """
    folder = Path(folder)
    reports = [read_report(about.parent) for about in sorted(folder.glob("*/study.json"))]
    if not reports:
        raise StudyError(f"folder: {folder} holds no study folders; run one, for instance: probes study controls --small true "
                         f"--out {folder / 'controls'}")
    lines, kinds, holding = [], [], 0
    for study in studies().values():
        own = sorted((r for r in reports if r.study is study), key=lambda r: (r.small, str(r.folder)))
        kinds.append(_together(own))
        holding += kinds[-1] == KINDS[2] and any(r.holds for r in own)
        says = f"{study.question[0].upper()}{study.question[1:]} {study.finding}"
        lines += [(says, study.rule, _measured(r), _link(r, links_from or folder)) for r in own]
        if not own:
            lines.append((says, study.rule, f"**{KINDS[2]}**: not run; `probes study {study.name}` does.", study.name))
    kinds += [KINDS[2]] * len(UNCOVERED)
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS)
    if holding:
        counted += f" (of which {holding} hold{'s' * (holding == 1)} as far as run)"
    wrong = taught(row for report in reports for row in finished(report.rows))
    return "\n\n".join([
        f"Of {len(kinds)} findings of the paper (arXiv 2311.17137): {counted}.",
        "Measured on the embedded generators, whose rooms have known maps, by rules that were fixed before the fits. "
        "*Reproduced* is for a whole grid with all its seeds; where a rule holds for less, that is said and no more. "
        f"Taught by {wrong}.",
        table(["the paper reports", "reproduced here if", "measured", "page"], lines),
        "Findings that no study covers:",
        table(["the paper reports", "why not testable here", "instead"], [(u.finding, u.why, u.instead) for u in UNCOVERED])])


def read_report(folder: Path) -> Report:
    """Of one study folder. Raises as `findings` does."""
    try:
        about = json.loads((folder / "study.json").read_text())
        name, request = about["name"], dict(about["request"])
        small, options = bool(request["small"]), dict(request["options"])
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"folder: {folder / 'study.json'} is no study's ({type(error).__name__}: {error}); move that folder "
                         "away") from error
    study = get_study(name)
    rows = open_folder(folder, study, request).rows(mend=False)        # the study may be running
    done = finished(rows)
    verdict = judge(study, done, Asked(grid(study, small, options=options), small))
    return Report(folder, study, small, options, rows, verdict, bool(done) and study.verdict(done).kind == KINDS[0])


def _together(reports: Sequence[Report]) -> str:
    """One kind for all folders of a study, those of the full grid if there are any: what one of them refutes is refuted."""
    found = {r.verdict.kind for r in [r for r in reports if not r.small] or reports}
    return KINDS[1] if KINDS[1] in found else found.pop() if len(found) == 1 else KINDS[2]


def _measured(report: Report) -> str:
    """The verdict, and of what."""
    done = finished(report.rows)
    marks = " (small grid)" if report.small else ""
    about = [f"{len(done)} fits"]
    if failed := len(report.rows) - len(done):
        about.append(f"{failed} failed or without a skill")
    if done:
        seeds = len({r["seed"] for r in done})
        about += [f"{seeds} seed{'s' * (seeds > 1)}", f"{_span(done, 'samples')} pairs", f"{_span(done, 'steps')} steps",
                  f"{_span(done, 'n')} unseen images", f"against {_listed(done, 'against', ' or ')}"]
    if report.options:
        about.append(f"`--options '{json.dumps(report.options)}'`")
    return f"**{report.verdict.kind}**{marks}: {report.verdict.reason} *{', '.join(about)}.*"


def _link(report: Report, start: str | Path) -> str:
    where = Path(os.path.relpath(report.folder / "README.md", start)).as_posix()
    return f"[{report.folder.name}]({where})"
