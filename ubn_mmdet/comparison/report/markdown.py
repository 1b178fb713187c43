"""A group of runs as Markdown."""

from collections.abc import Iterator, Mapping

from ..statistics import FEWEST_SEEDS, HIGHER, LOWER, NO_DIFFERENCE
from . import group_tables as tables
from .figure_data import heat_maps
from .numbers import MAIN
from .text import count, number, signed

SETTING_TITLES = {
    'data': 'data',
    'detector': 'detector',
    'epochs': 'epochs',
    'image_size': 'image size, pixels',
    'batch_size': 'batch size',
    'processes': 'processes',
    'commit': 'commit',
}
MADE_TITLES = {
    'classes': 'classes',
    'train_images': 'training images',
    'val_images': 'validation images',
    'device': 'device',
    'versions': 'versions',
    'jobs': 'runs side by side',
}

HOW_TO_READ = f"""\
- **Primary contrasts** are the differences that a comparison was made for, named in its
  file before it was run. Only of them it is said that a norm is **{HIGHER}** or
  **{LOWER}**: if p, corrected by Holm's method for how many contrasts there are, is below
  0.05, and the interval over images, where there is one, leaves out 0. All else has
  **{NO_DIFFERENCE}**, which is not the same as equal. A verdict needs {FEWEST_SEEDS}
  seeds of both norms.
- Everything else is **exploratory**, and has no verdict. q is the rate of false discoveries
  among all that are at least as clear (Benjamini and Hochberg).
- **±** is the standard deviation over seeds. Runs of one seed share data order,
  augmentation and the initial values of all parameters outside the norm layers.
- **Over seeds**: the difference of the means with its 95% interval and two-sided p, by
  Welch's t. It asks whether training again would come out the same way.
- **Detectable**: the true difference that a comparison with so many seeds and such a spread
  finds in four of five cases. Smaller ones it mostly misses.
- **Over images**: the 95% interval of the same difference over 1000 random halves of the
  validation images (paired half-sample bootstrap). It asks whether other images would
  come out the same way, for these trained models.
- **{tables.OVER_EPOCHS_TITLE}** is the mean of AP over the evaluations of a run: high for a
  run that learns early.
- A run that **diverged** counts as one that found nothing: its metrics are 0. A run that
  failed for other reasons is in no mean. Both are listed.
"""


def group_markdown(
    title: str, numbers: Mapping, pictures: Mapping[str, str], remarks: str = ''
) -> str:
    """Markdown of one group, its title a heading of the second level.

    Args:
        title: Of the group.
        numbers: What ``numbers_of`` gives.
        pictures: Where the figures are (``print_figures.draw``); those that are not
            there are left out.
        remarks: Markdown to say before all else.
    """
    parts = [
        f'## {title}',
        *([remarks.strip()] if remarks.strip() else []),
        *_verdicts(numbers),
        *_primary(numbers),
        *_against(numbers, pictures),
        '### Mean and spread over seeds',
        *tables.spreads(numbers),
        *_picture(
            pictures,
            'curves',
            'Mean over seeds against training, ± standard deviation.',
        ),
        *_pairs(numbers),
        '### Time and memory',
        tables.costs(numbers),
        *_errors(numbers, pictures),
        *_condensation(numbers, pictures),
        '### Every run',
        *tables.runs(numbers),
        *_broken(numbers),
        '### How it was made',
        *_made(numbers),
    ]
    return '\n\n'.join(parts) + '\n'


def _verdicts(numbers: Mapping) -> Iterator[str]:
    """A plain sentence for each primary contrast, and one for what is not compared."""
    lines = []
    for contrast in numbers['primary']:
        words = f'**{contrast["verdict"]}**'
        if 'difference' in contrast:
            words += f' ({signed(contrast["difference"])})'
        norm, baseline = contrast['norm'], contrast['baseline']
        line = f'- **{norm}** against {baseline}, {MAIN[contrast["metric"]]}: {words}.'
        sides = zip((baseline, norm), contrast['diverged'], strict=True)
        for name, diverged in sides:
            if diverged:
                line += f' {name} diverged in {count(diverged, "run")}.'
        if (least := contrast.get('detectable')) is not None:
            line += f' It could have found a difference of {number(least)}.'
        lines.append(line)
    if lines:
        yield '\n'.join(lines)
    elif numbers['against']:
        yield (
            'No contrast was named before these runs: all comparisons are exploratory, '
            'and there is no verdict.'
        )
    elif numbers['baseline'] is None:
        yield 'No run of the baseline is finished: there is nothing to compare with.'
    else:
        yield f'Nothing but {numbers["baseline"]} is finished.'
    for status, what in (
        ('diverged', 'Diverged, and counted as 0'),
        ('failed', 'Failed, and in no mean'),
    ):
        runs = [
            f'{r["norm"]}, seed {r["seed"]}'
            for r in numbers['broken']
            if r['status'] == status
        ]
        if runs:
            yield f'{what}: {"; ".join(runs)}.'


