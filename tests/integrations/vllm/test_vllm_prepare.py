"""`llava.integrations.vllm.prepare`: what the folder has that vLLM serves from. Needs no vLLM."""

import json
import shutil

import pytest
from transformers import AutoTokenizer, LlavaConfig

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.conversation import get_conversation
from llava.errors import InputError
from llava.integrations.vllm import HOSTS, architecture
from llava.integrations.vllm import prepare as command
from llava.integrations.vllm.folder import prepare
from llava.model.converting import convert_checkpoint
from llava.model.families import find_family
from tests.conftest import ROOT
from tests.integrations.vllm.conftest import MODEL, run_python
from tests.model.conftest import edit_json, edit_weights

SPATIAL = {"mm_patch_merge_type": "spatial", "image_grid_pinpoints": [[336, 336]]}


def test_weights_are_linked_to(prepared):
    weights = prepared / "model.safetensors"
    assert weights.is_symlink()
    assert weights.resolve() == (MODEL / "model.safetensors").resolve()
    assert sum(file.stat().st_size for file in prepared.rglob("*") if not file.is_symlink()) < 300_000


def test_a_tower_of_its_own_folder_is_linked_to(prepared):
    (tower,) = (prepared / "vision_tower").iterdir()
    assert tower.resolve() == (MODEL.parent / "clip-vit-tiny-patch14-168" / "model.safetensors").resolve()


def test_shards_are_linked_to_with_their_index(checkpoints, tmp_path):
    source = checkpoints("v1.5")
    prepare(str(source), tmp_path / "out")
    linked = {file.name for file in (tmp_path / "out").iterdir() if file.is_symlink()}
    assert linked == {file.name for file in source.glob("pytorch_model*")}


def test_the_config_names_the_plugins_architecture(prepared):
    config = LlavaConfig.from_pretrained(prepared)
    assert config.architectures == ["VisPrunerLlavaForConditionalGeneration"]
    assert config.image_token_index == config.text_config.vocab_size == 1400
    assert (config.vision_config.image_size, config.vision_feature_layer) == (168, -2)
    assert (config.image_aspect_ratio, config.mm_patch_merge_type) == ("pad", "flat")


@pytest.mark.parametrize("version", ["bundled", "v1.5", "v1.6"])
@pytest.mark.parametrize("language_model", ["llama", "mistral", "qwen"])
def test_the_chat_template_makes_the_packages_ids(version, language_model, checkpoints, tmp_path):
    """A conversation as vLLM renders and splits it, without special tokens of the tokenizer's own accord."""
    source = MODEL if version == "bundled" else checkpoints(version, language_model)
    prepare(str(source), tmp_path / "out", "vicuna_v1", SPATIAL if version == "v1.6" else {})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    said = [[{"type": "image"}, {"type": "text", "text": "Is there a dog?"}], "Yes, 2.", "Where? (left/right)"]
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(said)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    conversation = get_conversation("vicuna_v1")
    for i, message in enumerate(["<image>\nIs there a dog?", *said[1:], None]):
        conversation.append_message(conversation.roles[i % 2], message)
    family = find_family(None, json.loads((source / "config.json").read_text())["model_type"])
    own = family.causal_lm.read_tokenizer(source)
    image = LlavaConfig.from_pretrained(tmp_path / "out").image_token_index
    wanted = tokenizer_image_token(conversation.get_prompt(), own, image)
    assert tokenizer(text, add_special_tokens=False).input_ids == wanted


def test_the_template_is_that_of_the_published_figures(prepared):
    assert "A chat between a curious user" in (prepared / "chat_template.jinja").read_text()


def test_a_checkpoint_in_transformers_layout_is_the_same(prepared, tmp_path):
    convert_checkpoint(str(MODEL), tmp_path / "llava-tiny", "hf", 10**9)
    prepare(str(tmp_path / "llava-tiny"), tmp_path / "out")
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (prepared, tmp_path / "out"))
    differing = {"tower_folder", "text_config", "vision_config"}
    assert {key: first[key] for key in first.keys() - differing} == {
        key: second[key] for key in second.keys() - differing
    }
    texts = [(folder / "chat_template.jinja").read_text() for folder in (prepared, tmp_path / "out")]
    assert texts[0] == texts[1]
    assert not second["tower_folder"]


