"""Draw docs/layer.svg: BatchNorm's path, what UBN adds to it, and each part's switch.

python docs/draw_layer.py
"""

from html import escape
from pathlib import Path

from ubn_mmdet.files import write_whole

TARGET = Path(__file__).with_name('layer.svg')
WIDTH, HEIGHT = 1000, 262
ROW = 96  # of the boxes' upper edge
BOX = {'width': 150, 'height': 58}
BATCHNORM, ADDED = ('#e8eaf0', '#5b6270'), ('#d9efe3', '#1d7a4d')
STYLE = """
text { font-family: Helvetica, Arial, sans-serif; text-anchor: middle; fill: #1c2230 }
.name { font-size: 15px; font-weight: bold }
.formula { font-size: 13px }
.switch { font-family: Menlo, Consolas, monospace; font-size: 12px; fill: #1d7a4d }
.note { font-size: 13px; fill: #5b6270 }
path { stroke: #5b6270; stroke-width: 1.6; fill: none; marker-end: url(#arrow) }
"""
# x, colours, name, formula, switch below the box
STEPS = [
    (70, ADDED, 'Centering', "x' = x + w · GAP(x)", 'centering=False'),
    (300, BATCHNORM, 'Normalise', "(x' − mean) / std", ''),
    (530, BATCHNORM, 'Affine', 'weight, bias', ''),
    (760, ADDED, 'Scaling', '× sigmoid(v · GAP + b)', 'scaling=None'),
]


def text(x: float, y: float, kind: str, content: str) -> str:
    """A line of text, centred at ``x``."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(content)}</text>'


def box(x: float, y: float, colours: tuple[str, str], name: str, formula: str) -> str:
    """A box with its name and formula; ``x, y`` is the corner at the upper left."""
    fill, edge = colours
    middle = x + BOX['width'] / 2
    return (
        f'<rect x="{x}" y="{y}" width="{BOX["width"]}" height="{BOX["height"]}" rx="6" '
        f'fill="{fill}" stroke="{edge}" stroke-width="1.6"/>'
        + text(middle, y + 25, 'name', name)
        + text(middle, y + 45, 'formula', formula)
    )


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """A straight arrow."""
    return f'<path d="M {x} {y} L {to_x} {to_y}"/>'


def drawing() -> str:
    """The whole figure, as SVG."""
    level = ROW + BOX['height'] / 2
    ends = [24, *(x + BOX['width'] for x, *_ in STEPS)]
    starts = [*(x for x, *_ in STEPS), 968]
    parts = [
        text(14, level + 5, 'name', 'x'),
        text(982, level + 5, 'name', 'y'),
        *(arrow(a + 2, level, b - 8, level) for a, b in zip(ends, starts, strict=True)),
    ]
    for x, colours, name, formula, switch in STEPS:
        parts += [
            box(x, ROW, colours, name, formula),
            text(x + BOX['width'] / 2, ROW + BOX['height'] + 20, 'switch', switch),
        ]
    # What is above a step decides its statistics, or is a part of it.
    gate, kernel = STEPS[1][0], STEPS[2][0]
    for x, name, formula in (
        (gate, 'Gate', 'batch or running stats'),
        (kernel, 'k×k kernel', 'depthwise, zero padding'),
    ):
        middle = x + BOX['width'] / 2
        parts.append(box(x, 8, ADDED, name, formula))
        parts.append(arrow(middle, 8 + BOX['height'] + 2, middle, ROW - 8))
    parts.append(text(gate - 108, 42, 'switch', 'condensation_threshold=None'))
    parts.append(text(kernel + BOX['width'] + 62, 42, 'switch', 'kernel_size=1'))
    legend = [
        (210, BATCHNORM, 'BatchNorm'),
        (330, ADDED, 'added by UBN, with its off switch'),
    ]
    for x, (fill, edge), label in legend:
        parts.append(
            f'<rect x="{x}" y="214" width="16" height="16" rx="3" fill="{fill}" '
            f'stroke="{edge}"/><text class="note" x="{x + 24}" y="227" '
            f'style="text-anchor: start">{label}</text>'
        )
    parts.append(text(720, 227, 'note', 'all of them off: exactly BatchNorm'))
    body = '\n'.join(parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>UBN: BatchNorm's path and four additions, each with its switch</title>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="2" refY="4" markerWidth="6"
markerHeight="6" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" style="fill: #5b6270;
stroke: none; marker-end: none"/></marker></defs>
<style>{STYLE}</style>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
{body}
</svg>
"""


if __name__ == '__main__':
    write_whole(TARGET, drawing().encode())
