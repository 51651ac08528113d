"""The errors that a user can cause, each with the exit code of the command line."""


class CnnkitError(Exception):
    """Says in one line what is wrong, where, and what to do next.

    Args:
        what: What is wrong, as a sentence without a full stop.
        where: Path, key or layer that it concerns.
        expected: What would have been right.
        received: What came instead.
        todo: What the user should type or change next.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = "",
        expected: object = "",
        received: object = "",
        todo: str = "",
    ) -> None:
        parts = [f"{what}: {where}" if str(where) else what]
        if str(expected):
            parts.append(f"Expected {expected}")
        if str(received):
            parts.append(f"Received {received}")
        if todo:
            parts.append(todo[:1].upper() + todo[1:])
        super().__init__(". ".join(part.rstrip(".") for part in parts) + ".")


class UsageError(CnnkitError):
    """A wrong argument, recipe key, pass, format or model file: exit code 2."""

    exit_code = 2


class GateError(CnnkitError):
    """A result that misses what was asked of it: exit code 3."""

    exit_code = 3


class DataError(CnnkitError):
    """Data that cannot be used: exit code 4."""

    exit_code = 4


class DivergedError(CnnkitError):
    """Training whose loss became NaN or infinite: exit code 5."""

    exit_code = 5


class LostError(CnnkitError):
    """Another process, without which this one cannot go on, has ended: exit code 1."""
