"""From a path to a model: every published layout loads, with every option."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from llava.checkpoints.weight_files import read_weights
from llava.checkpoints.weights import TOWER_PREFIX
from llava.errors import InputError
from llava.model.builder import load_pretrained_model
from tests.conftest import load, load_script
from tests.model.conftest import TOWER_KEY, edit_json, edit_weights, logits, without


def test_what_is_loaded_is_what_the_files_say(checkpoints):
    folder = checkpoints("v1.6")
    model = load(folder)[1]
    first, second = (load_file(folder / f"model-0000{i}-of-00002.safetensors") for i in (1, 2))
    stored, state = first | second, model.state_dict()
    for key, tensor in stored.items():
        ours = key if key in state else TOWER_PREFIX + key.removeprefix(TOWER_PREFIX + "vision_model.")
        assert torch.equal(state[ours], tensor.float()), key
    assert len(state) == len(stored)


def test_a_fine_tuned_tower_wins_over_the_clip_folder_s(checkpoints):
    for version, from_checkpoint in (("v1.5", False), ("v1.6", True)):
        folder = checkpoints(version)
        tower = load(folder)[1].get_vision_tower().vision_tower
        loaded = tower.encoder.layers[0].mlp.fc1.weight
        clip = torch.load(folder.parent / "clip-vit-tiny-random" / "pytorch_model.bin", weights_only=True)[TOWER_KEY]
        assert torch.equal(loaded, clip.float()) is not from_checkpoint


def test_clip_keys_may_stand_without_vision_model(make_checkpoint):
    folder = make_checkpoint(version="v1.6")
    expected = logits(load(folder))

    def strip(keyed: dict) -> dict:
        return {key.replace(".vision_model.", "."): value for key, value in keyed.items()}

    edit_weights(folder, strip)
    index = folder / "model.safetensors.index.json"
    edit_json(index, weight_map=strip(json.loads(index.read_text())["weight_map"]))
    assert torch.equal(logits(load(folder)), expected)


def test_a_whole_clip_model_serves_as_tower(make_checkpoint):
    """The published tower's folder holds the text side too; its configs nest, and date from transformers 4.21."""
    folder = make_checkpoint()
    expected = logits(load(folder))
    clip = folder.parent / "clip-vit-tiny-random"
    vision = json.loads((clip / "config.json").read_text())
    whole = CLIPModel(CLIPConfig(vision_config=vision, text_config={"hidden_size": 64, "num_attention_heads": 4}))
    text_side = {k: v for k, v in whole.state_dict().items() if not k.startswith("vision_model.")}
    buffers = {"vision_model.embeddings.position_ids": torch.arange(145)}
    edit_weights(clip / "pytorch_model.bin", lambda tensors: tensors | text_side | buffers)
    generation = {"max_length": 20, "temperature": 1.0, "bad_words_ids": None, "id2label": {"0": "LABEL_0"}}
    config = {"model_type": "clip", "vision_config": vision | generation, "vision_config_dict": vision}
    (clip / "config.json").write_text(json.dumps(config))
    processor = json.loads((clip / "preprocessor_config.json").read_text())
    old = {key: processor[key] for key in ("image_mean", "image_std", "resample", "do_resize", "do_center_crop")}
    old |= {"size": 168, "crop_size": 168, "feature_extractor_type": "CLIPFeatureExtractor"}
    (clip / "preprocessor_config.json").write_text(json.dumps(old))
    assert torch.equal(logits(load(folder)), expected)


@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
def test_one_file_and_many_shards_load_alike(make_checkpoint, tmp_path, version):
    first, second = (tmp_path / name for name in "ab")
    answers = []
    for parent, shards in ((first, 1), (second, 5)):
        parent.mkdir()
        maker = load_script("make_random_checkpoint")
        answers.append(logits(load(maker.make_checkpoint(parent, version, shards=shards))))
    assert torch.equal(*answers)


