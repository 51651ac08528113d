"""The grammar of texts such as `NAME:key=value,key=value`."""

from collections.abc import Callable
from collections.abc import Iterable

from cnnkit import registry
from cnnkit.errors import UsageError


def parse(
    kind: str, text: str, names: Iterable[str], keys_of: Callable[[str], Iterable[str]]
) -> tuple[str, dict[str, str]]:
    """Returns the name and the options, as they are written, in a text.

    Args:
        kind: What the text describes, for messages.
        text: Such as `step:every=10`.
        names: That are known.
        keys_of: Given one of the names, returns the keys of its options.

    Raises:
        UsageError: If the name or a key is unknown, or an option is not `key=value`, each key once.

    Example:
        >>> parse("schedule", "step:every=10", ["step"], lambda name: ["every", "factor"])
        ('step', {'every': '10'})
    """
    name, _, given = text.partition(":")
    keys = list(keys_of(registry.known(kind, name, names)))
    values: dict[str, str] = {}
    for option in filter(None, given.split(",")):
        key, equals, value = option.partition("=")
        if not equals or key in values:
            raise UsageError(
                f"Wrong option of {kind} {name!r}",
                where=option,
                expected="key=value, each key once",
                todo=f"the keys are: {', '.join(keys)}" if keys else "it has no options",
            )
        values[registry.known(f"option of {kind} {name!r}", key, keys)] = value
    return name, values
