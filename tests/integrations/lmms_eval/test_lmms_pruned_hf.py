"""The model `pruned_hf` of lmms-eval, on the bundled model in transformers' layout."""

import pytest
import torch

pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed here: see scripts/test_lmms_eval.sh")

from lmms_eval.models import get_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava.conversation import get_conversation
from llava.integrations.lmms_eval import pruned_hf
from llava.integrations.transformers import prune
from tests.conftest import picture
from tests.integrations.lmms_eval.asking import QUESTION, choice, question
from tests.integrations.lmms_eval.conftest import SYSTEM

SHOWN = [[], [picture()], [picture(300, 200, 1)], [picture(seed=1), picture(seed=2)]]


def make(checkpoint, **arguments):
    arguments = {"pretrained": checkpoint[0], "chat_template": checkpoint[1], **arguments}
    text = ",".join(f"{name}={value}" for name, value in arguments.items() if value is not None)
    lm = get_model("pruned_hf").create_from_arg_string(text, {"device": "cpu"})
    lm.task_dict["scenes"] = {"test": [{"pictures": pictures} for pictures in SHOWN]}
    return lm


@pytest.fixture(scope="module")
def by_hand(checkpoint):
    """The answer to a prompt with pictures, as a user of transformers asks for it."""
    processor = AutoProcessor.from_pretrained(checkpoint[0])
    model = prune(AutoModelForImageTextToText.from_pretrained(checkpoint[0], dtype=torch.float32), 32)

    def ask(text: str, pictures: list) -> str:
        inputs = processor(images=pictures or None, text=SYSTEM + text, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs.input_ids.shape[1] :]
        return processor.decode(output, skip_special_tokens=True).strip()

    return ask


@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_those_of_a_pruned_model(checkpoint, by_hand, batch_size):
    lm = make(checkpoint, visual_token_num=32, batch_size=batch_size)
    asked = [(QUESTION, 1), (QUESTION, 0), ("Is there a star in the image?", 2), (QUESTION, 2), (QUESTION, 3)]
    answers = lm.generate_until([question(text, document) for text, document in asked])
    by_hands = []
    for text, document in asked:
        placeholders = "<image>\n" * len(SHOWN[document])
        by_hands.append(by_hand(f"USER: {placeholders}{text} ASSISTANT:", SHOWN[document]))
    assert answers == by_hands
    assert len(set(answers)) > 1


def test_placeholders_say_where_pictures_belong(checkpoint, by_hand):
    (answer,) = make(checkpoint, visual_token_num=32).generate_until([question("First <image> then <image>?", 3)])
    assert answer == by_hand("USER: First <image>\n then <image>\n? ASSISTANT:", SHOWN[3])


def test_losses_tell_the_greedy_answer(checkpoint):
    lm = make(checkpoint, visual_token_num=0.25)
    (answer,) = lm.generate_until([question(QUESTION, 2)])
    (loss, is_greedy), (other, is_other) = lm.loglikelihood(
        [choice(QUESTION, text, 2) for text in (f" {answer}", f"not {answer}")]
    )
    assert (is_greedy, is_other) == (True, False)
    assert loss < other


def test_downsampled_pictures_are_counted_and_nothing_is_pruned(checkpoint, monkeypatch, caplog):
    """With a stand-in for the processor's part: Qwen's processors need torchvision, and LLaVA's have no such limit."""
    asked, sizes = [], iter([5, 8, 2])
    monkeypatch.setattr(pruned_hf, "make_smaller", lambda processor, number: asked.append(number))
    monkeypatch.setattr(pruned_hf, "count_tokens", lambda processor, inputs: [next(sizes)] * len(inputs.pixel_values))
    lm, plain = make(checkpoint, downsample=9, batch_size=1), make(checkpoint, batch_size=1)
    requests = [question(QUESTION, document) for document in (1, 2, 3)]
    assert lm.generate_until(requests) == plain.generate_until(requests)
    assert asked == [9]
    assert "a picture had 4.2 visual tokens on average" in caplog.text  # 5, 8, 2, 2
    assert not hasattr(lm.model, "_visual_token_pruning")


@pytest.mark.parametrize("visual_token_num", [144, 32])
def test_it_answers_a_task(run_tasks, checkpoint, visual_token_num):
    scores, _ = run_tasks(
        "pruned_hf",
        "scenes_pope_random",
        16,
        pretrained=checkpoint[0],
        chat_template=checkpoint[1],
        visual_token_num=visual_token_num,
    )
    assert scores["scenes_pope_random"]["pope_accuracy,none"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": None}, "pruned_hf needs the model argument pretrained"),
        ({"visual_token_num": 1.5}, "visual_token_num must be an integer or a share"),
        ({"visual_token_num": 0}, "visual_token_num must be at least 1"),
        ({"pruning_method": "fastv"}, "fastv drops tokens inside the language model"),
        ({"pruning_method": "blind"}, "blind shows no picture"),
        ({"visual_token_num": 4, "downsample": 4}, "downsample takes the place of visual_token_num"),
        ({"downsample": 4}, r"downsample: \w+ has no limit of a picture's pixels"),
        ({"conv_template": "v1"}, "pruned_hf has no model argument 'conv_template'"),
        ({"chat_template": "nowhere"}, "nowhere"),
        ({"chat_template": None}, "llava-tiny-hf has no chat template: give the model argument chat_template"),
        ({"pretrained": "./nowhere"}, "cannot load ./nowhere"),
    ],
)
def test_a_bad_model_argument_is_named(checkpoint, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(checkpoint, **arguments)


def test_the_template_of_a_converted_checkpoint_is_that_of_the_package(checkpoint):
    own = make(checkpoint, chat_template=checkpoint[1].with_name("own.jinja"))
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it red?"}]}]
    prompt = own.processor.apply_chat_template(message, chat_template=own._template, add_generation_prompt=True)
    conversation = get_conversation("llava_v1")
    conversation.append_message(conversation.roles[0], "<image>\nIs it red?")
    conversation.append_message(conversation.roles[1], None)
    assert prompt == conversation.get_prompt()
