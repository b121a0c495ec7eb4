"""The parser of the command line, whose errors are one line like all others: what came, what was expected, what to type."""
from __future__ import annotations

import re
from argparse import Action
from collections.abc import Iterable
from typing import NoReturn

from jsonargparse import ArgumentParser

from generators._names import nearest, unknown

_WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "dict": "{name: value, …}",
          "collections.abc.Mapping": "{name: value, …}", "collections.abc.Sequence": "a list", "list": "a list"}


class Parser(ArgumentParser):
    """An ArgumentParser that says in a line what was wrong, without the usage of all options before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        command = parser.prog.replace(" [options]", "").replace("[options] ", "")
        options = [o for action in parser._actions for o in action.option_strings if o.startswith("--")]
        self.exit(2, f"{command}: {told(message, options)}; `{command} --help` says what there is\n")


class Given(Action):
    """Of arguments that may be left out, those that a file gives stand unless some are typed."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if values:
            setattr(namespace, self.dest, values)


def told(message: str, options: Iterable[str]) -> str:
    """What the parser says, as a line of ours; `options` are those that there are."""
    if match := re.match(r"unrecognized arguments: (.+)", message, re.I | re.S):
        given = match[1].split()
        wrong = next((a for a in given if a.startswith("--") and a != "--"), given[-1])
        if not wrong.startswith("--"):
            return f"nothing was expected where {wrong!r} stands"
        return f"nothing is called {wrong}; {nearest(wrong.partition('=')[0], options)}".rstrip("; ")
    if match := re.match(r"the following arguments are required: (.+)", message):
        return f"missing: {re.sub(r'[a-z]+[.]', '', match[1])}"
    if match := re.match(r"Subcommand '\w+' does not accept option '([^']+)'", message):
        return f"nothing is called {match[1]}; {nearest(match[1], [o.removeprefix('--') for o in options])}".rstrip("; ")
    if match := re.match(r"argument \w+: invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
        return str(unknown("command", match[1], [name.strip(" '") for name in match[2].split(",")]))
    if match := re.match(r"Parser key \"([\w.]+)\":(.*)", re.sub(r"Given value type:.*", "", message), re.S):
        value = re.search(r"(?:Given|Got) value: (.*)", match[2])
        if value and (choices := re.search(r"Literal\[(.*?)\]", match[2])):
            return str(unknown(match[1], value[1], [name.strip(" '\"") for name in choices[1].split(",")]))
        types = dict.fromkeys(re.findall(r"<class '([\w.]+)'>", match[2]))
        if value and types and types.keys() <= _WORDS.keys() | {"NoneType"}:
            expected = " or ".join(_WORDS[t] for t in types if t != "NoneType")
            return f"{match[1]}: expected {expected}, got {value[1]!r}"
    return " ".join(message.split())
