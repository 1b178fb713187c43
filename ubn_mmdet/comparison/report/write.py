"""The report of results files: a folder with Markdown, json, figures and one page."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ...files import write_whole
from ..bootstrap import ImagesError
from ..condensation_maps import condensation_of
from ..groups import ResultGroup, read_groups, slug, titles
from ..over_images import images_of
from .figure_data import later_heat_maps
from .markdown import HOW_TO_READ, group_markdown
from .numbers import numbers_of
from .page import PageError, html_page
from .page_figures import figures_of
from .print_figures import draw


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
        annotations: See ``images_of``.
        work_dir: See ``read_groups``.
        say: Called with a line before each long step.

    Raises:
        ResultsError: If a results file cannot be read.
    """
    out = Path(out)
    groups = read_groups(results, work_dir)
    named = dict(zip(titles(groups), groups, strict=True))
    numbers = {
        title: collect(group, baseline, annotations, say)
        for title, group in named.items()
    }
    text = json.dumps({t: _without_maps(n) for t, n in numbers.items()}, indent=1)
    write_whole(out / 'report.json', text.encode() + b'\n')
    parts = ['# Comparison of norms\n', HOW_TO_READ]
    figures: dict[str, list] = {}
    folded: set[str] = set()
    for title, of_group in numbers.items():
        say(f'drawing {title}')
        pictures = draw(of_group, out, f'figures/{slug(title)}-', ('png', 'pdf'))
        parts.append(group_markdown(title, of_group, pictures))
        drawn = figures_of(of_group)
        figures |= {
            pictures[name]: side_by_side for name, side_by_side in drawn.items()
        }
        folded |= {pictures[name] for name in later_heat_maps(of_group)}
    markdown = '\n'.join(parts)
    write_whole(out / 'report.md', markdown.encode())
    try:
        page = html_page('Comparison of norms', markdown, figures, folded)
    except PageError as error:
        say(str(error))
    else:
        write_whole(out / 'report.html', page.encode())


def collect(
    group: ResultGroup,
    baseline: str,
    annotations: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """All numbers of a group (``numbers_of``), with what its runs' files say."""
    images: dict | str
    try:
        images = images_of(group, baseline, annotations, say)
    except ImagesError as error:
        images = str(error)
        say(f'{group.settings["comparison"]}: {images}')
    return numbers_of(group, baseline, images, condensation_of(group))


def _without_maps(numbers: Mapping) -> dict:
    """What json is to hold: heat maps are large, and they lie with the runs."""
    records = [{**record, 'map': None} for record in numbers['condensation']]
    return {**numbers, 'condensation': records}
