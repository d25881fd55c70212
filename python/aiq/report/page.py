"""The page: one HTML file with its style, its script and its numbers inside."""

import base64
import hashlib
import json
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiq.errors import InputError
from aiq.report.document import document
from aiq.report.measured import Comparable, MeasuredTimes

if TYPE_CHECKING:  # a plan shows itself through this module
    from aiq.plan import Plan

FRAME_HEIGHT = 720
"""Pixels of the report in a notebook."""

_SCRIPTS = ("charts.js", "details.js", "page.js")


def html(plan: "Plan", comparison: "str | Path | Comparable | MeasuredTimes | None" = None) -> str:
    """Return a plan as one HTML page, which asks no network for anything.

    Parameters
    ----------
    plan
        The plan to show.
    comparison
        Result of `aiq.compare` or a file of its JSON, whose times are shown beside predictions.

    Raises
    ------
    InputError
        If the comparison cannot be read, or is of another plan.
    """
    shown = document(plan, MeasuredTimes.read(comparison))
    style, script = _text("page.css"), "".join(map(_text, _SCRIPTS))
    parts = {
        "policy": (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_digest(script)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        "title": escape(shown["title"]),
        "style": style,
        "data": _in_script(shown),
        "script": script,
    }
    page = _text("page.html")
    pieces = page.split("{{")
    found = [pieces[0]]
    for piece in pieces[1:]:  # once: values that are filled in are not scanned
        name, _, rest = piece.partition("}}")
        found += [parts[name.strip()], rest]
    return "".join(found)


def frame(page: str) -> str:
    """Return a page as an element of another one, such as a notebook, kept apart from it."""
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts" title="aiq report" '
        f'style="width:100%;height:{FRAME_HEIGHT}px;border:0"></iframe>'
    )


def _in_script(shown: dict[str, Any]) -> str:
    """Return JSON that no HTML parser can take for an element or the end of one."""
    try:
        text = json.dumps(shown, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise InputError("The plan has numbers too large to show; search again.") from None
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _digest(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def _text(name: str) -> str:
    return (resources.files("aiq.report") / name).read_text(encoding="utf-8")
