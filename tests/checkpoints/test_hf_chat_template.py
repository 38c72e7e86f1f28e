"""Chat templates of converted checkpoints: what transformers renders is what `get_prompt` writes."""

import pytest
from transformers import AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from llava.checkpoints.hf.chat_template import to_chat_template
from llava.conversation import conv_templates, get_conversation
from llava.model.converting import convert_checkpoint
from tests.conftest import written

TURNS = ['<image>\nIs there a "dog"?', "No.", "{{ Why }} not?\nSay.", "Because."]
MODES = sorted(set(conv_templates) - {"plain", "v0_plain"})


def as_messages(turns: list[str]) -> list[dict]:
    """Messages of transformers, the picture of the first as a part of its own."""
    parts = [{"type": "text", "text": turns[0].removeprefix("<image>\n")}, {"type": "image"}]
    contents = [parts, *turns[1:]]
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_transformers_renders_what_the_template_writes(mode, number):
    template, turns = to_chat_template(get_conversation(mode)), TURNS[:number]

    def render(goes_on: bool) -> str:
        return render_jinja_template([as_messages(turns)], chat_template=template, add_generation_prompt=goes_on)[0][0]

    assert render(False) == written(mode, turns)
    if number % 2:
        assert render(True) == written(mode, [*turns, None])


def test_a_system_message_is_refused():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    with pytest.raises(Exception, match="the system message is part of the template"):
        render_jinja_template([messages], chat_template=to_chat_template(get_conversation("vicuna_v1")))


def test_the_processor_of_a_converted_checkpoint_has_it(checkpoints, tmp_path):
    convert_checkpoint(str(checkpoints("v1.6", "mistral")), tmp_path / "hf", "hf", 10**9)
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    prompt = processor.apply_chat_template(as_messages(TURNS[:1]), add_generation_prompt=True)
    assert prompt == '[INST] <image>\nIs there a "dog"? [/INST]'
