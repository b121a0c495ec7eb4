"""HTML that cannot forget to escape: every child and attribute is escaped unless it was made here."""
from __future__ import annotations

from html import escape
from typing import Any


class Markup(str):
    """Text that is HTML already."""


_VOID = {"meta", "img", "br"}


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """`<name attribute="…">children</name>`; strings are escaped, Markup is kept, None is left out.

    `class_` stands for class, underscores in other names for dashes; an attribute that is True has no value.
    """
    opening = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        opening += f" {key}" if value is True else f' {key}="{escape(str(value))}"'
    if name in _VOID:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{join(*children)}</{name}>")


def join(*children: Any) -> Markup:
    """Children one after the other, escaped where they are plain text; lists are taken apart."""
    parts = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Markup) else escape(str(child)))
    return Markup("".join(parts))