def _primary(numbers: Mapping) -> Iterator[str]:
    if numbers['primary']:
        yield '### Primary contrasts'
        yield tables.primary(numbers)


def _picture(pictures: Mapping[str, str], name: str, caption: str) -> Iterator[str]:
    if name in pictures:
        yield f'![{caption}]({pictures[name]})'


def _against(numbers: Mapping, pictures: Mapping[str, str]) -> Iterator[str]:
    if not numbers['against']:
        return
    yield f'### Against {numbers["baseline"]}, exploratory'
    yield tables.against(numbers)
    yield _about_images(numbers)
    caption = (
        '95% over seeds and, dotted, over images. Small dots: the seeds, less the mean of '
        f'{numbers["baseline"]}.'
    )
    yield from _picture(pictures, 'differences', caption)
    yield (
        f'Every metric: the difference from {numbers["baseline"]}, with the 95% interval '
        'over seeds.'
    )
    yield from tables.every_metric(numbers)


def _about_images(numbers: Mapping) -> str:
    images = numbers['images']
    if isinstance(images, str):
        return f'There is no interval over images. {images}'
    text = f'Over images: {images["images"]} validation images'
    scored, finished = len(images['runs']), len(numbers['runs'])
    if scored < finished:
        text += f'; the predictions of {scored} of {finished} runs were at hand'
    return f'{text}.'


def _pairs(numbers: Mapping) -> Iterator[str]:
    if len(numbers['norms']) > 2:
        yield '### Every norm against every other'
        yield 'The row minus the column.'
        yield from tables.pairs(numbers)


def _errors(numbers: Mapping, pictures: Mapping[str, str]) -> Iterator[str]:
    if numbers['errors']:
        yield '### Where the errors are'
        yield (
            'What each kind of error costs in AP50 (TIDE): by how much AP50 would rise '
            'without it, mean ± standard deviation over seeds. Less is better.'
        )
        yield from tables.errors(numbers)
        yield from _picture(
            pictures, 'errors', 'What each kind of error costs in AP50.'
        )


def _condensation(numbers: Mapping, pictures: Mapping[str, str]) -> Iterator[str]:
    if numbers['condensation']:
        yield '### Condensation'
        yield (
            'Over all layers and recorded steps: the mean pairwise cosine of the samples '
            'of a batch, its moving average, which the gate goes by, the share of steps '
            'with the gate closed (for layers without a gate: with one supposed), and how '
            'far the running statistics moved in a step, in standard deviations.'
        )
        yield tables.condensation(numbers)
        for name, run in heat_maps(numbers):
            caption = f'Condensation of {run["norm"]}, seed {run["seed"]}.'
            yield from _picture(pictures, name, caption)


def _broken(numbers: Mapping) -> Iterator[str]:
    if numbers['broken']:
        yield '### Runs without a result'
        yield tables.broken(numbers)


def _made(numbers: Mapping) -> Iterator[str]:
    settings, made = numbers['settings'], numbers['made']
    lines = [
        f'- {title}: {settings[key]}'
        for key, title in SETTING_TITLES.items()
        if settings.get(key) is not None
    ]
    lines += [
        f'- {title}: {" or ".join(made[key])}'
        for key, title in MADE_TITLES.items()
        if made[key]
    ]
    if made['times']:
        lines.append(f'- from {made["times"][0]} to {made["times"][1]}')
    for norm, found in numbers['norms'].items():
        seeds = ', '.join(map(str, found['seeds'])) or 'none'
        text = f'- {norm}: seeds {seeds}; `{found["norm_cfg"]}`'
        lines.append(text + (f'; `{found["options"]}`' if found['options'] else ''))
    yield '\n'.join(lines)
    yield (
        f'Run by `python tools/compare_norms.py comparisons/{settings["comparison"]}.py` '
        'at that commit, reported by `python tools/report_norms.py RESULTS.jsonl '
        '--out FOLDER`.'
    )
