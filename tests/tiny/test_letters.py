"""What is put in for letters: it looks where it should, nothing else changes, and training leaves it alone."""

import random

import pytest
import torch
from transformers import TrainerCallback

from llava.checkpoints.weight_files import read_weights
from llava.eval.run.answering import answer_questions
from llava.train.train import train
from playground.tiny.data import in_words, option_turns, write
from playground.tiny.evaluate.scores import read_benchmarks
from playground.tiny.letters import __main__ as command
from playground.tiny.letters.fixed import FixedParts
from playground.tiny.letters.grow import NEW
from playground.tiny.muon import MuonTrainer
from playground.tiny.scenes import training_scenes
from tests.conftest import ROOT, load

BUNDLE = ROOT / "playground" / "checkpoints"
OPTIONS = "A. red\nB. blue\nC. 绿色"


class Rates(TrainerCallback):
    """Records the learning rates that a training begins with."""

    def on_train_begin(self, args, state, control, optimizer=None, **_):
        self.values = {group["initial_lr"] for group in optimizer.optimizer.param_groups}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder, 24)
    return folder


@pytest.fixture(scope="module")
def grown(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "clip-vit-tiny-patch14-168").symlink_to(BUNDLE / "clip-vit-tiny-patch14-168")
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--model", BUNDLE / "llava-tiny", "--data", data, "--output", folder / "llava-grown"]
        patch.setattr("sys.argv", ["letters", *map(str, arguments)])
        command.main()
    return folder / "llava-grown"


@pytest.mark.parametrize("scene", list(training_scenes(40)), ids=lambda scene: str(scene.seed))
def test_a_letter_becomes_the_option_that_it_stands_for(scene):
    has_image, turns = option_turns(scene)
    assert (has_image, turns) == option_turns(scene)
    for (asked, answer), (same, word) in zip(turns, in_words(turns), strict=True):
        assert asked == same
        if answer in "ABCD":
            assert f"\n{answer}. {word}\n" in f"\n{asked}\n"
        else:
            assert word == answer


@torch.no_grad()
def test_without_options_the_model_is_as_before(grown):
    models = [load(folder) for folder in (BUNDLE / "llava-tiny", grown)]
    text = "USER: Is the red circle above the star? ASSISTANT: Yes</s>USER: What is the background like? ASSISTANT:"
    before, after = (model(tokenizer(text, return_tensors="pt").input_ids).logits for tokenizer, model, *_ in models)
    assert (after - before).std() < 0.01 * before.std()
    questions = read_benchmarks(ROOT / "playground" / "data" / "scenes")["GQA"]
    questions = random.Random(0).sample(questions, 40)
    settings = {"do_sample": False, "max_new_tokens": 8}
    answers = [
        [text for _, text in answer_questions(loaded, questions, "vicuna_v1", settings, 20)] for loaded in models
    ]
    assert sum(first == second for first, second in zip(*answers, strict=True)) >= 38  # of 40: one is a close call


@torch.no_grad()
def test_the_new_heads_look_at_the_letter_before_an_option(grown):
    tokenizer, model, *_ = load(grown)
    model.set_attn_implementation("eager")
    ids = tokenizer(f"USER: What color is it?\n{OPTIONS}\nASSISTANT:", return_tensors="pt").input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids[0].tolist())
    attention = model(ids, output_attentions=True).attentions
    for token, letter in (("▁red", "A"), ("▁blue", "B"), ("▁绿色", "C")):
        place = tokens.index(token)
        assert tokens[place - 2] == letter
        assert attention[0][0, -1, place, place - 2] > 0.9


def test_training_leaves_what_was_put_in_alone(grown, data, tmp_path):
    arguments = [
        f"--model_name_or_path={grown}", f"--vision_tower={BUNDLE / 'clip-vit-tiny-patch14-168'}", "--version=v1",
        f"--data_path={data / 'letters.json'}", f"--image_folder={data / 'images'}", f"--output_dir={tmp_path / 'out'}",
        "--mm_projector_type=mlp2x_gelu", "--mm_vision_select_layer=-2", "--image_aspect_ratio=pad",
        "--per_device_train_batch_size=4", "--max_steps=2", "--learning_rate=1e-3",
        "--model_max_length=2048", "--save_dtype=float32", "--report_to=none",
    ]  # fmt: skip
    rates = Rates()
    train(arguments, [FixedParts(), rates], MuonTrainer)
    assert rates.values == {1e-3, 3e-3}  # of the matrices by Muon, and of the rest
    before, after = read_weights(grown), read_weights(tmp_path / "out")
    embeddings = "model.embed_tokens.weight"
    assert torch.equal(before[embeddings][:, -NEW:], after[embeddings][:, -NEW:])
    assert not torch.equal(before[embeddings][:, :-NEW], after[embeddings][:, :-NEW])
    last = max(int(name.split(".")[2]) for name in before if ".layers." in name)
    for layer in range(last + 1):
        for name, learns in (("q", layer == last), ("k", False), ("v", False), ("o", False)):
            key = f"model.layers.{layer}.self_attn.{name}_proj.weight"
            assert torch.equal(before[key][-NEW:], after[key][-NEW:]) is not learns, key
            assert not torch.equal(before[key][:-NEW], after[key][:-NEW]), key
