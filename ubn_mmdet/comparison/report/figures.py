"""The figures of a report, drawn by Matplotlib: for print, and for the page.

What can be pointed at in the page notes what it says there: an artist's ``gid`` is a list
of texts, one for each of its marks, which :func:`as_svg` hands to them.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...files import write_whole
from ..image_scores import ERRORS
from ..results import ResultGroup
from .numbers import CURVES, MAIN
from .tables import contrast_title

WIDTH = 7.0  # inches: a page's text
STYLE = {
    'font.size': 8, 'axes.titlesize': 8, 'legend.fontsize': 7, 'savefig.dpi': 150,
    'axes.spines.top': False, 'axes.spines.right': False, 'lines.linewidth': 1.2,
    'pdf.fonttype': 42,  # TrueType, which publishers ask for
    'svg.fonttype': 'none', 'text.parse_math': False, 'font.family': 'DejaVu Sans',
}  # fmt: skip
BASELINE = '#808080'
# Okabe and Ito's, which the colour-blind can tell apart, without black and yellow.
OTHERS = (
    '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9',
    '#9467bd', '#8c564b', '#17becf', '#bcbd22',
)  # fmt: skip
_TIPS = 'tips:'
_SVG = '{http://www.w3.org/2000/svg}'


def colours(numbers: Mapping[str, Mapping], baseline: str) -> dict[str, str]:
    """A colour for each norm of groups, by their titles; the same in all figures."""
    norms = dict.fromkeys(norm for group in numbers.values() for norm in group['norms'])
    others = [norm for norm in norms if norm != baseline]
    found = {norm: OTHERS[i % len(OTHERS)] for i, norm in enumerate(others)}
    return {baseline: BASELINE, **found}


def write_figure(path: str | os.PathLike, figure: Figure) -> None:
    """Write a figure, whole or not at all, in the format that the suffix names."""
    stream = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(stream, format=Path(path).suffix[1:])
    write_whole(path, stream.getvalue())


def as_svg(figure: Figure) -> str:
    """A figure as part of an HTML page, whose marks say what they are by ``data-tip``."""
    stream = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(stream, format='svg')
    ElementTree.register_namespace('', _SVG[1:-1])
    ElementTree.register_namespace('xlink', 'http://www.w3.org/1999/xlink')
    root = ElementTree.fromstring(stream.getvalue())
    root.remove(root.find(f'{_SVG}metadata'))  # type: ignore[arg-type]
    for group in root.iter(f'{_SVG}g'):
        if group.get('id', '').startswith(_TIPS):
            tips = json.loads(group.attrib.pop('id').removeprefix(_TIPS))
            marks = [*group.iter(f'{_SVG}use')] or [*group.iter(f'{_SVG}path')]
            for mark, tip in zip(marks, tips, strict=True):
                mark.set('data-tip', tip)
                group.set('style', mark.attrib.pop('style'))  # the same for all
    return ElementTree.tostring(root, encoding='unicode')


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend below, in as many columns as the figure is wide enough for.

    The figure's constrained layout makes room for it.
    """
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=handles, loc='outside lower center', ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()


Row = tuple[str, dict[str, Mapping | None]]  # a norm, and its differences by metric


def differences(numbers: Mapping[str, Mapping]) -> dict[str, Row]:
    """The rows of a forest plot: each norm of each comparison against its baseline."""
    several = len(numbers) > 1
    return {
        f'{title}: {norm}' if several else norm: (norm, found)
        for title, of in numbers.items()
        for norm, found in of['against'].items()
    }


def contrasts(numbers: Mapping[str, Mapping]) -> dict[str, Row]:
    """The rows of a forest plot: the primary contrasts of each comparison."""
    rows: dict[str, Row] = {}
    for title, of in numbers.items():
        for contrast in of['primary']:
            label = contrast_title(title if len(numbers) > 1 else '', contrast)
            if 'difference' in contrast:
                _, found = rows.setdefault(label, (contrast['norm'], {}))
                found[contrast['metric']] = contrast
    return rows


def forest(rows: Mapping[str, Row], colour: Mapping[str, str]) -> Figure | None:
    """Differences with their intervals, a row for each label, a column for each metric."""
    known = {metric for _, of in rows.values() for metric, found in of.items() if found}
    shown = [metric for metric in MAIN if metric in known]
    if not shown:
        return None
    figure, all_axes = _figure(0.9 + 0.22 * len(rows), len(shown), sharey=True)
    for axes, metric in zip(all_axes, shown, strict=True):
        for y, (label, (norm, of_row)) in enumerate(rows.items()):
            found = of_row.get(metric)
            if not found:
                continue
            text = f'{label}: {found["difference"]:+.3f}'
            if found.get('over_images'):
                axes.plot(found['over_images'], [y + 0.25] * 2, ':', color=colour[norm])
            if found['interval']:
                low, high = found['interval']
                axes.plot([low, high], [y, y], color=colour[norm], lw=2)
                text += f' ({low:+.3f} to {high:+.3f})'
            [mark] = axes.plot(found['difference'], y, 'o', color=colour[norm], ms=4)
            _tell(mark, [text])
        axes.axvline(0, color='black', lw=0.8)
        axes.set(title=MAIN[metric], xlabel='difference')
        axes.grid(axis='x', alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(5))  # more numbers would touch
    all_axes[0].set_yticks(range(len(rows)), rows)
    all_axes[0].set_ylim(len(rows) - 0.4, -0.6)
    compared = [of_row.get(metric) for _, of_row in rows.values() for metric in shown]
    for kind, style, label in (
        ('interval', 'k-', '95% over seeds'),
        ('over_images', 'k:', '95% over images'),
    ):
        if any(found and found.get(kind) for found in compared):
            all_axes[0].plot([], [], style, label=label)
    _legend(figure, all_axes[0])
    return figure


