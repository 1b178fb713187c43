"""The figures of a group of runs for print, drawn by Matplotlib."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...figures import legend_below, write_figure
from ..bootstrap import ERRORS
from . import figure_data
from .colours import colours
from .numbers import KINDS

WIDTH = 7.0  # inches: a page's text
STYLE = {
    **{'font.size': 8, 'axes.titlesize': 8, 'legend.fontsize': 7, 'savefig.dpi': 150},
    **{'axes.spines.top': False, 'axes.spines.right': False, 'lines.linewidth': 1.2},
    'pdf.fonttype': 42,  # TrueType, which publishers ask for
}


def draw(
    numbers: Mapping,
    folder: Path,
    prefix: str,
    formats: Sequence[str],
    without: Collection[str] = (),
) -> dict[str, str]:
    """Write a group's figures as ``folder/<prefix><name>.<format>``.

    Args:
        numbers: What ``numbers_of`` gives.
        folder: Where to.
        prefix: Of the file names; may name a folder below.
        formats: Such as ``png`` and ``pdf``.
        without: Names of figures to leave out.

    Returns:
        For each name the path of its first format, from ``folder``.
    """
    written = {}
    with rc_context(STYLE):
        for name, figure in _figures(numbers):
            if name in without:
                continue
            for suffix in formats:
                write_figure(folder / f'{prefix}{name}.{suffix}', figure)
            written[name] = f'{prefix}{name}.{formats[0]}'
    return written


def draw_curves(numbers: Mapping, path: str | os.PathLike) -> None:
    """Write the figure of the curves alone; the suffix names the format."""
    with rc_context(STYLE):
        write_figure(path, _curves(numbers))


def _figures(numbers: Mapping) -> Iterator[tuple[str, Figure]]:
    if numbers['against']:
        yield 'differences', _differences(numbers)
    if figure_data.bands(numbers):
        yield 'curves', _curves(numbers)
    if numbers['errors']:
        yield 'errors', _errors(numbers)
    for name, record in figure_data.heat_maps(numbers):
        yield name, _heat_maps(record)


def _figure(
    height: float, columns: int, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=sharey)[0])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, _ = axes.get_legend_handles_labels()
    legend_below(figure, handles)


def _curves(numbers: Mapping) -> Figure:
    found = figure_data.bands(numbers)
    colour = colours(list(numbers['norms']), numbers['baseline'])
    figure, all_axes = _figure(2.6, len(found))
    for axes, (name, of_norms) in zip(all_axes, found.items(), strict=True):
        title, axis = figure_data.CURVES[name]
        for norm, band in of_norms.items():
            marker = '.' if axis == 'epoch' else None
            axes.plot(band.x, band.mean, color=colour[norm], label=norm, marker=marker)
            if band.low and band.high:
                axes.fill_between(
                    band.x, band.low, band.high, color=colour[norm], alpha=0.15, lw=0
                )
        axes.set(xlabel=axis, title=title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator('auto', integer=True))
    _legend(figure, all_axes[0])
    return figure


def _differences(numbers: Mapping) -> Figure:
    found = figure_data.differences(numbers)
    colour = colours(list(numbers['norms']), numbers['baseline'])
    norms = list(numbers['against'])
    figure, all_axes = _figure(0.9 + 0.32 * len(norms), len(found), sharey=True)
    for axes, (metric, of_norms) in zip(all_axes, found.items(), strict=True):
        for i, norm in enumerate(norms):
            if norm in of_norms:
                _difference(axes, i, of_norms[norm], colour[norm])
        axes.axvline(0, color='black', lw=0.8)
        title = figure_data.main_metrics(numbers)[metric]
        axes.set(xlabel=f'{title}, difference from {numbers["baseline"]}')
        axes.grid(axis='x', alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(5))  # more numbers would touch
        axes.set(yticks=range(len(norms)), yticklabels=norms)
    all_axes[0].set_ylim(len(norms) - 0.4, -0.6)
    for style, label in {
        'k-': '95% over seeds', 'k:': '95% over images', 'k.': 'a seed',
    }.items():  # fmt: skip
        all_axes[0].plot([], [], style, label=label)
    _legend(figure, all_axes[0])
    return figure


def _difference(axes: Axes, y: int, found: figure_data.Difference, colour: str) -> None:
    if found.over_seeds:
        axes.plot(found.over_seeds, [y, y], color=colour, lw=2)
    if found.over_images:
        axes.plot(found.over_images, [y + 0.22] * 2, color=colour, linestyle=':')
    axes.plot(found.of_seeds, [y] * len(found.of_seeds), '.', color=colour, ms=4)
    axes.plot(found.mean, y, 'o', color=colour, ms=5, markeredgecolor='white')


def _errors(numbers: Mapping) -> Figure:
    found = numbers['errors']
    norms = [norm for norm in numbers['norms'] if norm in next(iter(found.values()))]
    colour = colours(list(numbers['norms']), numbers['baseline'])
    figure, all_axes = _figure(2.4, len(found), sharey=True)
    width = 0.8 / len(norms)
    for axes, (kind, of_norms) in zip(all_axes, found.items(), strict=True):
        for i, norm in enumerate(norms):
            costs = [of_norms[norm][error] for error in ERRORS]
            axes.bar(
                np.arange(len(ERRORS)) + (i - (len(norms) - 1) / 2) * width,
                [cost['mean'] for cost in costs],
                width,
                yerr=[cost['deviation'] or 0 for cost in costs],
                error_kw={'lw': 0.8},
                color=colour[norm],
                label=norm,
            )
        axes.set(title=f'{KINDS[kind]}, AP50 lost')
        labels = [
            figure_data.ERROR_TITLES[error].replace(' and ', '\n+ ') for error in ERRORS
        ]
        axes.set_xticks(range(len(ERRORS)), labels, fontsize=6)
    _legend(figure, all_axes[0])
    return figure


def _heat_maps(record: Mapping) -> Figure:
    layers, steps = record['map']['layers'], record['map']['steps']
    titles = {q: t for q, t in figure_data.MAP_TITLES.items() if q in record['map']}
    height = min(1.2 + 0.11 * len(layers), 9)
    figure, all_axes = _figure(height, len(titles), sharey=True)
    for axes, (quantity, title) in zip(all_axes, titles.items(), strict=True):
        rows = np.array(record['map'][quantity], dtype=float).T
        limits = (
            {} if quantity == 'shift' else {'vmin': min(0, np.nanmin(rows)), 'vmax': 1}
        )
        image = axes.imshow(
            rows,
            aspect='auto',
            interpolation='nearest',
            extent=(0, steps[-1], len(layers) - 0.5, -0.5),
            **limits,
        )
        axes.set(xlabel='step', title=title)
        figure.colorbar(image, ax=axes, location='bottom', pad=0.02)
    every = -(-len(layers) // 40)
    all_axes[0].set_yticks(range(0, len(layers), every), layers[::every], fontsize=5)
    figure.suptitle(f'{record["norm"]}, seed {record["seed"]}')
    return figure
