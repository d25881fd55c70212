"""The energy of operations and of memory, by which plans are compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_MAC_PJ = MappingProxyType({"fp32": 4.6, "bf16": 1.5, "fp16": 1.5, "int8": 0.3})


@dataclass(frozen=True, slots=True)
class Energy:
    """Energies of a chip of 45 nm, unless a profile states others.

    The default numbers are those of M. Horowitz, *Computing's energy problem (and what we can do
    about it)*, ISSCC 2014, figure 1.1.9. A float32 multiplication takes 3.7 pJ and an addition
    0.9 pJ; in float16 they take 1.1 and 0.4 pJ. A multiplication of int8 takes 0.2 pJ, and the
    addition of its result, of 32 bits, 0.1 pJ. 64 bits from DRAM take 1.3 to 2.6 nJ.

    Attributes
    ----------
    source
        Source of the numbers.
    mac_pj
        Compute dtype -> picojoules of one multiplication and addition.
    byte_pj
        Picojoules to move one byte to or from the farthest memory.
    """

    source: str = (
        "M. Horowitz, Computing's energy problem, ISSCC 2014, figure 1.1.9; bf16 as fp16, int8 "
        "with an addition of 32 bits, DRAM at its lower end"
    )
    mac_pj: Mapping[str, float] = field(default_factory=lambda: _MAC_PJ)
    byte_pj: float = 162.5

    @classmethod
    def read(cls, document: Mapping[str, Any] | None) -> "Energy | None":
        """Return the energies in the document of a profile, or ``None`` if it has none."""
        if document is None:
            return None
        pj = {dtype: float(value) for dtype, value in document["mac_pj"].items()}
        return cls(document["source"], MappingProxyType(pj), float(document["byte_pj"]))

    def to_document(self) -> dict[str, Any]:
        """Return the energies as plain data, as `read` takes them."""
        return {"source": self.source, "mac_pj": dict(self.mac_pj), "byte_pj": self.byte_pj}
