"""What a pruning method raises."""

from llava.errors import InputError


class PruningError(InputError):
    """A method cannot do what it is asked. The message is one line that names the cause."""


class MethodError(PruningError):
    """A user's method has failed, or returned what cannot be used. The cause has the traceback."""
