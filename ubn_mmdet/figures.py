"""What figures have in common: their legend, and how they are saved."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .files import write_whole


def write_figure(path: str | os.PathLike, figure: Figure) -> None:
    """Write a figure, whole or not at all, in the format that the suffix names."""
    stream = io.BytesIO()
    figure.savefig(stream, format=Path(path).suffix[1:])
    write_whole(path, stream.getvalue())


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend below, in as many columns as the figure is wide enough for.

    Args:
        figure: In constrained layout, which makes room for the legend.
        handles: What the legend tells apart, labelled.
    """
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=handles, loc='outside lower center', ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
