"""What the arguments of those who make data are checked with."""


def check_int(name: str, value: int, minimum: int) -> None:
    """Check that an argument is an integer of at least ``minimum``.

    Raises:
        ValueError: If not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(
            f'{name} must be an integer of at least {minimum}, got {value!r}'
        )
