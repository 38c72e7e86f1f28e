"""No pruning: every patch becomes a visual token."""

from llava.pruning.method import Method

METHOD = Method()
