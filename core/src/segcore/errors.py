"""The one exception that a command shows as a sentence instead of a traceback."""


class InputError(Exception):
    """Something the user gave cannot be used: a file, an option, a checkpoint.

    The message is one sentence: what was expected, what came, what to do, with the name of the file or option.
    Commands print it and exit with code 2 (`--debug` shows the traceback as well).
    """


def check(is_valid: bool, message: str) -> None:
    """Raise an `InputError` with this sentence where something the user gave is not valid."""
    if not is_valid:
        raise InputError(message)
