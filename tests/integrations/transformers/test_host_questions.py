"""Methods that choose by the question: what is asked, and what is then kept, on every host."""

import pytest
import torch
import transformers
from host_cases import CLOSE, IMAGE, OPEN, PAD, START, VIDEO, batch, each_host, prompt
from kinds import BY_NAME, CACHE, answer
from tokenizers import Tokenizer, models, pre_tokenizers

from llava.errors import InputError
from llava.integrations.transformers import prune
from llava.integrations.transformers.hosts import find_host
from tests.data import plain

WORDS = ["user", "assistant", "system", "USER:", "ASSISTANT:", "[INST]", "[/INST]", "<9.5", "seconds>", "polite"]
SPECIALS = {"<pad>": PAD, "<s>": START, "<image>": IMAGE, "<video>": VIDEO, "<open>": OPEN, "<close>": CLOSE,
            "<|start|>": 104, "<|end|>": 105, "<|head|>": 106, "</s>": 107, "<unk>": 108}  # fmt: skip
# In the manner of Qwen, of Llama 3, of LLaVA 1.5 and of Mistral. `content` is a text or a list.
CONTENT = (
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{{ ' <open> <image> <close> ' if c.type == 'image' else c.text }}{% endfor %}{% endif %}"
)
TEMPLATES = {
    "chatml": "{% for m in messages %}<|start|>{{ m.role }}\n" + CONTENT + "<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
    "heads": "<s>{% for m in messages %}<|start|>{{ m.role }}<|head|>\n\n" + CONTENT + "<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|head|>\n\n{% endif %}",
    "vicuna": "{% for m in messages %}{% if m.role != 'system' %}{{ m.role.upper() }}: {% endif %}"
    + CONTENT
    + " {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    "inst": "<s>{% for m in messages %}{% if m.role == 'user' %} [INST] "
    + CONTENT
    + " [/INST] {% else %}"
    + CONTENT
    + "{% if m.role == 'assistant' %}</s>{% endif %}{% endif %}{% endfor %}",
}


