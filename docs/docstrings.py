"""Griffe extension: what our docstrings write in another way than Markdown and griffe expect."""

import re
from typing import Any

import griffe

DIRECTIVE = re.compile(r"^( *)\.\. math::[ \t]*(.*(?:\n(?:\1[ \t]+\S.*|[ \t]*(?=\n\1[ \t]+\S)))*)", re.M)
ROLE = re.compile(r":math:`([^`]+)`")
REFERENCE = re.compile(r":(?:func|class|meth|attr|mod):`~?([^`]+)`")
EXAMPLE = re.compile(r"^( *)Example:$", re.M)


def to_markdown(text: str) -> str:
    """Formulas between dollars, roles as code, ``Examples:`` for ``Example:``."""
    text = DIRECTIVE.sub(lambda m: f"{m[1]}$$\n{m[1]}{' '.join(m[2].split())}\n{m[1]}$$\n", text)
    return EXAMPLE.sub(r"\1Examples:", REFERENCE.sub(r"`\1`", ROLE.sub(r"$\1$", text)))


class Docstrings(griffe.Extension):
    """Applied to every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for modules, classes, functions and attributes."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
