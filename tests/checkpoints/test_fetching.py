"""What is downloaded of a hub id, and when: seen from a hub of its own on this machine, by the real client."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from llava.errors import InputError
from llava.eval.run.settings import Decisive
from llava.inference.options import AskingOptions, ModelOptions
from llava.model.builder import load_pretrained_model
from llava.pruning import Settings
from tests.conftest import load_script
from tests.model.conftest import edit_json

ASKING = AskingOptions({"num_beams": 1, "max_new_tokens": 3})
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub that serves the folders of `root` as ORG/NAME and lists in `sent` which files it sent."""

    def __init__(self, root: Path):
        self.sent: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(False)

            def do_GET(self):
                self.answer(True)

            def answer(self, with_body: bool):
                parts = self.path.partition("?")[0].strip("/").split("/")
                headers = {}
                if parts[0] == "api":
                    name = "/".join(parts[2:4])
                    files = [file.name for file in (root / name).iterdir()] if (root / name).is_dir() else None
                    siblings = [{"rfilename": file} for file in files or []]
                    body = json.dumps({"id": name, "sha": SHA, "siblings": siblings}).encode()
                    if parts[4] == "tree":
                        listed = [(f, (root / name / f).stat().st_size) for f in files or []]
                        body = json.dumps(
                            [{"type": "file", "path": f, "size": n, "oid": f} for f, n in listed]
                        ).encode()
                    found = files is not None
                else:
                    path = root / parts[0] / parts[1] / parts[-1]
                    found = path.is_file()
                    body = path.read_bytes() if found else b""
                    headers = {"ETag": f'"{parts[1]}-{parts[-1]}"', "X-Repo-Commit": SHA}
                    if with_body and found:
                        hub.sent.append(f"{parts[1]}/{parts[-1]}")
                self.send_response(200 if found else 404)
                for key, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(key, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with org/llava, whose tower is org/clip."""
    org = tmp_path / "hub" / "org"
    org.mkdir(parents=True)
    made = load_script("make_random_checkpoint").make_checkpoint(org, "v1.5")
    made.rename(org / "llava")
    (org / "clip-vit-tiny-random").rename(org / "clip")
    edit_json(org / "llava" / "config.json", mm_vision_tower="org/clip")
    hub = Hub(tmp_path / "hub")
    endpoint = f"http://127.0.0.1:{hub.server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.org = org
    yield hub
    hub.server.shutdown()


def load_from_hub(base: str | None = None):
    return load_pretrained_model("org/llava", base, "llava", device="cpu")


def weights_sent(hub: Hub) -> list[str]:
    return [name for name in hub.sent if name.endswith((".bin", ".safetensors"))]


def test_weights_come_once_and_last(hub):
    assert load_from_hub().context_len == 4096
    small = [name for name in hub.sent if name not in weights_sent(hub)]
    assert {"llava/config.json", "llava/tokenizer.model", "clip/config.json", "clip/preprocessor_config.json"} <= {
        *small
    }
    assert hub.sent[: len(small)] == small
    assert sorted(weights_sent(hub)) == [
        "clip/pytorch_model.bin",
        "llava/pytorch_model-00001-of-00002.bin",
        "llava/pytorch_model-00002-of-00002.bin",
    ]
    before = len(hub.sent)
    load_from_hub()
    assert len(hub.sent) == before


BAD = {
    "another model": ("llava/config.json", {"architectures": ["OptForCausalLM"], "model_type": "opt"}, "not a LLaVA"),
    "a damaged config": ("llava/config.json", {"hidden_size": "64"}, "hidden_size is '64'"),
    "a tower of another kind": ("clip/config.json", {"model_type": "resnet"}, "not CLIP or SigLIP but 'resnet'"),
    "another crop": ("clip/preprocessor_config.json", {"crop_size": 336}, "crops of 336 pixels"),
    "a damaged tokenizer config": ("llava/tokenizer_config.json", {"bos_token": 7}, "bos_token is 7"),
    "too few embeddings": ("llava/config.json", {"vocab_size": 7}, "embeddings for 7"),
}


@pytest.mark.parametrize("case", BAD)
def test_no_weights_come_of_what_is_refused(hub, case):
    file, values, named = BAD[case]
    edit_json(hub.org / file, **values)
    with pytest.raises(InputError, match=named):
        load_from_hub()
    with pytest.raises(InputError, match=named):
        Decisive(ModelOptions("org/llava", device="cpu"), ASKING, "llava_v1", []).settings(Settings())
    assert weights_sent(hub) == []


def test_no_weights_come_of_a_base_of_another_family(hub):
    shutil.copytree(hub.org / "llava", hub.org / "base")
    edit_json(hub.org / "base" / "config.json", architectures=["OptForCausalLM"], model_type="opt")
    with pytest.raises(InputError, match="no language model of LlavaLlamaForCausalLM: 'opt'"):
        load_from_hub("org/base")
    assert weights_sent(hub) == []


def test_the_weights_of_a_tower_inside_the_checkpoint_are_not_downloaded_again(hub):
    edit_json(hub.org / "llava" / "config.json", unfreeze_mm_vision_tower=True)
    load_from_hub()
    assert all(name.startswith("llava/") for name in weights_sent(hub))