def curves(numbers: Mapping, colour: Mapping[str, str]) -> Figure | None:
    """AP or accuracy, and the loss, over training: means, and deviations as bands."""
    found = {
        name: {
            norm: about['curves'][name]
            for norm, about in numbers['norms'].items()
            if name in about['curves']
        }
        for name in CURVES
    }
    found = {name: of_norms for name, of_norms in found.items() if of_norms}
    if not found:
        return None
    figure, all_axes = _figure(2.6, len(found))
    for axes, (name, of_norms) in zip(all_axes, found.items(), strict=True):
        axis = CURVES[name]
        for norm, curve in of_norms.items():
            x, mean = np.array(curve['x']), np.array(curve['mean'])
            deviation = np.array(curve['deviation'] or [np.nan] * len(x))
            size = 4 if len(x) < 30 else 1
            [line] = axes.plot(x, mean, '.-', color=colour[norm], label=norm, ms=size)
            if curve['deviation']:
                low, high = mean - deviation, mean + deviation
                axes.fill_between(x, low, high, color=colour[norm], alpha=0.15, lw=0)
            tips = []
            for at, y, d in zip(x, mean, deviation, strict=True):
                spread = f' ± {d:.2g}' if np.isfinite(d) else ''
                tips.append(f'{norm}, {axis} {at}: {y:.3g}{spread}')
            _tell(line, tips)
        axes.set(xlabel=axis, title=MAIN.get(name, 'training loss'))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator('auto', integer=True))
    _legend(figure, all_axes[0])
    return figure


def errors(numbers: Mapping, colour: Mapping[str, str]) -> Figure | None:
    """What each kind of error costs in AP50, for boxes and masks."""
    of_norms = {n: a['errors'] for n, a in numbers['norms'].items() if a['errors']}
    if not of_norms:
        return None
    kinds = list(next(iter(of_norms.values())))
    figure, all_axes = _figure(2.4, len(kinds), sharey=True)
    width = 0.8 / len(of_norms)
    for axes, kind in zip(all_axes, kinds, strict=True):
        for i, (norm, found) in enumerate(of_norms.items()):
            costs = [found.get(kind, {}).get(error) for error in ERRORS]
            means = [cost['mean'] if cost else 0 for cost in costs]
            deviations = [(cost and cost['deviation']) or 0 for cost in costs]
            x = np.arange(len(ERRORS)) + (i - (len(of_norms) - 1) / 2) * width
            style = {'error_kw': {'lw': 0.8}, 'color': colour[norm], 'label': norm}
            bars = axes.bar(x, means, width, yerr=deviations, **style)
            said = zip(bars, ERRORS.values(), means, deviations, strict=True)
            for bar, title, cost, deviation in said:
                _tell(bar, [f'{norm}, {title}: {cost:.3f} ± {deviation:.3f}'])
        axes.set(title=f'{"box" if kind == "bbox" else "mask"}, AP50 lost')
        labels = [title.replace(' and ', '\n+ ') for title in ERRORS.values()]
        axes.set_xticks(range(len(ERRORS)), labels, fontsize=6)
    _legend(figure, all_axes[0])
    return figure


def condensation(group: ResultGroup) -> Figure | None:
    """The course of condensation and gates in the first run of each norm that has it."""
    first: dict[str, tuple[int, dict]] = {}
    for run in group.runs:
        path = run.file('condensation')
        if path is not None and run.norm not in first:
            record = json.loads(path.read_text())
            if record['steps']:
                first[run.norm] = run.seed, record
    if not first:
        return None
    found = {f'{norm}, seed {seed}': record for norm, (seed, record) in first.items()}
    layers = max(len(record['layers']) for record in found.values())
    height = min(0.6 + 0.1 * layers, 4) * len(found) + 0.4
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    grid = figure.subplots(len(found), 2, squeeze=False)
    titles = {'condensation': 'mean cosine', 'gate': 'gate open'}
    image = None
    for row, (title, record) in zip(grid, found.items(), strict=True):
        for axes, (quantity, what) in zip(row, titles.items(), strict=True):
            values = np.array(record[quantity], dtype=float).T  # None becomes nan
            if quantity == 'gate':
                has_gate = record.get('has_gate', [True] * len(values))
                values[~np.array(has_gate)] = np.nan
            if np.isnan(values).all():
                axes.set_axis_off()
                continue
            extent = (0, record['steps'][-1], len(values) - 0.5, -0.5)
            style = {'aspect': 'auto', 'interpolation': 'none', 'extent': extent}
            image = axes.imshow(values, vmin=0, vmax=1, **style)
            every = -(-len(values) // 40)
            ticks = range(0, len(values), every)
            axes.set_yticks(ticks, record['layers'][::every], fontsize=4)
            axes.set(xlabel='step', title=f'{title}: {what}')
    if image is None:  # no number in any record
        return None
    figure.colorbar(image, ax=grid, location='bottom', shrink=0.4, pad=0.01)
    return figure


def _figure(
    height: float, columns: int, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=sharey)[0])


def _legend(figure: Figure, axes: Axes) -> None:
    legend_below(figure, axes.get_legend_handles_labels()[0])


def _tell(artist: Any, tips: Sequence[str]) -> None:
    artist.set_gid(_TIPS + json.dumps(tips))
