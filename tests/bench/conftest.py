"""Calling a command works as in the evaluation's tests."""

from tests.eval.conftest import call  # noqa: F401
