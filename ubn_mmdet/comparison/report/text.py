"""Numbers as text; what is not known is a dash."""

from collections.abc import Mapping

DASH = '–'


def number(value: float | None, digits: int = 3) -> str:
    """``0.123``."""
    return DASH if value is None else f'{value:.{digits}f}'


def significant_digits(value: float | None, count: int = 3) -> str:
    """A number to some significant figures, with thousands set apart."""
    if value is None:
        return DASH
    return f'{value:,.0f}' if abs(value) >= 10**count else f'{value:.{count}g}'


def signed(value: float | None) -> str:
    """``+0.012``."""
    # Adding zero takes the sign from what rounds to it.
    return DASH if value is None else f'{round(value, 3) + 0.0:+.3f}'


def interval(bounds: tuple[float, float] | None) -> str:
    """``-0.001 to +0.023``."""
    return DASH if bounds is None else f'{signed(bounds[0])} to {signed(bounds[1])}'


def mean_and_deviation(found: Mapping | None, digits: int = 3) -> str:
    """``0.123 ± 0.004``; without a deviation the mean alone."""
    if found is None:
        return DASH
    mean = number(found['mean'], digits)
    if found['deviation'] is None:
        return mean
    return f'{mean} ± {number(found["deviation"], digits)}'


def probability(value: float | None) -> str:
    """``0.012``."""
    if value is None:
        return DASH
    return '<0.001' if value < 0.001 else f'{value:.3f}'


def count(number: int, word: str, ending: str = 's') -> str:
    """``1 seed``, ``2 seeds``; ``2 classes`` has the ending ``es``."""
    return f'{number} {word}' + ('' if number == 1 else ending)
