"""YAML without its traps: no aliases (they can explode), no duplicate keys, no NaN, no objects."""

import math
from collections.abc import Hashable
from typing import Any

import yaml


class StrictError(Exception):
    """The text is not YAML, or not plain data; the message completes "<file>: ..."."""


def parse(text: str) -> Any:  # noqa: ANN401 - whatever the text holds
    """Return the plain data in `text`.

    Raises
    ------
    StrictError
        If it is not YAML, or uses what this module forbids.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise StrictError(f"is not YAML{where}") from None


def dump(document: Any) -> str:  # noqa: ANN401 - plain data
    """Return `document` as YAML, keys in their order, small mappings on one line."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, since `parse` takes none."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401
        return True


class _Loader(yaml.SafeLoader):
    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = super().construct_yaml_float(node)
        if not math.isfinite(value):
            line = node.start_mark.line + 1
            raise StrictError(f"line {line} has {node.value}, expected a finite number.")
        return value

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise StrictError(f"line {line} uses a YAML alias, expected every value written out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise StrictError(f"line {line} has the key {key!r}, expected a word.")
            if key in seen:
                raise StrictError(f"line {line} repeats the key {key}, expected it once.")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
