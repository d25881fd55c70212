"""Values that are saved as JSON files, checked when they are written and when they are read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from aiq import files
from aiq.typed import Older, dump_json, parse_json, read_json


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of JSON file.

    Attributes
    ----------
    noun
        Name of the value in error messages, such as ``plan``.
    schema
        Value of the document's key ``schema``.
    document
        Type of the document.
    advice
        Words of the error message that say what to do about a file of another kind.
    older
        Older schema -> function that converts a document of that schema.
    """

    noun: str
    schema: str
    document: type
    advice: str
    older: Older = field(default_factory=dict)

    @property
    def checks(self) -> dict[str, Any]:
        """Arguments with which documents are read."""
        return {
            "what": f"a {self.noun}",
            "advice": self.advice,
            "schema": self.schema,
            "older": self.older,
        }


class Saved:
    """A value that can be saved; `_kind` describes its files."""

    __slots__ = ()
    _kind: ClassVar[FileKind]

    def _document(self) -> Any:  # noqa: ANN401 - a dataclass of type `kind.document`
        """Return the document that is written, by default the value itself."""
        return self

    @classmethod
    def _of_document(cls, document: Any) -> Self:  # noqa: ANN401
        """Return the value of a document that was read."""
        found: Self = document
        return found

    def to_json(self) -> str:
        """Return the value as JSON text.

        Raises
        ------
        InputError
            If a number of the value is not finite.
        """
        return dump_json(self._document(), f"a {self._kind.noun}", self._kind.schema)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the value in `text`, as `to_json` wrote it.

        Raises
        ------
        InputError
            If the text holds no such value.
        """
        kind = cls._kind
        file = f"the {kind.noun}"
        return cls._of_document(parse_json(text, kind.document, file=file, **kind.checks))

    def save(self, path: str | Path) -> None:
        """Write the value to `path` as JSON, atomically.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        files.write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a value that `save` wrote.

        Raises
        ------
        InputError
            If the file cannot be read or holds no such value.
        """
        return cls._of_document(read_json(path, cls._kind.document, **cls._kind.checks))