def test_tied_embeddings_need_no_lm_head(make_checkpoint):
    model = load(make_checkpoint(language_model="qwen", tie_word_embeddings=True))[1]
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_projector_alone_loads_onto_its_base_model(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    expected = logits(load(folder))
    projector, base = tmp_path / "llava-projector", tmp_path / "base"
    projector.mkdir()
    tensors = read_weights(folder)
    torch.save({k: v for k, v in tensors.items() if "mm_projector" in k}, projector / "mm_projector.bin")
    (projector / "config.json").write_text((folder / "config.json").read_text())
    folder.rename(base)
    for shard in base.glob("*.bin*"):
        shard.unlink()
    torch.save(without(TOWER_PREFIX)(without("mm_projector")(tensors)), base / "pytorch_model.bin")
    loaded = load_pretrained_model(str(projector), str(base), "llava-projector", device="cpu")
    assert torch.equal(logits(loaded), expected)
    (projector / "mm_projector.bin").unlink()
    with pytest.raises(InputError, match=r"no mm_projector\.bin"):
        load_pretrained_model(str(projector), str(base), "llava-projector", device="cpu")


def test_the_tower_may_be_named_by_an_absolute_path_or_from_here(make_checkpoint, monkeypatch):
    folder = make_checkpoint()
    expected = logits(load(folder))
    edit_json(folder / "config.json", mm_vision_tower=str(folder.parent / "clip-vit-tiny-random"))
    assert torch.equal(logits(load(folder)), expected)
    monkeypatch.chdir(folder.parent)
    edit_json(folder / "config.json", mm_vision_tower="clip-vit-tiny-random")
    assert torch.equal(logits(load(folder)), expected)


def test_a_saved_model_loads_again(make_checkpoint):
    folder = make_checkpoint(version="v1.6")
    loaded = load(folder)
    again = folder.parent / "again"
    loaded[1].save_pretrained(again)
    loaded[0].save_pretrained(again)
    assert torch.equal(logits(load(again)), logits(loaded))


def test_the_budget_can_be_given_and_is_checked_before_anything_is_loaded(checkpoints):
    model = load(checkpoints(), visual_token_num=16, important_ratio=0.25)[1]
    assert (model.visual_token_num, model.important_ratio) == (16, 0.25)
    with pytest.raises(ValueError, match="visual_token_num"):
        load_pretrained_model("nowhere", None, "nowhere", visual_token_num=0)


def test_sampling_takes_the_checkpoint_s_defaults_and_greedy_decoding_warns_of_nothing(loaded, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    _, model, _, _ = loaded()
    assert model.sampling_defaults == {"temperature": 0.9, "top_p": 0.6}
    ids = torch.tensor([[1, 5, 6]])
    with caplog.at_level(logging.WARNING):
        answers = {tuple(model.generate(ids, do_sample=False, max_new_tokens=5)[0].tolist()) for _ in range(3)}
        assert len(answers) == 1
    assert caplog.text == ""
    monkeypatch.setitem(model.sampling_defaults, "top_p", 1e-9)  # the likeliest token alone
    assert tuple(model.generate(ids, do_sample=True, max_new_tokens=5)[0].tolist()) in answers


def test_the_tuple_is_upstream_s(loaded):
    tokenizer, model, image_processor, context_len = loaded()
    assert tokenizer.decode([1]) == "<s>"
    assert not model.training
    assert image_processor.crop_size["height"] == 168
    assert image_processor.size["shortest_edge"] == 168
    assert context_len == 4096


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device_map", ["auto", "cuda:0", {"": 0}, {"": "cuda"}])
def test_a_missing_gpu_becomes_the_cpu_with_a_message(checkpoints, caplog, device_map):
    with caplog.at_level(logging.WARNING):
        model = load_pretrained_model(str(checkpoints()), None, "llava", device_map=device_map)[1]
    assert "no GPU is available" in caplog.text
    assert model.device.type == "cpu"
    assert model.dtype is torch.float32


@pytest.mark.parametrize("option", ["load_8bit", "load_4bit"])
def test_quantized_weights_leave_projector_and_tower_alone(checkpoints, option):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes (the extra quant) is not installed")
    quantized = load(checkpoints(), **{option: True})
    model = quantized[1]
    assert "bit" in type(model.model.layers[0].mlp.up_proj).__name__
    tower = model.get_vision_tower().vision_tower
    for part in (model.model.mm_projector[0], model.lm_head, tower.encoder.layers[0].mlp.fc1):
        assert type(part) is torch.nn.Linear
    exact = logits(load(checkpoints()))
    assert torch.corrcoef(torch.stack([logits(quantized), exact]))[0, 1] > 0.9
