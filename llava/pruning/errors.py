"""What a pruning method raises."""


class PruningError(ValueError):
    """A method cannot do what it is asked. The message is one line that names the cause."""