def test_an_answer_ends_where_the_packages_does(make_checkpoint, tmp_path):
    source = make_checkpoint(version="v1.5", language_model="qwen")
    edit_json(source / "generation_config.json", eos_token_id=3)
    prepare(str(source), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [3, tokenizer.convert_tokens_to_ids("<|im_end|>")]


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature 'patch'"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"mm_use_im_start_end": True, "vocab_size": 802}, "mm_use_im_start_end"),
    ],
)
def test_what_cannot_be_served_is_refused(config, cause, make_checkpoint, tmp_path):
    source = make_checkpoint()
    edit_json(source / "config.json", **config)
    with pytest.raises(InputError, match=cause):
        prepare(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part").exists()


def test_spatial_unpad_is_refused_with_the_way_out(checkpoints, tmp_path):
    with pytest.raises(InputError, match=r"spatial_unpad.*--mm_patch_merge_type spatial --image_grid_pinpoints"):
        prepare(str(checkpoints("v1.6")), tmp_path / "out")


def test_missing_weights_are_refused(make_checkpoint, tmp_path):
    source = make_checkpoint(version="v1.6", shards=1)
    edit_weights(source / "model.safetensors", lambda t: {k: v for k, v in t.items() if "mm_projector.0" not in k})
    with pytest.raises(InputError, match=r"missing model\.mm_projector.0"):
        prepare(str(source), tmp_path / "out", overrides=SPATIAL)


def test_a_tower_without_a_weight_is_refused(make_checkpoint, tmp_path):
    source = make_checkpoint(version="v1.6", shards=1)
    edit_weights(source / "model.safetensors", lambda t: {k: v for k, v in t.items() if "pre_layrnorm" not in k})
    with pytest.raises(InputError, match="missing pre_layrnorm"):
        prepare(str(source), tmp_path / "out", overrides=SPATIAL)


def test_only_a_prepared_folder_is_replaced(checkpoints, tmp_path):
    source, target = str(checkpoints("v1.5")), tmp_path / "out"
    prepare(source, target)
    (target / "stale").write_text("")
    with pytest.raises(InputError, match="exists already"):
        prepare(source, target)
    prepare(source, target, overwrite=True)
    assert not (target / "stale").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists already"):
        prepare(source, tmp_path / "mine", overwrite=True)


def test_the_source_stays_as_it_is(make_checkpoint, tmp_path):
    source = make_checkpoint()
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    prepare(str(source), tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before


def test_the_command(call, checkpoints, tmp_path):
    options = ("--mm_patch_merge_type", "spatial", "--image_grid_pinpoints", "[[336, 336]]", "--conv-mode", "llava_v1")
    code, out, _ = call(command, checkpoints("v1.6"), tmp_path / "out", *options)
    assert (code, out.strip()) == (0, str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_grid_pinpoints"] == [[336, 336]]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("nowhere", "out"), "no such checkpoint folder: nowhere"),
        ((MODEL, MODEL), "exists already"),
        ((MODEL, "out", "--conv-mode", "mine"), "mine"),
        ((MODEL, "out", "--mm_patch_merge_type", "spatial_unpad"), "invalid choice"),
    ],
)
def test_bad_input_is_one_line(call, arguments, cause, tmp_path):
    arguments = [tmp_path / "out" if argument == "out" else argument for argument in arguments]
    code, out, line = call(command, *arguments)
    assert (code, out, len(line.splitlines())) == (2, "", 1)
    assert line.startswith("error: ")
    assert cause in line


def test_serve_sh_says_how_it_is_called():
    script = ROOT / "scripts" / "serve.sh"
    for arguments in ((), (MODEL,), (MODEL, "0"), (MODEL, "0.0"), (MODEL, "1.5"), (MODEL, "-0.5"), (MODEL, "many")):
        code = "import subprocess, sys; sys.exit(subprocess.run(['bash', *sys.argv[1:]]).returncode)"
        assert "usage: bash" in run_python("-c", code, script, *arguments, code=2)


@pytest.mark.parametrize("host", HOSTS)
def test_a_hosts_architecture_is_named(host, call, tmp_path):
    """`scripts/serve.sh` gives it to vLLM; a checkpoint of LLaVA has none, and is prepared."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [host]}))
    code, said, _ = call(architecture, tmp_path)
    assert (code, json.loads(said)) == (0, {"architectures": [f"VisPruner{host}"]})
    assert call(architecture, MODEL)[:2] == (0, "")
