"""The one error that a person can act on."""


class InputError(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. Shown without a stack trace."""
