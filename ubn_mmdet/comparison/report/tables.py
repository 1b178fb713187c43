"""A group of runs as Markdown, from its numbers (``numbers_of``)."""

from collections.abc import Iterator, Mapping, Sequence

from ...markdown import markdown_table
from ..results import as_text
from ..statistics import FEWEST_SEEDS, HIGHER, LOWER, NO_DIFFERENCE
from .numbers import MAIN, TABLES, exploratory

DASH = '–'  # what is not known
HOW_TO_READ = f"""\
- **Primary contrasts** were named before the runs. Only these can be **{HIGHER}** or
  **{LOWER}**: if p, corrected by Holm's method for their number, is below 0.05, and the
  interval over images (of AP) excludes 0. **{NO_DIFFERENCE}** is not the same as equal. A
  verdict needs {FEWEST_SEEDS} seeds of both norms, and all planned runs of both.
- Everything else is **exploratory**, without a verdict. q is the rate of false discoveries
  among all that are at least as clear (Benjamini and Hochberg).
- **±** is the standard deviation over seeds.
- **Over seeds**: the difference of the means with its 95% interval and two-sided p, by
  Welch's t. It says how precisely these seeds fix the difference on these images.
- **Detectable**: if the true difference were this large, the test would find it 80% of the
  time.
- **Over images**: the 95% interval of the same difference over random halves of the
  validation images. It says how precisely these images fix the difference of these trained
  models. Neither interval covers new seeds and new images at once.
- A run that **diverged** counts as one that found nothing: its metrics are 0. A run that
  failed for other reasons is in no mean.
"""
CAPTIONS = {
    'curves': 'Mean over seeds against training, ± standard deviation, without runs that '
    'diverged.',
    'errors': 'By how much AP50 would rise without each kind of error (TIDE), mean ± '
    'standard deviation over seeds, without runs that diverged.',
    'condensation': 'Condensation of the first run of each norm that recorded it: the '
    'mean pairwise cosine of the samples of a batch, and, for gates, the share of steps '
    'with the gate open.',
}


def group_markdown(title: str, numbers: Mapping, pictures: Mapping[str, str]) -> str:
    """Markdown of one group, its title a heading of the second level.

    ``pictures`` says where its figures are, by the names of ``CAPTIONS``.
    """
    parts = [f'## {title}', _verdicts(numbers), *notes(numbers)]
    parts += ['### Mean and spread over seeds', *metrics(numbers)]
    if table := against(numbers):
        parts += [f'### Against {numbers["baseline"]}, exploratory', table]
    parts += ['### Time and memory', costs(numbers)]
    for name, caption in CAPTIONS.items():
        if name in pictures:
            parts.append(f'![{caption}]({pictures[name]})\n\n{caption}')
    return '\n\n'.join([*parts, '### How it was made', _made(numbers)]) + '\n'


def _verdicts(numbers: Mapping) -> str:
    """What is decided, or why nothing is."""
    if numbers['primary']:
        return primary({'': numbers})
    if numbers['against']:
        return (
            'No contrast was named before these runs: all comparisons are exploratory, '
            'and there is no verdict.'
        )
    if numbers['baseline'] is None:
        return 'No run of the baseline is finished: there is nothing to compare with.'
    return f'Nothing but {numbers["baseline"]} is finished.'


def notes(numbers: Mapping) -> list[str]:
    """What is missing: the runs that have no result, and predictions."""
    replanned = ''
    if numbers['replanned']:
        replanned = (
            f'The seeds of {", ".join(numbers["replanned"])} were changed after runs had '
            'ended. The probabilities do not account for that.'
        )
    return [*filter(None, [_broken(numbers), replanned, numbers['missing_scores']])]


def _broken(numbers: Mapping) -> str:
    kinds = {
        'diverged': 'diverged, and counts as 0',
        'failed': 'failed, and is in no mean',
    }
    return '\n'.join(
        f'- {run["norm"]}, seed {run["seed"]}, {kinds[run["status"]]}: '
        + ' '.join((run['error'] or 'no reason is known').split())
        for run in numbers['broken']
    )


def primary(numbers: Mapping[str, Mapping]) -> str:
    """The contrasts that were named beforehand, with their verdicts, by group."""
    rows = [
        [
            contrast_title(title, contrast),
            MAIN[contrast['metric']],
            contrast['verdict'],
            *_difference(contrast, probability(contrast['holm']), contrast['diverged']),
        ]
        for title, of in numbers.items()
        for contrast in of['primary']
    ]
    header = ['primary contrast', 'metric', 'verdict', *_difference_header('Holm')]
    alone = [
        f'- {contrast_title(title, contrast)}, {MAIN[contrast["metric"]]}, without the '
        f'runs that diverged: {signed(rest["difference"])}, {interval(rest["interval"])}'
        for title, of in numbers.items()
        for contrast in of['primary']
        if any(contrast['diverged']) and (rest := contrast['without_diverged'])
    ]
    table = markdown_table(header, rows, words=3)
    return '\n\n'.join(filter(None, [table, '\n'.join(alone)]))


