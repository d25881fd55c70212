"""The front door, and the loop behind it."""

from aiq.search.front import search

__all__ = ["search"]
