"""Checkpoints of training: a file after each epoch, from which the same training goes on."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiq import files
from aiq.errors import InputError, printable

SCHEMA = "aiq/training/v1"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state of a training between two epochs.

    Attributes
    ----------
    run
        Hash of everything that determines the training but the data.
    losses
        Mean loss of each epoch that is done.
    parameters
        Name -> parameter.
    optimizer
        State of the optimiser.
    """

    run: str
    losses: tuple[float, ...]
    parameters: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the checkpoint, atomically.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        document = {
            "schema": SCHEMA,
            "run": self.run,
            "losses": list(self.losses),
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "optimizer": self.optimizer,
        }
        buffer = io.BytesIO()
        torch.save(document, buffer)
        files.write_atomic(path, buffer.getvalue())


def load_state(path: Path, run: str) -> TrainingState | None:
    """Return the checkpoint in a file, or ``None`` if there is no file.

    The file holds tensors, numbers and texts; nothing else is unpickled.

    Parameters
    ----------
    path
        The file.
    run
        Hash of the training that is to go on.

    Raises
    ------
    InputError
        If the file is no checkpoint, or that of another training.
    """
    if not path.exists():
        return None
    shown = printable(str(path), 200)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if found["schema"] != SCHEMA:
            raise ValueError(found["schema"])
        known = TrainingState(
            str(found["run"]),
            tuple(map(float, found["losses"])),
            dict(found["parameters"]),
            dict(found["optimizer"]),
        )
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.PickleError):
        raise InputError(
            f"{shown} is no checkpoint of aiq.finetune; name another file, or delete this one."
        ) from None
    if known.run != run:
        raise InputError(
            f"{shown} is the checkpoint of another training: the plan, the weights at the start or "
            "the options differ; name another file, or delete this one."
        )
    return known
