"""Find and read profiles: the folders that are searched, and the files in them."""

import os
import re
from importlib import resources
from pathlib import Path

import platformdirs

from aiq import cache, files, names
from aiq.errors import HardwareError, InputError

MAX_BYTES = 256 * 1024
"""Largest size of a profile in bytes."""

RENAMED = {"xeon_emerald_2vcpu": "xeon_2vcpu"}
"""Former names of shipped profiles, which plans of older versions state."""


def builtin_folder() -> Path:
    """Return the folder of the profiles that aiq ships."""
    return Path(str(resources.files("aiq") / "hw_profiles"))


def folders() -> tuple[Path, ...]:
    """Return the folders that are searched for profiles; the first match wins."""
    named = os.environ.get("AIQ_HW_PROFILES", "")
    user = [Path(p) for p in named.split(os.pathsep) if p]
    own = platformdirs.user_config_path("aiq") / "hw_profiles"
    return (*user, own, cache.folder(cache.PROFILES), builtin_folder())


def profile_files() -> dict[str, Path]:
    """Return name -> file of every profile that `Hardware.load` finds by name, sorted by name."""
    found: dict[str, Path] = {}
    for folder in reversed(folders()):
        found |= {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return dict(sorted(found.items()))


def profile_name(path: Path) -> str:
    """Return the name of the profile in the file `path`.

    Raises
    ------
    HardwareError
        If no profile can have this file name.
    """
    if path.suffix != ".yaml" or not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,63}", path.stem):
        raise HardwareError(
            f"{str(path)!r} is no name for a profile; use lower case letters, digits and _, and "
            "end it in .yaml."
        )
    return path.stem


def find(name: str) -> Path:
    """Return the file of the profile called `name`.

    Raises
    ------
    HardwareError
        If there is no such profile; the message lists the known ones.
    """
    profiles = profile_files()
    name = RENAMED.get(name, name) if name not in profiles else name
    if name not in profiles:
        raise HardwareError(
            f"There is no hardware profile {name!r}; {names.advice(name, profiles)}, or use the "
            "path of a .yaml file, or put the file into a folder named by AIQ_HW_PROFILES."
        )
    return profiles[name]


def read_profile(path: Path) -> str:
    """Return the text of a profile; at most `MAX_BYTES` are read.

    Raises
    ------
    HardwareError
        If the file cannot be read, is too large, or is not text.
    """
    advice = "give the path of a profile, or a name that `aiq profiles` lists"
    try:
        return files.read_text(path, MAX_BYTES, advice)
    except InputError as error:
        raise HardwareError(str(error)) from None
