"""Documents that are wrong in one place: what readers of files have to refuse, or to bear."""

import copy

from hypothesis import strategies as st

VALUES = (
    None, True, 0, -1, 7, 0.5, -0.5, 1e308, float("nan"), float("inf"), 10**19, 10**400, "", "x",
    "w99", "\x1b[31m[red]x[/red]", "[/]", "\ud800", "a\nb", "x" * 5000, [], [[]], [1], ["a", "a"],
    {}, {"a": 1}, {"": {}},
)  # fmt: skip


def places(document, path=()):
    """Return the path of every value in a document."""
    found = [path] if path else []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
        else:
            found.append((*path, key))
    return found


def changed(document, path, change):
    """Return a document with one value changed: ``("set", value)``, ``drop``, ``double``."""
    result = copy.deepcopy(document)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    kind, value = change
    match kind, inner:
        case "set", _:
            inner[path[-1]] = value
        case "drop", _:
            del inner[path[-1]]
        case "double", list():
            inner.append(inner[path[-1]])
        case "double", dict():
            inner[str(value)] = inner[path[-1]]
    return result


def documents(document):
    """Return a strategy of documents that differ from this one in one place."""
    change = st.tuples(st.sampled_from(["set", "drop", "double"]), st.sampled_from(VALUES))
    return st.builds(changed, st.just(document), st.sampled_from(places(document)), change)
