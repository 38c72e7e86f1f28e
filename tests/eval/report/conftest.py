"""What the tests of the table of scores share: the command, on a folder of answers."""

import pytest

from llava.eval.report import summary


@pytest.fixture
def collect(call, tmp_path):
    """Run the command on the folder; returns exit code, stdout and stderr."""
    return lambda *options: call(summary, "--out-dir", tmp_path, *options)


@pytest.fixture
def collected(collect):
    """What the command prints, which ends well."""

    def run(*options) -> str:
        code, out, err = collect(*options)
        assert code == 0, err
        return out

    return run
