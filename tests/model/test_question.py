"""What a prompt asks about its images, read from its token ids."""

import pytest

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.conversation import conv_templates, question_in
from llava.model.question import questions_of
from tests.conftest import IMAGE, written

TEMPLATES = [name for name in conv_templates if "plain" not in name]


def read(tokenizer, prompt: str) -> list[str]:
    return questions_of(tokenizer_image_token(prompt, tokenizer, return_tensors="pt"), tokenizer)


@pytest.mark.parametrize("family", ["llama", "qwen"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_it_is_the_text_of_the_turn_that_holds_the_image(loaded, template, family):
    tokenizer = loaded(language_model=family)[0]
    text = "Is there a dog in the image?\nAnswer: yes or no."
    assert read(tokenizer, written(template, [f"{IMAGE}\n{text}", None])) == [text]
    said = ("Hello.", "Hi!", f"{IMAGE}\n{text}", "No", "And a cat?", None)
    assert read(tokenizer, written(template, said)) == [text]


def test_images_have_no_place_in_it(loaded):
    tokenizer = loaded()[0]
    said = (f"Is {IMAGE} like\n{IMAGE} ?", "Yes", IMAGE, "A dog", "Why?", None)
    assert read(tokenizer, written("vicuna_v1", said)) == ["Is like ?", "Is like ?", ""]
    assert read(tokenizer, "no template, " + IMAGE + " no turn") == ["no template, no turn"]
    assert read(tokenizer, "nothing to see") == []
    assert question_in(f"<im_start>{IMAGE}<im_end>\nWhat?") == "What?"
