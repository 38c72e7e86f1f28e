"""Labels: the ids are those of the whole prompt, and the loss is on the answers and what ends them alone."""

from itertools import chain

import pytest

from llava.checkpoints.tokenizer import load_tokenizer, tokenizer_image_token
from llava.constants import DEFAULT_IMAGE_TOKEN as IMAGE
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.train.labels import PromptTokenizer, build_prompt
from tests.conftest import written
from tests.model.conftest import edit_json

CONVERSATIONS = [
    ((f"{IMAGE}\nIs there a dog?", "Yes"),),
    ((IMAGE, "A dog"), ("What colour?", "White,  or so\n- it says ▁é 😀"), ("Sure?", " no\n")),
    (("Hello", "Hi"), (f"{IMAGE}\nWhat is it?", "A car"), ("</s> and <unk> are", "special")),
    (("Count", "1 2  3   4"), ("\nand on ", "5 6 7")),
]


def answers(ids: list[int], labels: list[int], tokenizer) -> list[str]:
    """The text of each run of labels."""
    runs, before = [], IGNORE_INDEX
    for label in labels:
        if label != IGNORE_INDEX:
            runs = [*runs, []] if before == IGNORE_INDEX else runs
            runs[-1].append(label)
        before = label
    return [tokenizer.decode([9, *run])[len(tokenizer.decode([9])) :] for run in runs]


@pytest.fixture(scope="module", params=["new", "legacy", "published"])
def tokenizer(request, starting_point, tmp_path_factory):
    if request.param == "published":
        return load_tokenizer(request.getfixturevalue("reference") / "llava-v1.5" / "llava-v1.5-tiny")
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (folder / name).write_bytes((starting_point / "vicuna" / name).read_bytes())
    edit_json(folder / "tokenizer_config.json", legacy=request.param == "legacy")
    return load_tokenizer(folder)


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_v1_trains_each_answer_and_its_end(tokenizer, turns):
    ids, labels = PromptTokenizer(tokenizer, "v1")(turns, "it")
    assert ids == tokenizer_image_token(written("v1", chain(*turns)), tokenizer)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids, labels))
    expected = [f" {answer}</s>".replace("▁", " ") for _, answer in turns]
    assert answers(ids, labels, tokenizer) == expected


def test_what_is_trained_follows_the_prompt_that_is_asked(tokenizer):
    """The labels begin right where `ASSISTANT:` ends, as in an answer's generation."""
    ids, labels = PromptTokenizer(tokenizer, "v1")(CONVERSATIONS[0], "it")
    asked = tokenizer_image_token(written("v1", [CONVERSATIONS[0][0][0], None]), tokenizer)
    assert ids[: len(asked)] == asked
    assert labels[: len(asked)] == [IGNORE_INDEX] * len(asked)
    assert labels[len(asked) :] == ids[len(asked) :]


def test_plain_trains_the_caption_after_the_image_without_the_question(tokenizer):
    ids, labels = PromptTokenizer(tokenizer, "plain")(((f"{IMAGE}\nWhat is it?", "a dog"),), "it")
    assert ids == tokenizer_image_token(f"{IMAGE}a dog\n", tokenizer)
    assert ids[:2] == [tokenizer.bos_token_id, IMAGE_TOKEN_INDEX]
    assert labels == [IGNORE_INDEX] * 2 + ids[2:]


@pytest.mark.parametrize("version", ["llava_llama_2", "mistral_instruct", "v0", "v1_mmtag"])
def test_other_templates_train_the_answers_too(tokenizer, version):
    turns = CONVERSATIONS[1][:2]
    ids, labels = PromptTokenizer(tokenizer, version)(turns, "it")
    text, spans = build_prompt(turns, version)
    assert ids == tokenizer_image_token(text, tokenizer)
    assert answers(ids, labels, tokenizer) == [text[start:end].replace("▁", " ") for start, end in spans]
    assert all(answer in text[start:end] for (_, answer), (start, end) in zip(turns, spans))


def test_text_that_the_tokenizer_changes_is_refused(tokenizer):
    prompt_tokenizer = PromptTokenizer(tokenizer, "v1")
    prompt_tokenizer.bytes[tokenizer_image_token("USER", tokenizer)[1]] = b" other"
    with pytest.raises(InputError, match="it: the tokenizer changes its text"):
        prompt_tokenizer(CONVERSATIONS[0], "it")


def test_a_token_that_is_partly_answer_is_refused(reference):
    """`<|im_end|><|im_start|>`: Llama's tokenizer has a token for `><`."""
    tokenizer = load_tokenizer(reference / "llava-v1.5" / "llava-v1.5-tiny")
    with pytest.raises(InputError, match="partly answer"):
        PromptTokenizer(tokenizer, "mpt")(CONVERSATIONS[1], "it")


def test_a_tokenizer_of_another_kind_is_refused(checkpoints):
    with pytest.raises(InputError, match=r"tokenizer\.model"):
        PromptTokenizer(load_tokenizer(checkpoints("v1.5", "qwen")), "v1")
