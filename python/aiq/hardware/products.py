"""Measured times of matrix products with few rows, such as those of a decoded token.

A product of one row reads every weight once. Its time is no share of the memory bandwidth that is
the same for all formats: unpacking weights takes time too, and how much depends on the kernel. The
calibration therefore measures a rate for each format, number of rows, and size of the matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Product:
    """The time of matrix products with `rows` rows in one format.

    A product takes ``start_us + bytes / rate``, where bytes are those of the weights as stored.

    Attributes
    ----------
    rows
        Number of rows of the activation: tokens that are computed together.
    start_us
        Microseconds before the first weight is read.
    rates
        Elements of the weight, increasing, and the GB/s at which such a weight is read.
    """

    rows: int
    start_us: float
    rates: tuple[tuple[int, float], ...]


def from_document(entries: Sequence[Mapping[str, Any]]) -> tuple[Product, ...]:
    """Return the products of one format, from a document that satisfies the schema."""
    found = [
        Product(
            int(entry["rows"]),
            float(entry["start_us"]),
            tuple(sorted((int(r["elements"]), float(r["read_gbps"])) for r in entry["rates"])),
        )
        for entry in entries
    ]
    return tuple(sorted(found, key=lambda product: product.rows))


def to_document(products: Sequence[Product]) -> list[dict[str, Any]]:
    """Return products as plain data, as `from_document` takes them."""
    return [
        {
            "rows": product.rows,
            "start_us": product.start_us,
            "rates": [{"elements": n, "read_gbps": gbps} for n, gbps in product.rates],
        }
        for product in products
    ]
