"""A group of runs as Markdown."""

from collections.abc import Iterator, Mapping

from . import group_tables as tables
from .figure_data import heat_maps, main_metrics
from .text import count, signed

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
- **±** is the standard deviation over seeds. Runs of one seed share data order,
  augmentation and the initial values of all parameters outside the norm layers.
- **Over seeds**: the mean of the paired differences, seed by seed, with its 95% t interval
  and two-sided p. It asks whether training once more would come out the same way. p is
  that of one comparison, not corrected for how many there are.
- **Over images**: the 95% interval of the same mean difference over 1000 random halves of
  the validation images (paired half-sample bootstrap). It asks whether other images would
  come out the same way, for these trained models.
- **Higher** and **lower** are said if the interval over seeds, and that over images where
  there is one, leave out 0. All else is **no significant difference**, which is not
  the same as equal.
- **{tables.OVER_EPOCHS_TITLE}** is the mean of AP over the evaluations of a run: high for a
  run that learns early.
- Runs that diverged or failed are in no mean. They are listed.
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
    """A plain sentence for each norm that is compared, and one for what is not."""
    baseline = numbers['baseline']
    lines = []
    for norm, compared in numbers['against'].items():
        found = {
            label: compared[metric]
            for metric, label in main_metrics(numbers).items()
            if compared[metric]
        }
        words = [
            f'{label} **{f["verdict"]}** ({signed(f["difference"])})'
            for label, f in found.items()
        ]
        seeds = max((len(f['seeds']) for f in found.values()), default=0)
        said = (
            f'{", ".join(words)}; {count(seeds, "seed")}' if words else 'no common seed'
        )
        lines.append(f'- **{norm}** against {baseline}: {said}.')
    if lines:
        yield '\n'.join(lines)
    elif baseline is None:
        yield 'No run of the baseline is finished: there is nothing to compare with.'
    else:
        yield f'Nothing but {baseline} is finished.'
    if numbers['broken']:
        runs = [
            f'{r["norm"]}, seed {r["seed"]} ({r["status"]})' for r in numbers['broken']
        ]
        yield f'Without a result, and in no mean: {"; ".join(runs)}.'


def _picture(pictures: Mapping[str, str], name: str, caption: str) -> Iterator[str]:
    if name in pictures:
        yield f'![{caption}]({pictures[name]})'


def _against(numbers: Mapping, pictures: Mapping[str, str]) -> Iterator[str]:
    if not numbers['against']:
        return
    yield f'### Against {numbers["baseline"]}'
    yield tables.against(numbers)
    yield _about_images(numbers)
    caption = 'Lines: 95% over seeds; dotted: over images; small dots: the seeds.'
    yield from _picture(pictures, 'differences', caption)
    yield (
        f'Every metric: the difference from {numbers["baseline"]}, with the 95% interval '
        'over seeds; bold where it is told apart.'
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
        yield (
            'The row minus the column, paired over common seeds; bold where the 95% '
            'interval over seeds leaves out 0.'
        )
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
