"""One HTML page from Markdown: tables that sort, figures that answer to the pointer.

The page needs no network: styles and scripts are inside.
"""

import html
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt


class PageError(RuntimeError):
    """The page cannot be made; the message says what is missing."""


def html_page(
    title: str,
    markdown: str,
    figures: Mapping[str, Sequence[Any]],
    folded: Collection[str] = (),
) -> str:
    """The page as text.

    Args:
        title: Of the page.
        markdown: What it says. A picture whose address is a key of ``figures`` gives way to
            these figures; its caption stays.
        figures: Figures that stand side by side, as ``page.js`` draws them.
        folded: The keys of those that only show when asked for.

    Raises:
        PageError: If markdown-it-py is not installed.
    """
    try:
        from markdown_it import MarkdownIt
    except ModuleNotFoundError as error:
        raise PageError(
            f'the HTML page needs {error.name}: pip install {error.name}'
        ) from None

    parser = MarkdownIt('commonmark', {'html': False}).enable('table')
    _render_figures(parser, figures, folded)
    parser.add_render_rule('table_open', lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule('table_close', lambda *_: '</table></div>\n')
    own = files(__package__)
    return '\n'.join(
        [
            '<!DOCTYPE html>',
            '<html lang="en">',
            '<head>',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<title>{html.escape(title)}</title>',
            f'<style>\n{own.joinpath("page.css").read_text()}</style>',
            '</head>',
            '<body>',
            f'<main>\n{parser.render(markdown)}</main>',
            f'<script>\n{own.joinpath("page.js").read_text()}</script>',
            '</body>',
            '</html>',
            '',
        ]
    )


def _render_figures(
    parser: 'MarkdownIt', figures: Mapping[str, Sequence[Any]], folded: Collection[str]
) -> None:
    """Let paragraphs that are one picture become figures."""

    def source(tokens: Sequence, index: int) -> str | None:
        children = tokens[index].children or []
        single = len(children) == 1 and children[0].type == 'image'
        found = children[0].attrs['src'] if single else None
        return found if found in figures else None

    def image(self: Any, tokens: Sequence, index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        name, caption = token.attrs['src'], html.escape(token.content)
        if name not in figures:
            return f'<img src="{html.escape(name)}" alt="{caption}">'
        drawn = f'<div class="plots">{"".join(map(_figure, figures[name]))}</div>'
        if name in folded:
            return f'<details><summary>{caption}</summary>{drawn}</details>\n'
        return f'<figure>{drawn}<figcaption>{caption}</figcaption></figure>\n'

    def paragraph(step: int) -> Callable[..., str]:
        def render(self: Any, tokens: Sequence, index: int, *rest: Any) -> str:
            if source(tokens, index + step):
                return ''
            return self.renderToken(tokens, index, *rest)

        return render

    parser.add_render_rule('image', image)
    parser.add_render_rule('paragraph_open', paragraph(1))
    parser.add_render_rule('paragraph_close', paragraph(-1))


def _figure(figure: Mapping) -> str:
    # A "<" is all that could end the script.
    data = json.dumps(figure, separators=(',', ':')).replace('<', '\\u003c')
    return f'<div class="plot"><script type="application/json">{data}</script></div>'
