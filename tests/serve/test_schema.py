"""What a chat request becomes: the prompt in the model's template, its settings, and what is refused by name."""

import json

import pytest

from llava.conversation import conv_templates, get_conversation
from llava.inference import Session
from llava.pruning import Settings
from llava.serve.api.messages import Layout
from llava.serve.api.schema import SETTINGS, ChatError, ChatRequest, read_request
from tests.conftest import load
from tests.hf_checkpoints import copy_with

PIC = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
WITH_SYSTEM = sorted(name for name, template in conv_templates.items() if template.system)
WITHOUT_SYSTEM = sorted(conv_templates.keys() - WITH_SYSTEM)


def text(text: str) -> dict:
    return {"type": "text", "text": text}


@pytest.fixture
def model(loaded):
    return loaded()[1]


def read(messages="Hi", **fields) -> ChatRequest:
    """A request with these messages and fields, as it is sent."""
    return read_request(json.dumps({"messages": said(messages), **fields}).encode())


@pytest.fixture
def lay_out(model, loaded):
    """lay_out(messages) -> the prompt and the pictures' addresses; in the model's template if no other is named."""

    def get(messages, conv_mode: str | None = None, allow_urls: bool = False) -> tuple:
        template = loaded().find_template(conv_mode) if conv_mode else loaded().template
        return Layout(model.config, template.conversation(), allow_urls).lay_out(read(messages).messages)

    return get


def said(messages) -> list:
    """Messages written short: (role, content) pairs, or the user's text alone."""
    if not isinstance(messages, str) and not (messages and isinstance(messages[0], tuple)):
        return messages
    pairs = [("user", messages)] if isinstance(messages, str) else messages
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ([PIC, text("What?")], "<image>\nWhat?"),
        ([PIC], "<image>\n"),
        ([text("What?"), PIC], "<image>\nWhat?"),  # as the models were trained
        ([text("What?"), text("And?"), PIC, PIC], "<image>\n<image>\nWhat?\nAnd?"),
        ([PIC, text("or"), PIC, text("?")], "<image>\nor\n<image>\n?"),
        ([text("First"), PIC, text("second"), PIC], "First\n<image>\nsecond\n<image>"),
    ],
)
def test_pictures_between_texts_keep_their_order(lay_out, content, shown):
    prompt, pictures = lay_out([("user", content)])
    assert f"USER: {shown} ASSISTANT:" in prompt
    assert len(pictures) == shown.count("<image>")


def test_pictures_stand_in_order_unless_the_text_places_them(lay_out):
    turns = [
        ("user", [text("What"), PIC, PIC, text("is it?")]),
        ("assistant", [text("A <image> of"), text("cats.")]),
        ("user", [text("Is <image> one too?"), PIC]),
    ]
    prompt, pictures = lay_out(turns)
    opening, _ = lay_out("Hi")[0].split("Hi")
    assert prompt == (
        f"{opening}What\n<image>\n<image>\nis it? ASSISTANT: A < image > of\ncats.</s>"
        "USER: Is <image> one too? ASSISTANT:"
    )
    assert pictures == (PIC["image_url"]["url"],) * 3


def test_turns_are_laid_out_as_a_session_lays_them_out(loaded, lay_out):
    session = Session(loaded())
    answers = [session.ask(text, do_sample=False, max_new_tokens=4) for text in ("What?", "Why so?")]
    turns = [("user", "What?"), ("assistant", answers[0]), ("user", "Why so?")]
    assert lay_out(turns)[0] == session.last.prompt


@pytest.mark.parametrize("empty", ["", None, [], [text("")], {}])
def test_an_empty_answer_of_the_history_is_written_as_one(lay_out, empty):
    turns = [("user", [text("What?"), PIC]), ("assistant", "SAID"), ("user", "Why so?")]
    expected = lay_out(turns)[0].replace("SAID", "")
    messages = said(turns)
    messages[1] = {"role": "assistant", "content": empty} if empty != {} else {"role": "assistant"}
    assert lay_out(messages)[0] == expected
    assert "ASSISTANT: </s>USER: Why so?" in expected


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("conv_mode", WITH_SYSTEM)
def test_a_system_message_takes_the_place_of_the_template_s(lay_out, conv_mode, role):
    plain, given = (
        lay_out([*system, ("user", "Hi")], conv_mode)[0] for system in ([], [(role, [text("Be"), text("brief.")])])
    )
    own = get_conversation(conv_mode).system.removeprefix("<|im_start|>system\n")
    assert plain.count(own) == 1
    assert given == plain.replace(own, "Be\nbrief.")


