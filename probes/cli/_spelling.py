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
    command = next((a for a in arguments if a in commands), None)
    if command is None:                             # the parser says so
        return list(arguments)
    known = signature(commands[command]).parameters
    flags = {name for name, p in known.items() if p.default is False}
    before, free, config, options, gathered, rest = [], [], [], [], {}, list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":                        # what follows is no option
            rest.insert(0, argument)
            break
        if not argument.startswith("--"):
            (before if command not in before else free).append(argument)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        name, dot, key = name.partition(".")        # keys of a dictionary are as they are
        name = name.replace("-", "_")
        if name == "config" and (equals or rest):   # below what is typed, wherever it stands
            config.append(f"--config={value if equals else rest.pop(0)}")
            continue
        if name in REPEATED and name in known and not dot and (equals or rest):
            gathered.setdefault(name, []).extend(_entries(value if equals else rest.pop(0), name in NAMES))
            continue
        options.append(f"--{name}{dot}{key}{equals}{value}")
        if equals or name in ("help", "print_config") or key == "help":
            continue
        if name not in flags or dot:
            if rest and not rest[0].startswith("--"):
                options.append(rest.pop(0))
        elif rest and rest[0].lower() in ("true", "false", "yes", "no"):
            options.append(rest.pop(0))
        else:
            options.append("true")
    lists = [f"--{name}={json.dumps(entries)}" for name, entries in gathered.items()]
    return before + config + free + options + lists + rest


def _entries(text: str, commas: bool) -> list[str]:
    """Of one value: itself, or a list's."""
    if commas and not text.startswith("["):
        text = f"[{text}]"
    try:
        several = json.loads(text) if text.startswith("[") else None
    except ValueError:
        several = [part.strip(" \"'") for part in text.strip("[]").split(",")]
    return several if several is not None else [text]
