"""The benchmark of reading: every step runs on the files that it writes."""

from llava.bench import reading
from tests.eval.conftest import assert_one_line


def test_every_step_is_measured(call):
    code, out, _ = call(reading, "--questions", 50)
    assert code == 0
    rows = [line.split(" | ") for line in out.splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == ["read", "resume", "merge", "convert"]
    assert all(min(float(row[1]), float(row[2])) >= 0 and int(row[3].strip("| ")) > 0 for row in rows)
    assert_one_line(call(reading, "--questions", 1), "questions must be at least 2")