def tokenizer(template: str | None = None):
    """Words w5 to w79 and a few that templates write; the rest is unknown."""
    words = {f"w{i}": i for i in range(2, 80)} | {word: 80 + i for i, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel({**words, **SPECIALS}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", unk_token="<unk>"
    )
    made.add_tokens(list(SPECIALS), special_tokens=True)
    made.chat_template = template
    return made


def user(*parts: str) -> dict:
    """A turn of the user; "<image>" is a picture."""
    return {
        "role": "user",
        "content": [{"type": "image"} if p == "<image>" else {"type": "text", "text": p} for p in parts],
    }


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def written(words, turns: list[dict], seed: int = 1, name: str = "llava") -> dict:
    """The inputs of a conversation as a processor would write it, with random pictures."""
    ids = words(words.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)).input_ids
    made = prompt(BY_NAME[name], seed, pictures=ids.count(IMAGE))
    ids = torch.tensor([[i for token in ids for i in ([IMAGE] * 16 if token == IMAGE else [token])]])
    return {**made, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def embeddings_seen(case, model, inputs: dict, **options) -> torch.Tensor:
    """(length, D): what a pruned model gives its language model of one prompt."""
    seen = []
    handle = model.get_submodule(case.language_model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    model(**inputs, **options)
    handle.remove()
    return seen[0]


def kept_by_hand(case, model, inputs: dict, questions: list[str], number: int, method=plain.mmtok) -> torch.Tensor:
    """What the language model is given of a prompt, less what a plain loop of the method drops of each picture."""
    host, ids = find_host(model), inputs["input_ids"][0]
    embeds, keep = (
        model.get_input_embeddings()(ids.masked_fill((ids == IMAGE) | (ids == VIDEO), 0)),
        torch.ones(len(ids)) > 0,
    )
    asked = iter(questions)
    for token, parts in host.split(model, {k: v for k, v in inputs.items() if k in host.inputs}):
        columns, start = (ids == token).nonzero().flatten(), 0
        for picture in (host.encode(model, token, part)[0] for part in parts):
            own = columns[start : start + len(picture.tokens)]
            embeds[own] = picture.tokens
            words = model.get_input_embeddings()(torch.tensor(tokenizer()(next(asked)).input_ids)).numpy()
            keep[own[picture.places[picture.places >= 0]]] = False
            views = picture.views
            for places, projected, features in zip(picture.places, views.projected.numpy(), views.features.numpy()):
                given = (projected, features) if method is plain.mmtok else (projected,)
                chosen = places[method(*given, words, number)]
                keep[own[chosen[chosen >= 0]]] = True
            start += len(picture.tokens)
    return embeds[keep]


@each_host
@torch.no_grad()
@pytest.mark.parametrize("method", [plain.mmtok, plain.dart_embeds], ids=lambda method: method.__name__)
def test_what_is_kept_is_what_a_plain_loop_keeps_of_the_host_s_own_features(case, method):
    model = case.model()
    model.processor = tokenizer()
    for seed, question in ((1, "w7 w9 w12"), (2, "w30")):
        inputs = prompt(case, seed)
        expected = kept_by_hand(case, model, inputs, [question] * 9, 3, method)
        prune(model, 3, pruning_method=method.__name__)
        found = embeddings_seen(case, model, inputs, question=question)
        prune(model, None)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_each_picture_has_its_question():
    case = BY_NAME["llava"]
    model, words = prune(case.model(), 3, pruning_method="mmtok"), tokenizer(TEMPLATES["chatml"])
    model.processor = words
    inputs, questions = prompt(case, 3, pictures=2), ["w7 w9", "w50 w51 w52"]
    expected = kept_by_hand(case, model, inputs, questions, 3)
    torch.testing.assert_close(embeddings_seen(case, model, inputs, question=questions), expected)
    other = embeddings_seen(case, model, inputs, question=questions[::-1])
    assert not torch.equal(other, expected)  # or else this tells nothing
    alone = [answer(model, prompt(case, seed), question=asked) for seed, asked in ((1, "w7 w9"), (2, "w50"))]
    both = answer(model, batch(case, [prompt(case, 1), prompt(case, 2)]), question=["w7 w9", "w50"])
    assert torch.equal(both, torch.cat(alone))
    with pytest.raises(InputError, match=r"question: 3 of them for 2 picture\(s\)"):
        model(**inputs, question=["w7"] * 3)
    for wrong in (7, ["w7", 7]):
        with pytest.raises(InputError, match="question must be a text, or a list with one for each picture"):
            answer(model, inputs, question=wrong)


@torch.no_grad()
def test_all_tiles_of_a_picture_have_its_question():
    case = BY_NAME["internvl"]
    model = prune(case.model(), 3, pruning_method="mmtok")
    model.processor = tokenizer()
    inputs, questions = prompt(case, 1, pictures=2), ["w7 w9", "w50 w51 w52"]
    expected = kept_by_hand(case, model, inputs, [q for q in questions for _ in range(2)], 3)
    found = embeddings_seen(case, model, inputs, question=questions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


QUESTION = "w40 w41 w42"
TURNS = {
    "before the text": [user("<image>", QUESTION)],
    "behind it": [user(QUESTION, "<image>")],
    "two pictures": [user("<image>", "<image>", QUESTION)],
    "of the first turn": [user("<image>", QUESTION), assistant("w60"), user("w70 w71")],
    "of the second turn": [user("w70 w71"), assistant("w60"), user("<image>", QUESTION)],
    "after a system prompt": [{"role": "system", "content": "w66 polite"}, user("<image>", QUESTION)],
}


@torch.no_grad()
@pytest.mark.parametrize("turns", TURNS.values(), ids=[name.replace(" ", "-") for name in TURNS])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_user_s_text_is_read_from_the_ids(template, turns):
    case = BY_NAME["llava"]
    model = prune(case.model(), 3, pruning_method="mmtok")
    model.processor = words = tokenizer(template)
    inputs = written(words, turns)
    assert torch.equal(answer(model, inputs), answer(model, inputs, question=QUESTION))
    found, expected = (embeddings_seen(case, model, inputs, **own) for own in ({}, {"question": QUESTION}))
    assert torch.equal(found, expected)
    others = [embeddings_seen(case, model, inputs, question=other) for other in ("w60 w66", "w70 w71", "w12", "")]
    assert any(not torch.equal(found, other) for other in others)


def test_prompts_of_a_batch_have_questions_of_their_own():
    case = BY_NAME["llava"]
    model = prune(case.model(), 3, pruning_method="mmtok")
    model.processor = words = tokenizer(TEMPLATES["chatml"])
    prompts = [written(words, [user("<image>", "w40")], 1), written(words, [user("<image>", "w50 w51 w52 w53")], 2)]
    alone = [answer(model, one, question=asked) for one, asked in zip(prompts, ("w40", "w50 w51 w52 w53"))]
    assert torch.equal(answer(model, batch(case, prompts)), torch.cat(alone))


@pytest.mark.parametrize(
    "turns",
    [
        [user("w30", "<image>", "w40")],
        [user("<image>", "w30", "<image>", "w40")],
        [user("w70"), {"role": "assistant", "content": [{"type": "image"}]}],
    ],
    ids=["both sides", "between pictures", "of the assistant"],
)
def test_what_is_not_certain_is_refused(turns):
    model = prune(BY_NAME["llava"].model(), 3, pruning_method="mmtok")
    model.processor = words = tokenizer(TEMPLATES["chatml"])
    inputs = written(words, turns)
    with pytest.raises(InputError, match="pass question= to the call"):
        answer(model, inputs)
    assert answer(model, inputs, question="w40").shape == (1, 6)


def test_a_prompt_that_no_template_wrote_is_refused():
    case = BY_NAME["llava"]
    model = prune(case.model(), 3, pruning_method="mmtok")
    with pytest.raises(InputError, match="the model has no processor: assign the model's `processor` first"):
        answer(model, prompt(case, 1), question="w7")
    model.processor = tokenizer()
    with pytest.raises(InputError, match="no chat template that tells where a user's turn is: pass question="):
        answer(model, prompt(case, 1))
    model.processor = tokenizer(TEMPLATES["chatml"])
    with pytest.raises(InputError, match="not written as the chat template writes a user's turn: pass question="):
        answer(model, prompt(case, 1))
    assert answer(model, prompt(case, 1, pictures=0)).shape == (1, 6)  # nothing is chosen


def test_the_processor_is_that_of_the_model_s_folder(tmp_path):
    case = BY_NAME["llava"]
    case.model().save_pretrained(tmp_path)
    tokenizer(TEMPLATES["chatml"]).save_pretrained(tmp_path)
    loaded = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path)
    given = case.model()
    given.processor = words = tokenizer(TEMPLATES["chatml"])
    inputs = written(words, [user("<image>", QUESTION)])
    found, expected = (answer(prune(model, 3, pruning_method="mmtok"), inputs) for model in (loaded, given))
    assert torch.equal(found, expected)


def test_words_that_the_processor_writes_beside_a_video_are_not_the_user_s():
    """Qwen3-VL's writes the seconds before each time step."""
    case, words = BY_NAME["qwen3_vl video"], tokenizer(TEMPLATES["chatml"])
    model = prune(case.model(), 3, pruning_method="mmtok")
    model.processor = words
    step = ["<9.5", "seconds>", "<open>", *["<video>"] * 12, "<close>"]
    text = " ".join(["<|start|>", "user", *step, *step, QUESTION, "<|end|>", "<|start|>", "assistant"])
    ids = torch.tensor([words(text).input_ids])
    inputs = {**prompt(case, 1), "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["mm_token_type_ids"] = 2 * (ids == VIDEO).int()
    assert torch.equal(model(**inputs).logits, model(**inputs, question=QUESTION).logits)


def test_a_conversation_s_picture_keeps_the_question_of_its_turn():
    """What goes on in the cache is the same as when all is said at once, whatever later turns ask."""
    case = BY_NAME["qwen2_5_vl"]
    model, words = prune(case.model(), 3, pruning_method="mmtok"), tokenizer(TEMPLATES["chatml"])
    model.processor = words
    first = written(words, [user("<image>", "w40 w41")], 1, "qwen2_5_vl")
    ids = first["input_ids"]
    ids = torch.cat([ids[ids != IMAGE][None][:, :3], ids.new_full((1, 12), IMAGE), ids[ids != IMAGE][None][:, 3:]], 1)
    first = {
        **first,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }
    cache = transformers.DynamicCache(config=model.config.get_text_config())
    told = model.generate(**first, **{CACHE: cache}, max_new_tokens=4, do_sample=False, suppress_tokens=[IMAGE])
    more = torch.tensor([words("<|end|> <|start|> user w50 w51 <|end|> <|start|> assistant").input_ids])
    whole = torch.cat([told, more], dim=1)
    given = {**first, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
    given["mm_token_type_ids"] = (whole == IMAGE).int()
    fresh = answer(model, given)
    assert torch.equal(answer(model, given, question="w40 w41"), fresh)
    assert torch.equal(
        answer(model, {"input_ids": whole, "attention_mask": given["attention_mask"], CACHE: cache}), fresh
    )


def test_later_pictures_of_several_conversations_have_the_questions_of_their_turns():
    case, words = BY_NAME["llava"], tokenizer(TEMPLATES["chatml"])
    model = prune(case.model(), 3, pruning_method="mmtok")
    model.processor = words
    asked = [("w40 w41", "w50 w51 w52"), ("w60 w61", "w70 w71 w72")]
    turns = [[user("<image>", own[0]), assistant("w33"), user("<image>", own[1])] for own in asked]
    whole = batch(case, [written(words, own, seed) for seed, own in enumerate(turns)])
    first = {k: whole[k][:, : whole[k].shape[1] - 25] for k in ("input_ids", "attention_mask")}
    first["pixel_values"] = whole["pixel_values"][::2]
    assert (first["input_ids"] == IMAGE).sum() == 2 * 16  # the first turn, and the beginning of the second
    cache = transformers.DynamicCache(config=model.config.get_text_config())
    model(**first, question=[own[0] for own in asked], **{CACHE: cache})
    expected = answer(model, whole, question=[text for own in asked for text in own])
    assert torch.equal(answer(model, whole), expected)
    rest = {**whole, "pixel_values": whole["pixel_values"][1::2], CACHE: cache}
    assert torch.equal(answer(model, rest), expected)
