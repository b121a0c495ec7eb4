"""Options as people write them: --learning-rate for --learning_rate, and a bare --small for --small true."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature


def spelled(arguments: Sequence[str], commands: Mapping[str, Callable]) -> list[str]:
    """The arguments in the one spelling that the parser knows; `commands` are the functions of its subcommands, whose
    parameters say which options are yes or no."""
    command = next((commands[a] for a in arguments if a in commands), None)
    flags = {name for name, p in signature(command).parameters.items() if p.default is False} if command else set()
    found = []
    for at, argument in enumerate(arguments):
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            found.append(argument)
            continue
        name = name.replace("-", "_")
        found.append(f"--{name}{equals}{value}")
        following = arguments[at + 1].lower() if at + 1 < len(arguments) else ""
        if name in flags and not equals and following not in ("true", "false", "yes", "no"):
            found.append("true")
    return found