@pytest.mark.parametrize("conv_mode", WITHOUT_SYSTEM)
def test_a_template_without_a_system_message_refuses_one(lay_out, conv_mode):
    with pytest.raises(ChatError) as refused:
        lay_out([("system", "Be brief."), ("user", "Hi")], conv_mode)
    assert refused.value.param == "messages[0].role"


def test_a_chat_template_gets_the_system_message(checkpoints, tmp_path):
    tower = str(checkpoints().parent / "clip-vit-tiny-random")
    folder = copy_with(checkpoints(), tmp_path / "llava-tinyllama", mm_vision_tower=tower)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}")
    llava = load(folder)
    layout = Layout(llava.model.config, llava.template.conversation(), allow_urls=False)
    turns = [("system", "Be brief."), ("user", [text("Hi"), PIC]), ("assistant", "Ho"), ("user", "Well?")]
    assert layout.lay_out(read(turns).messages)[0] == (
        "[system: Be brief.][user: <image>\nHi][assistant: Ho][user: Well?]"
    )


def test_the_settings_of_a_request_are_its_own_and_else_the_model_s():
    default = Settings(16, 0.25, "vispruner", 3)
    for fields in ({}, {"visual_token_num": None, "mm_processor_kwargs": None}, {"mm_processor_kwargs": {}}):
        assert read(**fields).pruning(default) == default
    given = {"visual_token_num": 8, "important_ratio": 1, "pruning_method": "random"}
    halves = {"visual_token_num": 8, "mm_processor_kwargs": given}
    for fields in (given, {"mm_processor_kwargs": given}, halves):
        assert read(**fields).pruning(default) == Settings(8, 1, "random", 3)


def test_every_setting_may_be_given():
    given = {"visual_token_num": 8, "important_ratio": 0.1, "pruning_method": "random", "pruning_seed": 5}
    given |= {"budget_per": "image", "positions": "original"}
    assert given.keys() == set(SETTINGS)
    assert read(**given).pruning(Settings()) == Settings(**given)
    assert read(mm_processor_kwargs=given).pruning(Settings()) == Settings(**given)


def test_a_request_of_very_many_parts_is_refused_before_it_is_read():
    for body in (b'{"messages":[' + b"1," * 200_000 + b"1]}", b"{" + b'"a":1,' * 100_000 + b'"b":1}'):
        with pytest.raises(ChatError, match="quotes, commas and brackets") as refused:
            read_request(body)
        assert refused.value.status == 413


def test_what_changes_nothing_is_taken(lay_out):
    named = [{"role": "user", "content": "Hi", "name": "Al"}]
    assert lay_out(named) == lay_out("Hi")
    for detail in ("auto", "low", "high"):
        assert lay_out(picture_at(PIC["image_url"]["url"], detail=detail)) == lay_out([("user", [PIC])])
    harmless = {"n": 1, "logprobs": False, "tools": [], "tool_choice": "none", "presence_penalty": 0.0, "user": "me"}
    harmless |= {"response_format": {"type": "text"}, "frequency_penalty": None, "store": False}
    assert read(**harmless) == read()
    # As the openai package writes an answer that goes back as history.
    answer = {"role": "assistant", "content": "Ho", "refusal": None, "tool_calls": None, "annotations": []}
    turns = said([("user", "Hi"), ("assistant", "Ho"), ("user", "Well?")])
    assert read([turns[0], answer, turns[2]]) == read(turns)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"visual_token_nums": 16}, "visual_token_nums"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e-9}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 2.5}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": 0}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"often": 1}}, "stream_options.often"),
        ({"visual_token_num": 0}, "visual_token_num"),
        ({"visual_token_num": "16"}, "visual_token_num"),
        ({"visual_token_num": 16.0}, "visual_token_num"),
        ({"important_ratio": 1.5}, "important_ratio"),
        ({"pruning_method": "best"}, "pruning_method"),
        ({"pruning_method": ["none"]}, "pruning_method"),
        ({"pruning_seed": "5"}, "pruning_seed"),
        ({"budget_per": "picture"}, "budget_per"),
        ({"visual_token_num": 8, "pruning_method": "fastv", "budget_per": "image"}, "budget_per"),
        ({"mm_processor_kwargs": 16}, "mm_processor_kwargs"),
        ({"mm_processor_kwargs": {"size": 1}}, "mm_processor_kwargs.size"),
        ({"mm_processor_kwargs": {"visual_token_num": -1}}, "visual_token_num"),
        ({"visual_token_num": 8, "mm_processor_kwargs": {"visual_token_num": 16}}, "visual_token_num"),
    ],
)
def test_a_field_that_cannot_be_followed_is_refused_by_name(fields, param):
    with pytest.raises(ChatError) as refused:
        read(**fields).pruning(Settings())
    assert (refused.value.param, refused.value.status) == (param, 400)
    assert param in str(refused.value)


