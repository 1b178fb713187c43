"""The report of results files: a folder with Markdown, json, figures and one page."""

import html
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from matplotlib import rc_context
from matplotlib.figure import Figure

from ...files import write_whole
from ..image_scores import scores_of_runs
from ..results import ResultGroup, read_groups, slugs, titles
from . import figures
from .numbers import numbers_of_all
from .tables import CAPTIONS, HOW_TO_READ, group_markdown

TITLE = 'Comparison of norms'
# The figures of all groups.
FORESTS = {
    'contrasts': 'Primary contrasts. The intervals are 95% each, not corrected for the '
    'number of contrasts; the verdicts are.',
    'differences': 'Difference of each norm from the baseline, with 95% intervals where '
    'they exist.',
}


def write_report(
    results: Iterable[str | os.PathLike],
    out: str | os.PathLike,
    baseline: str = 'BN',
    annotations: Path | None = None,
    work_dir: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Write ``report.md``, ``report.json``, ``figures/`` and ``report.html``.

    Without markdown-it-py there is no page, and ``say`` is told.

    Args:
        results: Results files.
        out: The folder, made if need be.
        baseline: The norm that the others are compared with.
        annotations: See ``scores_of_runs``.
        work_dir: See ``read_groups``.
        say: Called with a line before each long step.

    Raises:
        ResultsError: If a results file cannot be read.
    """
    out = Path(out)
    groups = read_groups(results, work_dir)
    named = dict(zip(titles(groups), groups, strict=True))
    numbers = numbers_of_all(
        named, baseline, lambda group: scores_of_runs(group, annotations, say)
    )
    write_whole(out / 'report.json', json.dumps(numbers, indent=1).encode() + b'\n')
    drawn = draw_all(named, numbers, baseline)
    pictures = write_figures(drawn, out, 'figures/', ['png', 'pdf'])
    parts = [f'# {TITLE}\n']
    parts += [
        f'![{caption}]({pictures[name]})\n\n{caption}\n'
        for name, caption in FORESTS.items()
        if name in pictures
    ]
    parts.append(HOW_TO_READ)
    part = slugs(numbers)
    for title, of_group in numbers.items():
        own = {name: f'{part[title]}-{name}' for name in CAPTIONS}
        shown = {name: pictures[key] for name, key in own.items() if key in pictures}
        parts.append(group_markdown(title, of_group, shown))
    markdown = '\n'.join(parts)
    write_whole(out / 'report.md', markdown.encode())
    try:
        page = html_page(markdown, {pictures[name]: drawn[name] for name in drawn})
    except ModuleNotFoundError as error:
        say(f'the HTML page needs {error.name}: pip install markdown-it-py')
    else:
        write_whole(out / 'report.html', page.encode())


def draw_all(
    groups: Mapping[str, ResultGroup], numbers: Mapping[str, Mapping], baseline: str
) -> dict[str, Figure]:
    """All figures, by names that can be part of a file's."""
    colour, part = figures.colours(numbers, baseline), slugs(numbers)
    with rc_context(figures.STYLE):
        found = {
            'contrasts': figures.forest(figures.contrasts(numbers), colour),
            'differences': figures.forest(figures.differences(numbers), colour),
        }
        for title, of_group in numbers.items():
            found |= {
                f'{part[title]}-curves': figures.curves(of_group, colour),
                f'{part[title]}-errors': figures.errors(of_group, colour),
                f'{part[title]}-condensation': figures.condensation(groups[title]),
            }
    return {name: figure for name, figure in found.items() if figure is not None}


def write_figures(
    drawn: Mapping[str, Figure], folder: Path, prefix: str, formats: Sequence[str]
) -> dict[str, str]:
    """Write ``folder/<prefix><name>.<format>``; the path of each one's first format."""
    for name, figure in drawn.items():
        for suffix in formats:
            figures.write_figure(folder / f'{prefix}{name}.{suffix}', figure)
    return {name: f'{prefix}{name}.{formats[0]}' for name in drawn}


def html_page(markdown: str, drawn: Mapping[str, Figure]) -> str:
    """One page that needs no network: tables sort, figures are interactive.

    Figures take the place of pictures, by whose addresses they are named. Without
    markdown-it-py there is a ModuleNotFoundError.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt('commonmark', {'html': False}).enable('table')
    parser.add_render_rule('table_open', lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule('table_close', lambda *_: '</table></div>\n')
    parser.add_render_rule(
        'image', lambda _, tokens, i, *__: figures.as_svg(drawn[tokens[i].attrs['src']])
    )
    template = Template(files(__package__).joinpath('page.html').read_text())
    return template.substitute(title=html.escape(TITLE), body=parser.render(markdown))
