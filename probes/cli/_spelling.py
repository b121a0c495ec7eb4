"""Options as people write them: --learning-rate for --learning_rate, a bare --small for --small true, --reuse A --reuse B,
--controls latent,rgb for --controls "[latent, rgb]"."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from inspect import signature

REPEATED = ("protocol", "reuse", "formats", "controls")      # lists that may be given an entry at a time
NAMES = ("formats", "controls")                   # and of these, with commas: what they list are names, not paths


def spelled(arguments: Sequence[str], commands: Mapping[str, Callable]) -> list[str]:
    """The arguments in the one spelling that the parser knows; `commands` are the functions of its subcommands, whose
    parameters say which options are yes or no."""
    name = next((a for a in arguments if a in commands), None)
    known = signature(commands[name]).parameters if name else {}
    flags = {name for name, p in known.items() if p.default is False}
    found, config, gathered, rest = [], [], {}, list(arguments)
    command, at = name, 0
    while rest:
        argument = rest.pop(0)
        if argument == "--":                        # what follows is no option
            rest.insert(0, argument)
            break
        if argument == command and not at:
            at = len(found) + 1
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            found.append(argument)
            continue
        name, dot, key = name.partition(".")        # keys of a dictionary are as they are
        name = name.replace("-", "_")
        if name == "config" and at and (equals or rest):          # options that stand before a file count as well
            config.append(f"--config={value if equals else rest.pop(0)}")
            continue
        if name in REPEATED and name in known and not dot and (equals or rest):
            gathered.setdefault(name, []).extend(_entries(value if equals else rest.pop(0), name in NAMES))
            continue
        found.append(f"--{name}{dot}{key}{equals}{value}")
        if name in flags and not dot and not equals and (rest[:1] or [""])[0].lower() not in ("true", "false", "yes", "no"):
            found.append("true")
    return found[:at] + config + found[at:] + [f"--{name}={json.dumps(entries)}" for name, entries in gathered.items()] + rest


def _entries(text: str, commas: bool) -> list[str]:
    """Of one value: itself, or a list's."""
    if commas and not text.startswith("["):
        text = f"[{text}]"
    try:
        several = json.loads(text) if text.startswith("[") else None
    except ValueError:
        several = [part.strip(" \"'") for part in text.strip("[]").split(",")]
    return several if several is not None else [text]
