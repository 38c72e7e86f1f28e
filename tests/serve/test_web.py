"""The page's command: what is wrong with its options is told in a line, before anything is loaded."""

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from llava.serve import web
from tests.conftest import ROOT
from tests.eval.conftest import assert_one_line
from tests.recipes import run_python

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
    done = run_python("-c", code)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
@pytest.mark.skipif(not HAS_GRADIO, reason="the extra demo is not installed: see scripts/test_web.sh")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_what_is_being_answered_and_deletes_what_was_uploaded(tmp_path, sent, code):
    command = [sys.executable, "-m", "llava.serve.web", "--port", "0", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    message = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "temperature": 100, "max_tokens": 1900}
    headers = {"Content-Type": "application/json"}
    with subprocess.Popen(command, stdout=-1, stderr=-1, env=environment, cwd=tmp_path, text=True) as process:
        address = process.stdout.readline().strip()
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nmine\r\n--x--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        with urllib.request.urlopen(urllib.request.Request(f"{address}/gradio_api/upload", form, kind)) as uploaded:
            assert json.load(uploaded)[0].startswith(str(tmp_path))
        asked = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(message).encode(), headers)
        with urllib.request.urlopen(asked) as stream, urllib.request.urlopen(f"{address}/gradio_api/heartbeat/me"):
            for _ in range(10):
                stream.readline()
            process.send_signal(sent)
            assert process.wait(60) == code
            with contextlib.suppress(OSError, http.client.HTTPException):  # it was cut
                stream.read()
        assert process.stderr.read() == ""
    assert not list(tmp_path.rglob("a.png"))
    assert not list(tmp_path.glob("llava-web-*"))
