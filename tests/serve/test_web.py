"""The page's command: what is wrong with its options is told in a line, before anything is loaded."""

import importlib.util
import socket
import subprocess
import sys

import pytest

from llava.serve import web
from tests.eval.conftest import assert_one_line

HAS_GRADIO = importlib.util.find_spec("gradio") is not None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--visual_token_num", "0"], "--visual_token_num: must be at least 1, got 0"),
        (["--important_ratio", "2"], "--important_ratio"),
        (["--port", "http"], "--port"),
        (["--budget", "3"], "--budget"),
        (["--conv-mode", "vicuna"], "unknown conversation mode 'vicuna'"),
        (["--temperature", "-1"], "temperature"),
        (["--server", "http://127.0.0.1:1", "--pruning_method", "divprune"], "are the server's"),
        (["--server", "http://127.0.0.1:1", "--pruning_seed", "3"], "pruning_seed"),
        (["--server", "http://127.0.0.1:1", "--num_beams", "2"], "are the server's"),
        (["--server", "http://127.0.0.1:1", "--allow-urls"], "--allow-urls"),
        (["--server", "http://127.0.0.1:1", "--budget_per", "image"], "are the server's"),
    ],
)
def test_bad_options_are_one_line(call, options, named):
    assert_one_line(call(web, *options), named)


@pytest.mark.skipif(HAS_GRADIO, reason="Gradio is installed")
def test_without_gradio_the_extra_is_named(call):
    assert_one_line(call(web), "'.[demo]'")


@pytest.mark.skipif(not HAS_GRADIO, reason="the extra demo is not installed: see scripts/test_web.sh")
def test_what_cannot_be_served_is_one_line(call, model_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(call(web, "--port", port), f"cannot listen on 127.0.0.1, port {port}")
    assert_one_line(call(web, "--port", 99999), "port")
    assert_one_line(call(web, "--port", 0, "--host", "nowhere.invalid"), "cannot listen on nowhere.invalid")
    assert_one_line(call(web, "--port", 0, "--server", "ftp://127.0.0.1"), "--server must be such as")
    assert_one_line(call(web, "--port", 0, "--server", f"http://127.0.0.1:{port}"), "cannot be reached")
    model_server.pruning["takes_settings"] = False
    asked = call(web, "--port", 0, "--server", model_server.url, "--visual_token_num", 32)
    assert_one_line(asked, "the server takes no visual_token_num from here")


@pytest.mark.slow
def test_options_are_read_before_torch_and_gradio_are_imported():
    code = (
        "import sys, llava.serve.web as web\nsys.argv = ['web', '--help']\n"
        "try:\n    web.main()\nexcept SystemExit:\n    print({'torch', 'transformers', 'gradio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
