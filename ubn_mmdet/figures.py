"""Saving figures."""

import io
import os
from pathlib import Path

from matplotlib.figure import Figure

from .files import write_whole


def write_figure(path: str | os.PathLike, figure: Figure) -> None:
    """Write a figure, whole or not at all, in the format that the suffix names."""
    stream = io.BytesIO()
    figure.savefig(stream, format=Path(path).suffix[1:])
    write_whole(path, stream.getvalue())
