"""What a chat request becomes: the prompt in the model's template, its settings, and what is refused by name."""

import json
import shutil

import pytest

from llava.conversation import conv_templates, get_conversation
from llava.inference import Session
from llava.pruning import Settings
from llava.serve.chat_messages import ChatError
from llava.serve.chat_request import ChatReader, Sampling
from tests.conftest import load

PIC = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
WITH_SYSTEM = sorted(name for name, template in conv_templates.items() if template.system)
WITHOUT_SYSTEM = sorted(conv_templates.keys() - WITH_SYSTEM)


@pytest.fixture
def model(loaded):
    return loaded()[1]


@pytest.fixture
def read(model):
    """read(messages, **fields) -> the question of such a request."""
    reader = ChatReader(model, "tiny", None, allow_urls=False)
    return lambda messages="Hi", **fields: reader.read({"messages": said(messages), **fields})


def said(messages) -> list:
    """Messages written short: (role, content) pairs, or the user's text alone."""
    if not isinstance(messages, str) and not (messages and isinstance(messages[0], tuple)):
        return messages
    pairs = [("user", messages)] if isinstance(messages, str) else messages
    return [{"role": role, "content": content} for role, content in pairs]


def text(text: str) -> dict:
    return {"type": "text", "text": text}


def test_pictures_stand_in_front_of_the_text_unless_it_places_them(read):
    turns = [
        ("user", [text("What"), PIC, PIC, text("is it?")]),
        ("assistant", [text("A <image> of"), text("cats.")]),
        ("user", [text("Is <image> one too?"), PIC]),
    ]
    question = read(turns)
    opening, _ = read("Hi").request.prompt.split("Hi")
    assert question.request.prompt == (
        f"{opening}<image>\n<image>\nWhat\nis it? ASSISTANT: A < image > of\ncats.</s>"
        "USER: Is <image> one too? ASSISTANT:"
    )
    assert question.request.images == (PIC["image_url"]["url"],) * 3


def test_turns_are_laid_out_as_a_session_lays_them_out(loaded, read):
    session = Session(loaded())
    answers = [session.ask(text, do_sample=False, max_new_tokens=4) for text in ("What?", "Why so?")]
    turns = [("user", "What?"), ("assistant", answers[0]), ("user", "Why so?")]
    assert read(turns).request.prompt == session.last.prompt


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("conv_mode", WITH_SYSTEM)
def test_a_system_message_takes_the_place_of_the_template_s(model, conv_mode, role):
    reader = ChatReader(model, "tiny", conv_mode, allow_urls=False)
    plain, given = (
        reader.read({"messages": said([*system, ("user", "Hi")])}).request.prompt
        for system in ([], [(role, [text("Be"), text("brief.")])])
    )
    own = get_conversation(conv_mode).system.removeprefix("<|im_start|>system\n")
    assert plain.count(own) == 1
    assert given == plain.replace(own, "Be\nbrief.")


@pytest.mark.parametrize("conv_mode", WITHOUT_SYSTEM)
def test_a_template_without_a_system_message_refuses_one(model, conv_mode):
    reader = ChatReader(model, "tiny", conv_mode, allow_urls=False)
    with pytest.raises(ChatError, match="has no system message") as refused:
        reader.read({"messages": said([("system", "Be brief."), ("user", "Hi")])})
    assert refused.value.param == "messages[0].role"


def test_a_chat_template_gets_the_system_message(checkpoints, tmp_path):
    folder = tmp_path / "llava-tinyllama"
    shutil.copytree(checkpoints(), folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps(config | {"mm_vision_tower": str((checkpoints() / config["mm_vision_tower"]).resolve())})
    )
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}")
    reader = ChatReader(load(folder)[1], "tiny", None, allow_urls=False)
    turns = [("system", "Be brief."), ("user", [text("Hi"), PIC]), ("assistant", "Ho"), ("user", "Well?")]
    assert reader.read({"messages": said(turns)}).request.prompt == (
        "[system: Be brief.][user: <image>\nHi][assistant: Ho][user: Well?]"
    )


def test_the_settings_of_a_request_are_its_own_and_else_the_model_s(model):
    model.pruning = Settings(16, 0.25, "vispruner", 3)
    try:
        reader = ChatReader(model, "tiny", None, allow_urls=False)
    finally:
        model.pruning = Settings()
    for fields in ({}, {"visual_token_num": None, "mm_processor_kwargs": None}, {"mm_processor_kwargs": {}}):
        assert reader.read({"messages": said("Hi"), **fields}).request.pruning == Settings(16, 0.25, "vispruner", 3)
    given = {"visual_token_num": 8, "important_ratio": 1, "pruning_method": "random"}
    halves = {"visual_token_num": 8, "mm_processor_kwargs": given}
    for fields in (given, {"mm_processor_kwargs": given}, halves):
        pruning = reader.read({"messages": said("Hi"), **fields}).request.pruning
        assert pruning == Settings(8, 1, "random", 3)


