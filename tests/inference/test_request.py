"""What is asked: made and checked without torch, so that commands can answer before it is imported."""

import subprocess
import sys

from tests.conftest import ROOT

LIGHT = """
import sys
from llava.eval.run import answering
from llava.inference.request import Request
from llava.pruning import Settings
Request("What is in <image>?", ("a.png",), Settings(16))
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_requests_are_made_without_torch():
    subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, check=True)
