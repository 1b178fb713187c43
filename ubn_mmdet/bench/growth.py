"""How the time of norm layers grows with their input."""

import math
import os
import statistics

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..figures import write_figure

PREFIX = 'growth over '


def draw_growth(content: dict, path: str | os.PathLike) -> None:
    """Draw median time over input size, both logarithmic, a panel a direction.

    Args:
        content: Of a benchmark: ``{'growth over N': {'2x64x32x32': {layer: seconds}}}``.
        path: Where to.
    """
    directions = [section for section in content if section.startswith(PREFIX)]
    figure = Figure(figsize=(4.5 * len(directions), 4), dpi=110, layout='constrained')
    panels = figure.subplots(1, len(directions), sharey=True, squeeze=False)[0]
    for axes, section in zip(panels, directions, strict=True):
        cases = content[section]
        sizes = [math.prod(map(int, shape.split('x'))) for shape in cases]
        for name in next(iter(cases.values())):
            times = [1e3 * statistics.median(case[name]) for case in cases.values()]
            axes.loglog(sizes, times, marker='o', label=name)
        axes.set(title=section, xlabel='elements of the input')
        axes.grid(alpha=0.3, which='both')
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would overlap
    panels[0].set_ylabel('forward + backward, ms')
    panels[0].legend(fontsize=8)
    write_figure(path, figure)
