"""The figures of a group of runs for the page, as what its script draws (``page.js``)."""

import base64
from collections.abc import Mapping, Sequence

import numpy as np

from ..bootstrap import ERRORS
from . import figure_data
from .colours import colours
from .numbers import KINDS

DIGITS = 4  # significant ones, of numbers that the pointer shows


def figures_of(numbers: Mapping) -> dict[str, list[dict]]:
    """The figures that stand side by side, by the names of ``print_figures``."""
    colour = colours(list(numbers['norms']), numbers['baseline'])
    found = {
        'differences': [
            _differences(numbers, metric, of_norms, colour)
            for metric, of_norms in figure_data.differences(numbers).items()
        ],
        'curves': [
            _curves(name, of_norms, colour)
            for name, of_norms in figure_data.bands(numbers).items()
        ],
        'errors': [
            _errors(kind, of_norms, colour)
            for kind, of_norms in numbers['errors'].items()
        ],
    }
    found |= {name: _heat_maps(run) for name, run in figure_data.heat_maps(numbers)}
    return {name: figures for name, figures in found.items() if figures}


def _curves(name: str, of_norms: Mapping, colour: Mapping[str, str]) -> dict:
    title, axis = figure_data.CURVES[name]
    series = [
        {
            **{
                'name': norm,
                'colour': colour[norm],
                'x': band.x,
                'y': _short(band.mean),
            },
            **(
                {'low': _short(band.low), 'high': _short(band.high)} if band.low else {}
            ),
        }
        for norm, band in of_norms.items()
    ]
    return {'kind': 'lines', 'title': title, 'axis': axis, 'series': series}


def _differences(
    numbers: Mapping, metric: str, of_norms: Mapping, colour: Mapping[str, str]
) -> dict:
    label = figure_data.main_metrics(numbers)[metric]
    rows = [
        {
            'name': norm,
            'colour': colour[norm],
            'mean': _short(found.mean),
            'seeds': _short(found.of_seeds),
            'over seeds': _short(found.over_seeds),
            'over images': _short(found.over_images),
        }
        for norm, found in of_norms.items()
    ]
    title = f'{label}, less that of {numbers["baseline"]}'
    return {'kind': 'differences', 'title': title, 'rows': rows}


def _errors(kind: str, of_norms: Mapping, colour: Mapping[str, str]) -> dict:
    series = [
        {
            'name': norm,
            'colour': colour[norm],
            'y': _short([costs[error]['mean'] for error in ERRORS]),
            'deviation': _short([costs[error]['deviation'] or 0 for error in ERRORS]),
        }
        for norm, costs in of_norms.items()
    ]
    return {
        'kind': 'bars',
        'title': f'{KINDS[kind]}, AP50 lost to each kind of error',
        'labels': [figure_data.ERROR_TITLES[error] for error in ERRORS],
        'series': series,
    }


def _heat_maps(record: Mapping) -> list[dict]:
    of_map = record['map']
    return [
        {
            'kind': 'heat',
            'title': f'{record["norm"]}, seed {record["seed"]}: {title}',
            'rows': of_map['layers'],
            'x': of_map['steps'],
            **as_bytes(of_map[quantity], None if quantity == 'shift' else (0, 1)),
        }
        for quantity, title in figure_data.MAP_TITLES.items()
        if quantity in of_map
    ]


def as_bytes(columns: Sequence[Sequence], limits: tuple[float, float] | None) -> dict:
    """Values within limits as bytes from 1 to 255, in base64; 0 where there is none.

    As text they would make up most of the page.
    """
    values = np.array(columns, dtype=float)  # None becomes nan
    low, high = limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    parts = (values.clip(low, high) - low) / ((high - low) or 1)
    coded = np.where(np.isnan(parts), 0, 1 + np.round(254 * np.nan_to_num(parts)))
    text = base64.b64encode(coded.astype(np.uint8).tobytes()).decode()
    return {'limits': [_short(low), _short(high)], 'values': text}


def _short(values: Sequence | float | None) -> Sequence | float | None:
    """With no more digits than are shown."""
    if isinstance(values, int | float):
        return float(f'{values:.{DIGITS}g}')
    return values and [float(f'{value:.{DIGITS}g}') for value in values]
