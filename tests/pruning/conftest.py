"""Fixtures of the tests of pruning methods."""

import pytest

from tests.pruning.guests import write_in


@pytest.fixture
def write(tmp_path):
    """See `guests.write_in`."""
    return write_in(tmp_path)
