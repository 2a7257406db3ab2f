"""The exception for bad input; `main` prints its sentence and exits without a traceback."""


class UserError(Exception):
    """Something the user gave is wrong. The message says what, where, and what to do."""


class WriteError(UserError):
    """A file cannot be written: the disk is full, or it can only be read."""