def test_sampling_is_the_request_s_the_checkpoint_s_or_openai_s(model):
    def sampling(defaults: dict, **fields) -> Sampling:
        model.sampling_defaults = defaults
        return ChatReader(model, "tiny", None, allow_urls=False).read({"messages": said("Hi"), **fields}).sampling

    before = model.sampling_defaults
    try:
        assert sampling({}) == Sampling(1.0, 1.0, 0, None)
        assert sampling({"temperature": 0.9, "top_p": 0.6, "top_k": 20}) == Sampling(0.9, 0.6, 20, None)
        asked = {"temperature": 0, "top_p": 1, "seed": 5}
        assert sampling({"temperature": 0.9, "top_p": 0.6}, **asked) == Sampling(0, 1, 0, 5)
    finally:
        model.sampling_defaults = before


def test_what_changes_nothing_is_taken(read):
    harmless = {"n": 1, "logprobs": False, "tools": [], "tool_choice": "none", "presence_penalty": 0.0, "user": "me"}
    harmless |= {"response_format": {"type": "text"}, "frequency_penalty": None, "store": False, "model": "tiny"}
    assert read(**harmless) == read()
    # As the openai package writes an answer that goes back as history.
    answer = {"role": "assistant", "content": "Ho", "refusal": None, "tool_calls": None, "annotations": []}
    turns = said([("user", "Hi"), ("assistant", "Ho"), ("user", "Well?")])
    assert read([turns[0], answer, turns[2]]) == read(turns)


