"""A strict subset of YAML: plain data of the YAML 1.2 core schema.

Refused are aliases (their expansion can be exponential), tags, repeated keys, keys that are not
words, infinities and deep nesting. What YAML 1.1 reads as dates, sexagesimal or octal numbers is
text here; ``1e3`` is a number, and ``no`` is a word.
"""

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

MAX_DEPTH = 32
"""Deepest nesting allowed."""
MAX_NODES = 20_000
"""Largest number of keys and values allowed."""


class StrictError(Exception):
    """The text is not YAML, or not plain data; the message completes "<file>: ..."."""


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - whatever the text holds
    """Return the plain data in `text`.

    Raises
    ------
    StrictError
        If the text is not YAML, or not of the strict subset.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        where = f" (line {mark.line + 1}: {problem})" if mark else ""
        raise StrictError(f"is not YAML{where}") from None


def dump(document: Any) -> str:  # noqa: ANN401 - plain data
    """Return `document` as YAML, keys in their order, small mappings on one line."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100
    )
    return text


def quoted(value: object) -> str:
    """Return a value for a message: quoted, on one line, and at most 60 characters long."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Core(yaml.resolver.BaseResolver):
    """Types of plain scalars as in https://yaml.org/spec/1.2.2/#103-core-schema, decimal only."""


for _tag, _first, _pattern in (
    ("null", "~nN", r"~|null|Null|NULL|"),
    ("bool", "tTfF", r"true|True|TRUE|false|False|FALSE"),
    ("int", "-+0123456789", r"[-+]?[0-9]+"),
    ("float", "-+.0123456789", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
    ("float", "-+.", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    _Core.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), [*_first, ""]
    )


class _Dumper(_Core, yaml.SafeDumper):
    """Writes no aliases, since `parse_yaml` takes none."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401
        return True


class _Loader(_Core, yaml.SafeLoader):
    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise StrictError(f"line {line} uses a YAML alias, expected every value written out.")
        if event.tag is not None:
            raise StrictError(f"line {line} uses the YAML tag {quoted(event.tag)}, expected none.")
        if self.depth == MAX_DEPTH:
            raise StrictError(f"line {line} is nested more than {MAX_DEPTH} deep, expected less.")
        if self.nodes == MAX_NODES:
            raise StrictError(f"line {line} goes beyond {MAX_NODES} values, expected fewer.")
        self.depth += 1
        self.nodes += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > 20:
            raise StrictError(
                f"line {node.start_mark.line + 1} has a number of more than 20 digits."
            )
        return int(node.value)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        special = node.value[-1] in "fFnN"  # .inf, .nan
        value = math.inf if special else float(node.value)
        if math.isinf(value):
            line = node.start_mark.line + 1
            raise StrictError(f"line {line} has {quoted(node.value)}, expected a finite number.")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise StrictError(f"line {line} has the key {quoted(key)}, expected a word.")
            if key in seen:
                raise StrictError(f"line {line} repeats the key {quoted(key)}, expected it once.")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
