"""The result of a scoring in the terminal: every protocol's table under the other, 80 columns wide."""
from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_NONE = "–"


def score_table(results: dict) -> RenderableType:
    """One table with a section a protocol: a row a metric, its 95 % interval, the trivial predictor and skill against it.

    Args:
        results: the contents of scores.json
    """
    about, protocols = results["identity"], results["protocols"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, collapse_padding=True)
    table.add_column("protocol, metric", min_width=24)
    for name in ("value", "95 % interval", *(["trivial", "skill"] if results["trivial"] else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for name, protocol in protocols.items():
        counts = {m["n"] for m in protocol["metrics"].values()}
        n = max(counts)
        of = "" if n == results["samples"] else f", {n} samples"
        table.add_row(Text(f"{name}/{protocol['version']}{of}", style="bold"), *[""] * (len(table.columns) - 1))
        for key, metric in protocol["metrics"].items():
            places = _places(metric)
            low, high = metric["ci95"] or (None, None)
            cells = [_number(metric["value"], places), f"{_number(low, places)} … {_number(high, places)}"]
            if results["trivial"]:
                cells += [_number(metric.get("trivial"), places), _number(metric.get("skill"), 2)]
            table.add_row(Text("  " + _label(metric)), *cells, style="" if key == protocol["primary"] else "dim")
        table.add_section()
    lines = [f"{about['source']['name']}, {about['intrinsic']}{_meaning(about)}, on {results['samples']} samples of "
             f"{about['data']['name']}"]
    if about["data"].get("labels_of"):
        lines.append(f"compared with labels of {about['data']['labels_of']}, not with the truth")
    if results["trivial"]:
        of = "scored samples, so skill is rather too low" if results["trivial"]["scored"] else "samples that are not scored"
        lines.append(f"trivial: the mean map of {results['trivial']['samples']} {of}")
    for kind, found in results["left_out"].items():
        lines.append(f"left out, {kind}: {len(found)}; {found[0]}{', …' if len(found) > 1 else ''}")
    lines += [f"note: {note}" for note in results["notes"]]
    return Group(table, Text("\n".join(lines), style="dim"))


def _meaning(about: dict) -> str:
    return f" ({about['meaning']})" if about["meaning"] else ""


def _label(metric: dict) -> str:
    unit = f", {metric['unit']}" if metric["unit"] else ""
    return f"{metric['label']}{unit} {'↓' if metric['better'] == 'lower' else '↑'}"


def _places(metric: dict) -> int:
    """Decimals that leave two digits of the interval's half width, 1 … 5 of them."""
    half = (metric["ci95"][1] - metric["ci95"][0]) / 2 if metric["ci95"] else 0
    return next((places for places in range(1, 5) if half * 10**places >= 5), 5) if half > 0 else 3


def _number(value: float | None, places: int) -> str:
    return _NONE if value is None or value != value else f"{value:.{places}f}"
