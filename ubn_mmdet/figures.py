"""Saving figures."""

import io
import os

from matplotlib.figure import Figure

from .files import write_whole


def write_figure(path: str | os.PathLike, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    stream = io.BytesIO()
    figure.savefig(stream, format='png')
    write_whole(path, stream.getvalue())
