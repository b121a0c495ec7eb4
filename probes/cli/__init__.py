"""The `probes` command. Every subcommand is a function of the API: its signature is the command line and the YAML."""
from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import signature

from jsonargparse import ActionConfigFile, Namespace

from ._data import data
from ._files import convert, export, import_
from ._label import label
from ._list import list_
from ._parser import Given, Parser
from ._runs import predict
from ._score import evaluate
from ._spelling import spelled
from ._study import study

_FREE = {"images": "photographs, folders of them, patterns", "names": "these alone, with all that is known of them"}
_RESUMED = ("fit", "label", "evaluate", "predict", "study")


def _parser() -> tuple[Parser, dict[str, Callable]]:
    from .._fit import fit

    # name -> (function, whether required arguments are positional, arguments that are no options of the command)
    commands = {"fit": (fit, False), "list": (list_, True), "predict": (predict, True), "evaluate": (evaluate, True),
                "convert": (convert, True), "export": (export, True), "import": (import_, False),
                "label": (label, True), "data": (data, True), "study": (study, True)}
    parser = Parser(prog="probes", description=__doc__)
    sub = parser.add_subcommands(required=True)
    for name, (function, positional) in commands.items():
        own = Parser(description=(function.__doc__ or "").split("\n\n")[0])
        own.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the options below")
        several = [free for free in _FREE if free in signature(function).parameters]     # these follow the command, without --
        own.add_function_arguments(function, as_group=False, as_positional=positional, skip=set(several))
        for argument in several:
            own.add_argument(argument, type=str, nargs="*", default=[], action=Given, help=_FREE[argument])
        sub.add_subcommand(name, own, help=(function.__doc__ or "").split("\n")[0])
    return parser, {name: function for name, (function, _) in commands.items()}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; errors that a user can mend are one line, without a traceback."""
    parser, functions = _parser()
    parsed: Namespace = parser.parse_args(spelled(sys.argv[1:] if arguments is None else arguments, functions))
    options = dict(parsed[parsed.subcommand].items())
    options.pop("config", None)
    try:
        functions[parsed.subcommand](**options)
    except KeyboardInterrupt:
        again = "; the same command goes on from here" if parsed.subcommand in _RESUMED else ""
        print(f"interrupted{again}", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"probes {parsed.subcommand}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0

