"""Prompt templates: turns, copies and pictures in a conversation."""

import pytest

from llava.conversation import conv_templates, get_conversation
from llava.errors import InputError
from tests.conftest import picture


def test_vicuna_joins_turns_with_space_and_eos():
    conversation = get_conversation("vicuna_v1")
    for i, text in enumerate(["Hi", "Hello.", "And?", None]):
        conversation.append_message(conversation.roles[i % 2], text)
    assert conversation.get_prompt().endswith("questions. USER: Hi ASSISTANT: Hello.</s>USER: And? ASSISTANT:")


def test_mistral_wraps_the_user_in_inst_and_has_no_system_message():
    conversation = get_conversation("mistral_instruct")
    for i, text in enumerate(["Hi", "Hello.", "And?", None]):
        conversation.append_message(conversation.roles[i % 2], text)
    assert conversation.get_prompt() == "[INST] Hi [/INST] Hello. </s>[INST] And? [/INST]"


def test_qwen_writes_chatml():
    conversation = get_conversation("qwen_1_5")
    conversation.append_message(conversation.roles[0], "Hi")
    conversation.append_message(conversation.roles[1], None)
    assert conversation.get_prompt() == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("mode", "prompt"),
    [
        (
            "llava_llama_3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
            "You are a helpful language and vision assistant. You are able to understand the visual content that the "
            "user provides, and assist the user with a variety of tasks using natural language.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n<image>\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "qwen_2",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "gemma_instruct",
            "<start_of_turn>user\n<image>\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
            "<start_of_turn>user\nAnd?<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("llava_mistral_instruct", "[INST] <image>\nHi [/INST] Hello. </s>[INST] And? [/INST]"),
    ],
)
def test_templates_of_llava_next(mode, prompt):
    conversation = get_conversation(mode)
    for i, text in enumerate(["<image>\nHi", "Hello.", "And?", None]):
        conversation.append_message(conversation.roles[i % 2], text)
    assert conversation.get_prompt() == prompt


@pytest.mark.parametrize("mode", sorted(conv_templates))
def test_an_empty_answer_is_written_with_what_surrounds_an_answer(mode):
    def written(answer: str) -> str:
        conversation = get_conversation(mode)
        for i, text in enumerate(["Hi", answer, "And?", None]):
            conversation.append_message(conversation.roles[i % 2], text)
        return conversation.get_prompt()

    assert written("") == written("SAID").replace("SAID", "")
    if mode == "vicuna_v1":
        assert written("").endswith("USER: Hi ASSISTANT: </s>USER: And? ASSISTANT:")
    if mode == "llama_2":
        assert written("").endswith("Hi [/INST]  </s><s>[INST] And? [/INST]")


@pytest.mark.parametrize("mode", sorted(conv_templates))
def test_a_copy_does_not_change_its_template(mode):
    before = conv_templates[mode].get_prompt() if mode not in ("plain", "v0_plain") else ""
    conversation = get_conversation(mode)
    conversation.append_message(conversation.roles[0], "<image>\nWhat is it?")
    conversation.append_message(conversation.roles[1], None)
    assert "<image>\nWhat is it?" in conversation.get_prompt()
    after = conv_templates[mode].get_prompt() if mode not in ("plain", "v0_plain") else ""
    assert before == after


def test_a_picture_in_the_first_turn_goes_in_front_of_its_text():
    conversation = get_conversation("vicuna_v1")
    conversation.append_message(conversation.roles[0], ("What is it? <image>", picture(), "Pad"))
    conversation.append_message(conversation.roles[1], None)
    assert conversation.get_prompt().endswith("USER: <image>\nWhat is it? ASSISTANT:")
    assert [image.size for image in conversation.get_images(return_pil=True)] == [(200, 200)]
    assert conversation.to_gradio_chatbot()[0][0].startswith('<img src="data:image/jpeg;base64,')
    assert conversation.dict()["messages"] == [["USER", "What is it? <image>"], ["ASSISTANT", None]]


def test_mmtag_gives_the_picture_a_turn_of_its_own():
    conversation = get_conversation("v1_mmtag")
    conversation.append_message(conversation.roles[0], ("What is it?", picture(), "Default"))
    conversation.append_message(conversation.roles[1], None)
    assert (
        "USER: <Image><image></Image> ASSISTANT: Received.</s>USER: What is it? ASSISTANT:" in conversation.get_prompt()
    )


def test_large_pictures_are_cut_down_for_display():
    conversation = get_conversation("vicuna_v1")
    shown = conversation.process_image(picture(3000, 1000), "Default", return_pil=True)
    assert shown.size == (1344, 448)


def test_an_unknown_template_is_named():
    with pytest.raises(InputError, match=r"unknown conversation mode 'vicuna_v7'; known: .*vicuna_v1"):
        get_conversation("vicuna_v7")
