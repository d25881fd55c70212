"""``python -m aiq``."""

from aiq.cli import main

main()
