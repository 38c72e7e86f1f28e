"""Which template a checkpoint is asked in, and its tokenizer's own chat template."""

import json
import logging

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.inference import Session, make_request
from llava.model.template import chat_template_of, find_template
from tests.conftest import load, picture
from tests.hf_checkpoints import copy_with
from tests.model.conftest import edit_json

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture
def chatty(checkpoints, tmp_path):
    """A checkpoint of a language model that no template is known for, whose tokenizer has a chat template."""
    tower = str(checkpoints().parent / "clip-vit-tiny-random")
    folder = copy_with(checkpoints(), tmp_path / "llava-tinyllama", mm_vision_tower=tower)
    edit_json(folder / "tokenizer_config.json", chat_template=TEMPLATE)
    return folder


def test_an_unknown_language_model_is_asked_in_its_tokenizer_s_chat_template(chatty, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = load(chatty)
    assert "template" not in caplog.text
    tokenizer, model, *_ = loaded
    prompt = make_request("What is it?", [picture()], loaded.template, model.config).prompt
    assert prompt == "<s><|user|>\n<image>\nWhat is it?</s>\n<|assistant|>\n"
    ids = tokenizer_image_token(prompt, tokenizer)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


def test_a_conversation_goes_on_in_the_chat_template(chatty):
    session = Session(load(chatty, visual_token_num=8), "chat_template")
    session.ask("What is it?", [picture()], max_new_tokens=3, do_sample=False)
    first = session.last.text
    session.ask("Why?", max_new_tokens=3, do_sample=False)
    assert session.last.prompt == (
        f"<s><|user|>\n<image>\nWhat is it?</s>\n<|assistant|>\n{first}</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n"
    )


def test_an_empty_answer_is_said_in_the_chat_template_too(chatty):
    conversation = chat_template_of(chatty).conversation()
    for i, text in enumerate(["Hi", "", "And?"]):
        conversation.append_message(conversation.roles[i % 2], text)
    said = "<s><|user|>\nHi</s>\n<|assistant|>\n</s>\n"
    assert conversation.get_prompt() == said + "<|user|>\nAnd?</s>\n"
    conversation.messages = conversation.messages[:2]  # nothing is to be answered
    assert conversation.get_prompt() == said


def test_a_file_beside_the_tokenizer_s_settings_is_its_chat_template(chatty):
    (chatty / "chat_template.jinja").write_text("{% for message in messages %}[{{ message.content }}]{% endfor %}")
    conversation = chat_template_of(chatty).conversation()
    conversation.append_message(conversation.roles[0], "Hi")
    assert conversation.get_prompt() == "[Hi]"


def test_what_has_no_chat_template_or_a_broken_one_is_refused(checkpoints, chatty):
    with pytest.raises(InputError, match="has no chat template"):
        find_template("llava-v1.5-7b", "llava", "chat_template", checkpoints())
    (chatty / "chat_template.jinja").write_text("{% for message in messages %}")
    conversation = chat_template_of(chatty).conversation()
    with pytest.raises(InputError, match="chat template cannot be followed"):
        conversation.get_prompt()


def test_without_a_chat_template_the_guess_is_named(checkpoints, caplog):
    with caplog.at_level(logging.WARNING):
        assert find_template("llava-phi-3-mini", "llava_llama", None, checkpoints()).name == "vicuna_v1"
    assert "the template of llava-phi-3-mini is not known" in caplog.text and "--conv-mode" in caplog.text


def test_a_llama_3_is_asked_rightly(checkpoints, tmp_path):
    """Its tokenizer writes BOS itself, as the template does; an answer ends with its turn."""
    words = {"<unk>": 0, "hi": 1, "Ġ": 2}
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(special)
    bos = tokenizer.token_to_id(special[0])
    tokenizer.post_processor = TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], bos)])
    tower = str(checkpoints().parent / "clip-vit-tiny-random")
    folder = copy_with(checkpoints(), tmp_path / "llama3-llava-next-8b", mm_vision_tower=tower)
    for file in (*folder.glob("token*"), *folder.glob("special*")):
        file.unlink()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    llava = load(folder)
    loaded, model, *_ = llava
    assert llava.template.name == "llava_llama_3"
    ids = tokenizer_image_token(make_request("hi", [picture()], llava.template, model.config).prompt, loaded)
    assert (ids[0], ids.count(bos), ids.count(IMAGE_TOKEN_INDEX)) == (bos, 1, 1)
    ends = [loaded.convert_tokens_to_ids(token) for token in ("<|start_header_id|>", "<|eot_id|>")]
    assert [ids.count(token) for token in ends] == [3, 2]
    assert ends[1] in model.generation_config.eos_token_id


def test_the_default_is_that_of_the_published_figures_but_for_upstream_s_commands(loaded):
    llava = loaded()
    assert (llava.template.name, llava.find_template(as_upstream=True).name) == ("vicuna_v1", "llava_v1")
    assert llava.template.conversation().system != llava.find_template(as_upstream=True).conversation().system
    for version, family, name in (("v1.6", "mistral", "mistral_instruct"), ("v1.6", "qwen", "qwen_1_5")):
        other = loaded(version, family)
        assert {other.template.name, other.find_template(as_upstream=True).name} == {name}
