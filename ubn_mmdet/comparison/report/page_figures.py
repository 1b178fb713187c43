"""The figures of a group of runs for the page, for Plotly."""

from collections.abc import Mapping

import plotly.graph_objects as go

from ..bootstrap import ERRORS
from . import figure_data
from .colours import colours
from .numbers import KINDS


def plots_of(numbers: Mapping) -> dict[str, list[go.Figure]]:
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
    found |= {
        name: _heat_maps(record) for name, record in figure_data.heat_maps(numbers)
    }
    return {name: figures for name, figures in found.items() if figures}


def _figure(title: str, height: int = 400, **layout: object) -> go.Figure:
    common = {
        'template': 'none',
        'title': {'text': title, 'font': {'size': 15}, 'x': 0.5, 'y': 0.97},
        'height': height,
        'margin': {'l': 55, 'r': 15, 't': 45, 'b': 45},
        'paper_bgcolor': 'rgba(0,0,0,0)',
        'plot_bgcolor': 'rgba(0,0,0,0)',
        'legend': {
            'orientation': 'h',
            'yref': 'container',
            'y': 0,
            'yanchor': 'bottom',
        },
    }
    return go.Figure(layout=common | layout)


def _curves(name: str, of_norms: Mapping, colour: Mapping[str, str]) -> go.Figure:
    title, axis = figure_data.CURVES[name]
    figure = _figure(
        title,
        hovermode='x unified',
        xaxis={'title': {'text': axis, 'standoff': 5}},
        yaxis={'rangemode': 'tozero', 'hoverformat': '.3f'},
    )
    mode = 'lines+markers' if axis == 'epoch' else 'lines'
    for norm, band in of_norms.items():
        # One entry of the legend for line and band.
        common = {'legendgroup': norm, 'name': norm}
        spreads = None
        if band.low:
            spreads = [m - low for m, low in zip(band.mean, band.low, strict=True)]
            figure.add_scatter(
                x=[*band.x, *band.x[::-1]],
                y=[*band.high, *band.low[::-1]],
                mode='lines',
                fill='toself',
                fillcolor=_faint(colour[norm]),
                line={'width': 0},
                hoverinfo='skip',
                showlegend=False,
                **common,
            )
        figure.add_scatter(
            x=band.x,
            y=band.mean,
            mode=mode,
            line={'color': colour[norm]},
            customdata=spreads,
            hovertemplate='%{y}' + (' ± %{customdata:.3f}' if spreads else ''),
            **common,
        )
    return figure


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f'rgba({red},{green},{blue},0.15)'


def _differences(
    numbers: Mapping, metric: str, of_norms: Mapping, colour: Mapping[str, str]
) -> go.Figure:
    label = figure_data.main_metrics(numbers)[metric]
    title = f'{label}, less that of {numbers["baseline"]}'
    norms = list(of_norms)
    figure = _figure(
        title,
        height=110 + 45 * len(norms),
        showlegend=False,
        margin={'l': 110, 'r': 15, 't': 45, 'b': 35},
        xaxis={'hoverformat': '+.3f', 'zerolinewidth': 2},
        yaxis={
            **{'tickvals': list(range(len(norms))), 'ticktext': norms},
            **{'range': [len(norms) - 0.5, -0.5], 'zeroline': False, 'showgrid': False},
            **{'ticklabelstandoff': 8, 'automargin': True},
        },
    )

    def add(x: list[float], y: float, text: str, **style: object) -> None:
        figure.add_scatter(
            x=x, y=[y] * len(x), hovertemplate=f'{text}: %{{x}}<extra></extra>', **style
        )

    for i, (norm, found) in enumerate(of_norms.items()):
        line, dot = {'color': colour[norm]}, {'color': colour[norm]}
        if found.over_seeds:
            add(
                found.over_seeds,
                i,
                '95% over seeds',
                mode='lines',
                line=line | {'width': 4},
            )
        if found.over_images:
            dotted = line | {'width': 3, 'dash': 'dot'}
            add(
                found.over_images,
                i + 0.25,
                '95% over images',
                mode='lines',
                line=dotted,
            )
        add(found.of_seeds, i, 'one seed', mode='markers', marker=dot | {'size': 7})
        add([found.mean], i, norm, mode='markers', marker=dot | {'size': 13})
    return figure


def _errors(kind: str, of_norms: Mapping, colour: Mapping[str, str]) -> go.Figure:
    figure = _figure(
        f'{KINDS[kind]}, AP50 lost to each kind of error',
        barmode='group',
        yaxis={'hoverformat': '.3f'},
    )
    for norm, costs in of_norms.items():
        figure.add_bar(
            x=[figure_data.ERROR_TITLES[error] for error in ERRORS],
            y=[costs[error]['mean'] for error in ERRORS],
            error_y={
                'array': [costs[error]['deviation'] or 0 for error in ERRORS],
                'thickness': 1,
                'color': '#888888',
            },
            marker={'color': colour[norm]},
            name=norm,
        )
    return figure


def _heat_maps(record: Mapping) -> list[go.Figure]:
    layers, steps = record['map']['layers'], record['map']['steps']
    figures = []
    for quantity, title in figure_data.MAP_TITLES.items():
        if quantity not in record['map']:
            continue
        rows = record['map'][quantity]
        figure = _figure(
            f'{record["norm"]}, seed {record["seed"]}: {title}',
            height=150 + 12 * len(layers),
            margin={'l': 170, 'r': 15, 't': 45, 'b': 40},
            xaxis={'title': {'text': 'step', 'standoff': 5}},
            yaxis={'autorange': 'reversed', 'tickfont': {'size': 9}},
        )
        figure.add_heatmap(
            z=list(zip(*rows, strict=True)),
            x=steps,
            y=layers,
            colorscale='Viridis',
            **({} if quantity == 'shift' else {'zmin': 0, 'zmax': 1}),
            colorbar={'thickness': 10},
            hovertemplate='%{y}, step %{x}: %{z:.3g}<extra></extra>',
        )
        figures.append(figure)
    return figures