@pytest.mark.parametrize(
    ("fields", "param", "named"),
    [
        ({"n": 2}, "n", "n is not offered"),
        ({"logprobs": True}, "logprobs", "logprobs is not offered"),
        ({"top_logprobs": 3}, "top_logprobs", "top_logprobs is not offered"),
        ({"tools": [{"type": "function"}]}, "tools", "tools is not offered"),
        ({"response_format": {"type": "json_object"}}, "response_format", "response_format is not offered"),
        ({"presence_penalty": 0.5}, "presence_penalty", "presence_penalty is not offered"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "logit_bias is not offered"),
        ({"skip_special_tokens": False}, "skip_special_tokens", "skip_special_tokens is not offered"),
        ({"visual_token_nums": 16}, "visual_token_nums", "visual_token_nums is not offered"),
        ({"temperature": -1}, "temperature", "temperature must be 0"),
        ({"temperature": 1e-9}, "temperature", "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature", "temperature must be 0"),
        ({"temperature": 10**400}, "temperature", "temperature must be 0"),
        ({"temperature": "hot"}, "temperature", "temperature must be a number"),
        ({"temperature": True}, "temperature", "temperature must be a number"),
        ({"top_p": 0}, "top_p", r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p", r"top_p must be in \(0, 1\]"),
        ({"seed": 1.5}, "seed", "seed must be an integer"),
        ({"seed": 2**63}, "seed", "seed must be an integer of 64 bits"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be an integer of at least 1"),
        ({"max_completion_tokens": 2.5}, "max_completion_tokens", "max_completion_tokens must be an integer"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "differ"),
        ({"stop": ""}, "stop", "stop must be a text"),
        ({"stop": 0}, "stop", "stop must be a text"),
        ({"stop": ["a"] * 17}, "stop", "up to 16"),
        ({"stream": "yes"}, "stream", "stream must be true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "goes with stream alone"),
        ({"stream": True, "stream_options": {"include_usage": 3}}, "stream_options", "include_usage must be"),
        ({"stream": True, "stream_options": {"often": 1}}, "stream_options.often", "often is not offered"),
        ({"visual_token_num": 0}, "visual_token_num", "visual_token_num must be at least 1, got 0"),
        ({"visual_token_num": "16"}, "visual_token_num", "visual_token_num must be an integer, got '16'"),
        ({"visual_token_num": 16.0}, "visual_token_num", "visual_token_num must be an integer, got 16.0"),
        ({"important_ratio": 1.5}, "important_ratio", r"important_ratio must be a number in \[0, 1\]"),
        ({"pruning_method": "best"}, "pruning_method", "pruning_method must be one of vispruner, none"),
        ({"pruning_method": ["none"]}, "pruning_method", "pruning_method must be one of"),
        ({"mm_processor_kwargs": 16}, "mm_processor_kwargs", "must be an object"),
        ({"mm_processor_kwargs": {"size": 1}}, "mm_processor_kwargs.size", "size is not offered"),
        ({"mm_processor_kwargs": {"visual_token_num": -1}}, "visual_token_num", "at least 1, got -1"),
        ({"visual_token_num": 8, "mm_processor_kwargs": {"visual_token_num": 16}}, "visual_token_num", "differ"),
    ],
)
def test_a_field_that_cannot_be_followed_is_refused_by_name(read, fields, param, named):
    with pytest.raises(ChatError, match=named) as refused:
        read(**fields)
    assert (refused.value.param, refused.value.status) == (param, 400)


def test_a_method_in_a_file_is_the_owner_s_to_name(model, tmp_path):
    """A client that could name one would run code on the server."""
    mine = tmp_path / "mine.py"
    mine.write_text("def select(views, settings):\n    return views.keep_all()\n")
    asked = {"messages": said("Hi"), "pruning_method": str(mine)}
    with pytest.raises(ChatError, match="pruning_method must be one of"):
        ChatReader(model, "tiny", None, allow_urls=False).read(asked)
    model.pruning = Settings(8, pruning_method=str(mine))
    try:
        reader = ChatReader(model, "tiny", None, allow_urls=False)
    finally:
        model.pruning = Settings()
    assert reader.read(asked).request.pruning == Settings(8, pruning_method=str(mine))


def picture_at(url, **more) -> list:
    return [("user", [{"type": "image_url", "image_url": {"url": url, **more}}])]


@pytest.mark.parametrize(
    ("messages", "param", "named"),
    [
        (None, "messages", "a list of at least one message"),
        ([], "messages", "a list of at least one message"),
        (["Hi"], "messages[0]", r"messages\[0\] must be an object"),
        ([("robot", "Hi")], "messages[0].role", "role must be system, user or assistant"),
        ([("tool", "Hi")], "messages[0].role", "role must be system, user or assistant"),
        ([("system", "Hi")], "messages", "must end with one of the user"),
        ([("assistant", "Hi")], "messages[0].role", "must be 'user'"),
        ([("user", "Hi"), ("user", "Ho")], "messages[1].role", "must be 'assistant'"),
        ([("user", "Hi"), ("system", "Ho")], "messages[1].role", "must be 'assistant'"),
        ([("user", "Hi"), ("assistant", "Ho")], "messages", "must end with one of the user"),
        ([("user", " \n")], "messages[0].content", "the message is empty"),
        ([("user", [])], "messages[0].content", "the message is empty"),
        ([("user", "Hi"), ("assistant", ""), ("user", "Ho")], "messages[1].content", "the message is empty"),
        ([("user", None)], "messages[0].content", "must be a string or a list of parts"),
        ([("user", ["Hi"])], "messages[0].content[0]", "must be of type 'text' or 'image_url'"),
        ([("user", [{"type": "input_audio"}])], "messages[0].content[0]", "must be of type 'text' or 'image_url'"),
        ([("user", [{"type": ["text"]}])], "messages[0].content[0]", "must be of type 'text' or 'image_url'"),
        ([("user", "Is <image> one?")], "messages[0].content", r"0 image\(s\) for 1 <image>"),
        ([("user", [PIC, PIC, text("<image>")])], "messages[0].content", r"2 image\(s\) for 1 <image>"),
        ([("system", "See <image>"), ("user", "Hi")], "messages[0].content", r"0 image\(s\) for 1 <image>"),
        ([("system", [PIC]), ("user", "Hi")], "messages[0].content[0]", "only messages of the user"),
        ([("user", "Hi"), ("assistant", [PIC]), ("user", "Ho")], "messages[1].content[0]", "only messages of the user"),
        ([{"role": "user", "content": "Hi", "name": "Al"}], "messages[0].name", "name is not offered"),
        (picture_at(None), "messages[0].content[0]", "must be an object with a text `url`"),
        (
            picture_at(PIC["image_url"]["url"], detail="low"),
            "messages[0].content[0].detail",
            "detail can only be 'auto'",
        ),
        (picture_at("https://example.com/a.png"), "messages[0].content[0]", "fetches no remote pictures"),
        (picture_at("/etc/passwd"), "messages[0].content[0]", "pictures are given as data: URLs"),
        (picture_at("file:///etc/passwd"), "messages[0].content[0]", "pictures are given as data: URLs"),
    ],
)
def test_messages_that_cannot_be_laid_out_are_refused_by_place(read, messages, param, named):
    with pytest.raises(ChatError, match=named) as refused:
        read(messages)
    assert (refused.value.param, refused.value.status) == (param, 400)


def test_remote_pictures_are_taken_where_that_is_allowed(model):
    reader = ChatReader(model, "tiny", None, allow_urls=True)
    for url in ("https://example.com/a.png", "HTTP://example.com/a.png", PIC["image_url"]["url"]):
        assert reader.read({"messages": said(picture_at(url))}).request.images == (url,)
    for url in ("ftp://example.com/a.png", "file:///etc/passwd", "/etc/passwd", "a.png", " http://example.com/a.png"):
        with pytest.raises(ChatError, match="pictures are given as data:, http and https URLs"):
            reader.read({"messages": said(picture_at(url))})


def test_another_model_is_not_there(read):
    with pytest.raises(ChatError, match="the model 'gpt-4o' does not exist: this server has 'tiny'") as refused:
        read(model="gpt-4o")
    assert (refused.value.param, refused.value.code, refused.value.status) == ("model", "model_not_found", 404)