def against(numbers: Mapping) -> str:
    """The main metrics of each norm beside the baseline's, but for primary contrasts.

    Empty if there is none.
    """
    rows = [
        [norm, MAIN[metric], *_difference(found, probability(found.get('q')))]
        for norm, metric, found in exploratory(
            numbers['against'], numbers['baseline'], numbers['primary']
        )
    ]
    header = ['norm', 'metric', *_difference_header('q')]
    return markdown_table(header, rows, words=2) if rows else ''


def contrast_title(title: str, contrast: Mapping) -> str:
    """``nuclei: UBN against BN``; without a title, the norms alone."""
    norms = f'{contrast["norm"]} against {contrast["baseline"]}'
    return f'{title}: {norms}' if title else norms


def _difference_header(corrected: str) -> list[str]:
    return [
        'difference', '95% over seeds', 'p', corrected, 'detectable', 'seeds',
        '95% over images',
    ]  # fmt: skip


def _difference(
    found: Mapping, corrected: str, diverged: Sequence[int] = (0, 0)
) -> list[str]:
    seeds = [
        f'{count} ({bad} diverged)' if bad else str(count)
        for count, bad in zip(found.get('seeds', ()), diverged, strict=False)
    ][::-1]  # the norm's first, as in the title
    return [
        signed(found.get('difference')),
        interval(found.get('interval')),
        probability(found.get('p')),
        corrected,
        number(found.get('detectable')),
        ' and '.join(seeds) or DASH,
        interval(found.get('over_images')),
    ]


def metrics(numbers: Mapping) -> Iterator[str]:
    """Mean and deviation of each norm: a table for boxes, one for masks."""
    for kind, titles in TABLES.items():
        known = [metric for metric in titles if metric in numbers['metrics']]
        rows = [
            [norm, _seeds(found), *(mean(found['metrics'][m]) for m in known)]
            for norm, found in numbers['norms'].items()
        ]
        if known:
            yield markdown_table([kind, 'seeds', *(titles[m] for m in known)], rows)


def _seeds(found: Mapping) -> str:
    diverged = len(found['diverged'])
    count = len(found['seeds']) + diverged
    return f'{count}, {diverged} diverged' if diverged else str(count)


def costs(numbers: Mapping) -> str:
    """Time and memory, beside the baseline's."""
    norms = numbers['norms']
    base = norms.get(numbers['baseline'], {}).get('costs', {})

    def shown(found: Mapping, key: str, scale: float = 1) -> str:
        return f'{found[key]["mean"] / scale:,.4g}' if found[key] else DASH

    def ratio(found: Mapping, key: str) -> str:
        both = found[key] and base.get(key)
        return f'{found[key]["mean"] / base[key]["mean"]:.2f}' if both else DASH

    rows = []
    for norm, about in norms.items():
        found, row = about['costs'], [norm]
        for key in 'seconds_per_step', 'peak_memory_mb':
            row += [shown(found, key), ratio(found, key)]
        rows.append([*row, shown(found, 'parameters', 1e6)])
    times = f'times {numbers["baseline"] or "the baseline"}'
    header = ['norm', 'seconds per step', times, 'peak memory, MB', times]
    return markdown_table([*header, 'parameters, millions'], rows)


def _made(numbers: Mapping) -> str:
    lines = [
        f'- {key.replace("_", " ")}: {as_text(value)}'
        for key, value in numbers['settings'].items()
        if value is not None
    ]
    for norm, found in numbers['norms'].items():
        seeds = ', '.join(map(str, found['seeds'])) or 'none'
        text = f'- {norm}: seeds {seeds}; `{found["norm_cfg"]}`'
        lines.append(text + (f'; `{found["options"]}`' if found['options'] else ''))
    return '\n'.join(lines)


def number(value: float | None) -> str:
    """``0.123``."""
    return DASH if value is None else f'{value:.3f}'


def signed(value: float | None) -> str:
    """``+0.012``."""
    # Adding zero takes the sign from what rounds to it.
    return DASH if value is None else f'{round(value, 3) + 0.0:+.3f}'


def interval(bounds: tuple[float, float] | None) -> str:
    """``-0.001 to +0.023``."""
    return DASH if bounds is None else f'{signed(bounds[0])} to {signed(bounds[1])}'


def mean(found: Mapping | None) -> str:
    """``0.123 ± 0.004``; without a deviation the mean alone."""
    if found is None:
        return DASH
    if found['deviation'] is None:
        return number(found['mean'])
    return f'{number(found["mean"])} ± {number(found["deviation"])}'


def probability(value: float | None) -> str:
    """``0.012``."""
    return '<0.001' if value is not None and value < 0.001 else number(value)
