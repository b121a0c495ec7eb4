"""How a run was made, as a table of facts."""
from __future__ import annotations

from typing import Any

from ._markup import Markup, join, tag
from ._schema import Metrics, ProbeInfo
from ._text import NONE, duration, finite, generator_name, given, judge, primary


def facts(probe: ProbeInfo, metrics: Metrics) -> Markup:
    """Generator, teacher, adapter, pairs, training, scoring and machine, each with what identifies it."""
    generator, teacher, method = probe["generator"], probe["teacher"], probe["method"]
    bank, training = probe["bank"], probe["training"]
    seeds = metrics.get("seeds") or []
    span = f", seeds {seeds[0]} to {seeds[0] + seeds[1] - 1}, none of them trained on" if len(seeds) == 2 else ""
    options = ", ".join(f"{k} {v}" for k, v in (probe["intrinsic"].get("options") or {}).items())
    adapter = [method["name"], *(f"{k} {_count(method[k])}" for k in ("rank", "alpha") if method.get(k) is not None)]
    if method.get("scope"):
        adapter.append(f"on scope {method['scope']}")
    if method.get("prompt"):
        adapter.append(f"prompt “{method['prompt']}”")
    rows = [
        ("Generator", _identified(f"{generator_name(probe)}, {generator['family']}, {generator['weights']} weights, "
                                  f"{generator['resolution']} × {generator['resolution']} px, "
                                  f"{_count(generator['parameters'])} parameters", generator.get("fingerprint"))),
        ("Intrinsic", probe["intrinsic"]["name"] + (f" ({options})" if options else "")),
        ("Teacher", _identified(f"{teacher['name']}, version {teacher['version']}, licence {teacher['licence']}",
                                teacher.get("fingerprint"))),
        *([("Images", _identified(data["name"], data.get("fingerprint")))] if (data := given(probe)) else []),
        ("Adapter", f"{', '.join(adapter)}: {len(method.get('sites') or [])} sites, "
                    f"{_count(method['parameters'])} parameters"),
        ("Pairs", _identified(f"{_count(bank['samples'])} images with the teacher's answers", bank.get("key"), "key")),
        ("Training", f"{_count(training['steps'])} steps, batch {training['batch']}, learning rate "
                     f"{training['learning_rate']:g}, seed {training['seed']}, {_together(training)}"
                     f"{duration(training.get('seconds'))}, "
                     f"final loss {_loss(training.get('final_loss'))}, {training.get('status') or 'status unknown'}"),
        ("Scoring", f"protocol {metrics['protocol']}, against {judge(probe, metrics)}, "
                    f"{_count(primary(metrics).get('n'))} images{span}"),
        ("Hardware", probe.get("hardware") or NONE),
        ("Versions", ", ".join(f"{k} {v}" for k, v in (probe.get("versions") or {}).items()) or NONE),
    ]
    return tag("table", tag("tbody", [tag("tr", tag("th", name, scope="row"), tag("td", value))
                                      for name, value in rows]), class_="facts")


def _identified(text: str, fingerprint: Any, word: str = "fingerprint") -> Markup:
    """The first 12 digits are enough to compare by eye; the rest is in the tooltip."""
    if not fingerprint:
        return join(text)
    return join(text, f", {word} ", tag("code", str(fingerprint)[:12], title=fingerprint))


def _together(training: Any) -> str:
    """In how many processes and micro-batches a step was taken, where that is more than one."""
    words = [f"{training[key]} {name}" for key, name in (("processes", "processes"), ("accumulate", "micro-batches"))
             if (training.get(key) or 1) > 1]
    return "".join(f"{word}, " for word in words)


def _count(value: Any) -> str:
    number = finite(value)
    return NONE if number is None else f"{number:,.0f}" if number.is_integer() else f"{number:g}"


def _loss(value: Any) -> str:
    number = finite(value)
    return NONE if number is None else f"{number:.3g}"