def test_a_method_in_a_file_is_the_owner_s_to_name(tmp_path):
    """A client that could name one would run code on the server."""
    mine = tmp_path / "mine.py"
    mine.write_text("def select(views, settings):\n    return views.keep_all()\n")
    asked = read(pruning_method=str(mine))
    with pytest.raises(ChatError) as refused:
        asked.pruning(Settings())
    assert refused.value.param == "pruning_method"
    own = Settings(8, pruning_method=str(mine))
    assert asked.pruning(own) == own


def picture_at(url, **more) -> list:
    return [("user", [{"type": "image_url", "image_url": {"url": url, **more}}])]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        (["Hi"], "messages[0]"),
        ([("robot", "Hi")], "messages[0].role"),
        ([("tool", "Hi")], "messages[0].role"),
        ([("system", "Hi")], "messages"),
        ([("assistant", "Hi")], "messages[0].role"),
        ([("user", "Hi"), ("user", "Ho")], "messages[1].role"),
        ([("user", "Hi"), ("system", "Ho")], "messages[1].role"),
        ([("user", "Hi"), ("assistant", "Ho")], "messages"),
        ([("user", " \n")], "messages[0].content"),
        ([("user", [])], "messages[0].content"),
        ([("user", None)], "messages[0].content"),
        ([("user", ["Hi"])], "messages[0].content[0]"),
        ([("user", [{"type": "input_audio"}])], "messages[0].content[0].type"),
        ([("user", [{"type": ["text"]}])], "messages[0].content[0].type"),
        ([("user", [{"type": "text", **PIC["image_url"]}])], "messages[0].content[0].url"),
        ([("user", [{"type": "text", "image_url": PIC["image_url"]}])], "messages[0].content[0]"),
        ([("user", "Is <image> one?")], "messages[0].content"),
        ([("user", [PIC, PIC, text("<image>")])], "messages[0].content"),
        ([("system", "See <image>"), ("user", "Hi")], "messages[0].content"),
        ([("system", [PIC]), ("user", "Hi")], "messages[0].content[0]"),
        ([("user", "Hi"), ("assistant", [PIC]), ("user", "Ho")], "messages[1].content[0]"),
        ([{"role": "user", "content": "Hi", "name": 5}], "messages[0].name"),
        (picture_at(None), "messages[0].content[0].image_url.url"),
        (picture_at(PIC["image_url"]["url"], detail="best"), "messages[0].content[0].image_url.detail"),
        (picture_at("https://example.com/a.png"), "messages[0].content[0]"),
        (picture_at("/etc/passwd"), "messages[0].content[0]"),
        (picture_at("file:///etc/passwd"), "messages[0].content[0]"),
    ],
)
def test_messages_that_cannot_be_laid_out_are_refused_by_place(lay_out, messages, param):
    with pytest.raises(ChatError) as refused:
        lay_out(messages)
    assert (refused.value.param, refused.value.status) == (param, 400)


def test_remote_pictures_are_taken_where_that_is_allowed(lay_out):
    for url in ("https://example.com/a.png", "HTTP://example.com/a.png", PIC["image_url"]["url"]):
        assert lay_out(picture_at(url), allow_urls=True)[1] == (url,)
    for url in ("ftp://example.com/a.png", "file:///etc/passwd", "/etc/passwd", "a.png", " http://example.com/a.png"):
        with pytest.raises(ChatError) as refused:
            lay_out(picture_at(url), allow_urls=True)
        assert refused.value.param == "messages[0].content[0]"
