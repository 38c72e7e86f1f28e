"""Conversations that go on in their cache, whatever was done to its rows, on every host."""

import copy
import pickle

import pytest
import torch
from host_cases import IMAGE, VIDEO, batch, each_host, kinds_of, prompt
from kinds import BY_NAME, CACHE
from transformers import DynamicCache, StaticCache

from llava.errors import InputError
from llava.integrations.transformers import prune

ANSWER = {"max_new_tokens": 2, "do_sample": False, "suppress_tokens": [IMAGE, VIDEO]}
LOGITS = {**ANSWER, "output_logits": True, "return_dict_in_generate": True}
KINDS = ("mm_token_type_ids", "token_type_ids")
KEEP_FIRST = """import torch


def select(views, settings):
    return views.keep(torch.arange(settings.visual_token_num).expand(len(views.features), -1))
"""


def new_cache(model) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config())


def go_on(case, inputs: dict, ids: torch.Tensor, mask: torch.Tensor | None = None) -> dict:
    """The inputs with other `ids`, whose first are those that they had, and then text."""
    made = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids) if mask is None else mask}
    for name in KINDS:
        if name in inputs:
            made[name] = kinds_of(case, ids)
    return made


def logits_of(model, inputs: dict, **options) -> torch.Tensor:
    """(B, steps, words)."""
    return torch.stack(model.generate(**inputs, **{**LOGITS, **options}).logits, dim=1)


def stored(cache):
    return pickle.loads(pickle.dumps(cache))


def chosen(cache):
    """As a user may do it without the cache's help."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[[1, 1, 0]], layer.values[[1, 1, 0]]


def moved(cache) -> None:
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)


ROWS = {
    "repeated": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
    "selected": (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    "chosen by hand": (chosen, [1, 1, 0]),
    "stored": (stored, [0, 1]),
}


QUESTIONS = [[11, 12, 13], [21], [31, 32, 33, 34], [41, 42]]


def check_rows(case, changes: dict, questions: list[list[int]] = QUESTIONS) -> None:
    """One row has two pictures, the other one: other numbers of dropped tokens. The questions have other lengths."""
    model = prune(case.model(), 3)
    prompts = [prompt(case, 1), prompt(case, 2, pictures=2)]
    inputs, cache = batch(case, prompts), new_cache(model)
    said = model.generate(**inputs, **ANSWER, **{CACHE: cache})
    for change, rows in changes.values():
        changed = copy.deepcopy(cache)
        changed = change(changed) or changed
        own = questions[: len(rows)]
        longest = max(map(len, own))
        asked = torch.tensor([[0] * (longest - len(question)) + question for question in own])
        mask = torch.cat([inputs["attention_mask"][rows], torch.ones(len(rows), 2).long(), (asked > 0).long()], dim=1)
        ids = torch.cat([said[rows], asked], dim=1)
        given = go_on(case, {name: inputs[name] for name in KINDS if name in inputs}, ids, mask)
        found = logits_of(model, given, **{CACHE: changed})
        for row, (i, question) in enumerate(zip(rows, own)):
            ids = torch.cat([prompts[i]["input_ids"], said[i : i + 1, -2:], torch.tensor([question])], dim=1)
            alone = logits_of(model, go_on(case, prompts[i], ids))
            torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-4)


@each_host
def test_rows_of_a_cache_may_be_reordered_and_repeated(case):
    if case.is_recurrent:  # transformers does not repeat the states of such layers
        changes = {"moved": (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0])}
        check_rows(case, changes, [[11, 12], [21, 22]])
        with pytest.raises(InputError, match="has layers that read padding after a cache"):
            check_rows(case, changes)
    else:
        check_rows(case, {"moved": (moved, [1, 1, 0, 0])})


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_rows_of_a_cache_are_known_whatever_was_done_to_them(name):
    check_rows(BY_NAME[name], ROWS)


class Watch:
    """Which positions the language model is given, and how often the tower runs."""

    def __init__(self, case, model) -> None:
        self.positions, self.encoded = [], 0
        language_model, tower = (model.get_submodule(name) for name in (case.language_model, case.tower))
        language_model.register_forward_pre_hook(self.note, with_kwargs=True)
        tower.register_forward_pre_hook(self.count)

    def note(self, module, args, kwargs) -> None:
        given = kwargs["position_ids"]
        self.positions.append(given[-3:, 0] if given.ndim == 3 else given)

    def count(self, module, args) -> None:
        self.encoded += 1


def joined(case, turns: list[dict]) -> dict:
    """The pictures of all turns, as their processor would give them for one prompt."""
    names = {name for turn in turns for name in turn} - {"input_ids", "attention_mask", *KINDS}
    across = 1 if case.model_class.startswith(("Idefics", "SmolVLM")) else 0
    return {name: torch.cat([turn[name] for turn in turns if name in turn], dim=across) for name in names}


TURNS = ("absent", "whole", "pruned", "absent", "pruned", "whole", "absent")  # each after each other


def numbered(is_kept: torch.BoolTensor, is_visual: torch.BoolTensor, positions: str) -> list[int]:
    """The positions of the tokens that are kept (length,), of all that were written."""
    if positions == "renumbered":
        return list(range(int(is_kept.sum())))
    found, start = [], 0
    for column, (keeps, visual) in enumerate(zip(is_kept.tolist(), is_visual.tolist())):
        if not visual or positions == "original":
            start = column
        if keeps:
            found.append(start if visual and positions == "after" else column)
        if keeps or not visual:  # the first placeholder after a word stands behind it, kept or not
            start += 1
    return found


@each_host
@pytest.mark.parametrize("positions", ["renumbered", "original", "after"])
def test_positions_are_those_of_the_whole_conversation(case, positions, tmp_path):
    """All pictures are given again each turn, and only the new ones are encoded."""
    method = tmp_path / "keep_first.py"
    method.write_text(KEEP_FIRST, encoding="utf-8")
    if case.has_axes and positions == "after":
        with pytest.raises(InputError, match=r"^positions: tokens of (Qwen|Glm)\w+ keep their own"):
            prune(case.model(), 3, positions=positions)
        return
    model = prune(case.model(), 3, pruning_method=str(method), positions=positions)
    watch, cache, turns = Watch(case, model), new_cache(model), []
    ids, kept = torch.zeros(1, 0, dtype=torch.long), []
    for i, kind in enumerate(TURNS):
        turns.append(prompt(case, i, pictures=int(kind != "absent"), text=2))
        own = turns[-1]["input_ids"]
        keep = torch.ones(own.shape[1], dtype=torch.bool)
        if kind == "pruned":
            columns = ((own == IMAGE) | (own == VIDEO))[0].nonzero().flatten()[case.places()]
            keep[columns[:, 3:]] = False
        kept += [keep, torch.ones(2, dtype=torch.bool)]
        whole = torch.cat([ids, own], dim=1)
        given = go_on(case, {name: None for name in KINDS if name in turns[-1]} | joined(case, turns), whole)
        watch.encoded = 0
        ids = model.generate(
            **given, **ANSWER, **{CACHE: cache}, **({"visual_token_num": None} if kind == "whole" else {})
        )
        assert watch.encoded <= (0 if kind == "absent" else case.crops)
    is_kept = torch.cat(kept)[:-1]  # the last word is not in the cache
    found = torch.cat(watch.positions, dim=-1)
    if not case.has_axes:
        first = int(case.name == "paligemma")  # counts from 1
        is_visual = ((ids == IMAGE) | (ids == VIDEO))[0, :-1]
        assert found.tolist() == [[first + place for place in numbered(is_kept, is_visual, positions)]]
        return
    given = joined(case, turns)
    grids = {name: value for name, value in given.items() if name.endswith("grid_thw")}
    expected, _ = model.model.get_rope_index(ids, mm_token_type_ids=kinds_of(case, ids), **grids)
    assert torch.equal(found, expected[:, 0, :-1][:, is_kept])


def cut(cache) -> None:
    cache.crop(-8)


def rebuilt(cache) -> DynamicCache:
    return DynamicCache([(layer.keys, layer.values) for layer in cache.layers])


def scaled(cache) -> None:
    for layer in cache.layers:
        layer.keys = layer.keys * 2


def with_others_row(cache) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = (torch.cat([own, own.roll(1, dims=2)]) for own in (layer.keys, layer.values))


REFUSED = {
    "cut inside the picture": (cut, 1, "the cache was cut inside its pruned prompt"),
    "rebuilt from its tensors": (rebuilt, 1, "the cache does not tell what was dropped"),
    "keys that are others": (scaled, 1, "has rows that it did not have"),
    "a row of another cache": (with_others_row, 2, "has rows that it did not have"),
    "more rows than prompts": (lambda cache: cache.batch_repeat_interleave(3), 2, r"has 3 row\(s\) for 2 prompt\(s\)"),
}


@pytest.mark.parametrize("change, prompts, reason", REFUSED.values(), ids=REFUSED)
def test_a_cache_that_does_not_tell_is_refused(pruned, change, prompts, reason):
    case, model = pruned
    inputs, cache = prompt(case, 1, text=2), new_cache(model)
    said = model.generate(**inputs, **ANSWER, **{CACHE: cache})
    ids = torch.cat([said, torch.full((1, 40), 9)], dim=1).expand(prompts, -1)
    cache = change(cache) or cache
    given = go_on(case, {name: None for name in KINDS if name in inputs}, ids)
    with pytest.raises(InputError, match=reason):
        model.generate(**given, **ANSWER, **{CACHE: cache})


def test_a_rebuilt_cache_is_refused_step_by_step(pruned):
    case, model = pruned
    inputs = prompt(case, 1)
    cache = rebuilt(model(**inputs)[CACHE])
    mask = torch.ones(1, inputs["input_ids"].shape[1] + 1)
    with pytest.raises(InputError, match="but attention_mask"):
        model(input_ids=torch.tensor([[7]]), attention_mask=mask, **{CACHE: cache})


def test_rows_of_different_prompts_are_not_one_prompt(pruned):
    case, model = pruned
    inputs, cache = batch(case, [prompt(case, 1), prompt(case, 2)]), new_cache(model)
    said = model.generate(**inputs, **ANSWER, **{CACHE: cache})
    ids = torch.cat([said[:1], torch.tensor([[9]])], dim=1)
    given = go_on(case, {name: None for name in KINDS if name in inputs}, ids)
    with pytest.raises(InputError, match=r"rows of different prompts for one of the 1 prompt"):
        model.generate(**given, **ANSWER, num_beams=2, **{CACHE: cache})


@each_host
def test_a_question_is_cut_off_and_another_one_asked(case):
    model = prune(case.model(), 3)
    inputs, cache = prompt(case, 1, text=6), new_cache(model)
    model.generate(**inputs, **ANSWER, **{CACHE: cache})
    if case.is_recurrent:
        with pytest.raises(RuntimeError):  # of transformers
            cache.crop(-5)
        return
    cache.crop(-5)  # the answer's first word, and four of the question
    ids = torch.cat([inputs["input_ids"][:, :-4], torch.tensor([[61, 62, 63]])], dim=1)
    asked = go_on(case, inputs, ids)
    only_text = {name: asked[name] for name in ("input_ids", "attention_mask", *KINDS) if name in asked}
    expected = logits_of(model, asked)
    torch.testing.assert_close(logits_of(model, only_text, **{CACHE: cache}), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_a_cache_is_used_again(pruned, kind):
    """After `reset` it holds nothing of what it held."""
    case, model = pruned
    config = model.config.get_text_config()
    cache = StaticCache(config=config, max_cache_len=128) if kind == "static" else DynamicCache(config=config)
    for seed in (1, 2):
        inputs = prompt(case, seed, pictures=seed)
        said = model.generate(**inputs, **ANSWER, **{CACHE: cache})
        more = go_on(case, inputs, torch.cat([said, torch.tensor([[31, 32, 33]])], dim=1))
        torch.testing.assert_close(
            logits_of(model, more, **{CACHE: cache}), logits_of(model, more), rtol=1e-4, atol=1e-4
        )
        cache.reset()
        if kind == "dynamic" and any(layer.keys is not None for layer in cache.layers):
            pytest.skip("this release of transformers fills a dynamic cache with zeros instead")


def test_an_answer_whose_end_is_masked_has_no_positions(pruned):
    """In a batch, shorter answers end with padding."""
    case, model = pruned
    inputs, cache = prompt(case, 1), new_cache(model)
    said = model.generate(**inputs, **{**ANSWER, "max_new_tokens": 4}, **{CACHE: cache})
    ids = torch.cat([said, torch.tensor([[31, 32, 33]])], dim=1)
    mask = torch.ones_like(ids)
    mask[:, said.shape[1] - 2 : said.shape[1]] = 0
    short = go_on(case, inputs, ids[mask.bool()][None])
    found = logits_of(model, go_on(case, inputs, ids, mask), **{CACHE: cache})
    torch.testing.assert_close(found, logits_of(model, short), rtol=1e-4, atol=1e-4)


@each_host
def test_a_cache_that_was_filled_before_the_model_was_pruned(case):
    """It has the whole picture of the first turn, of which the second one is pruned."""
    model = case.model()
    first, second = prompt(case, 1), prompt(case, 2)
    filled_by_pruned, filled = new_cache(model), new_cache(model)
    said = model.generate(**first, **ANSWER, **{CACHE: filled})
    prune(model, 3)
    assert torch.equal(model.generate(**first, **ANSWER, visual_token_num=None, **{CACHE: filled_by_pruned}), said)
    ids = torch.cat([said, second["input_ids"]], dim=1)
    given = go_on(case, {name: None for name in KINDS if name in first} | joined(case, [first, second]), ids)
    expected = logits_of(model, given, **{CACHE: filled_by_pruned})
    if case.is_recurrent:  # its first layer has no keys that would show it
        with pytest.raises(InputError, match="the cache does not tell what was dropped"):
            model.generate(**given, **ANSWER, **{CACHE: filled})
    else:
        torch.testing.assert_close(logits_of(model, given, **{CACHE: filled}), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen2_vl video", "qwen2_5_vl video", "qwen3_vl video"])
def test_a_video_whose_time_goes_farther_than_its_grid(name):
    """What follows it is counted on from the grid, not from the highest position."""
    case, steps = BY_NAME[name], 12
    model, grid = case.model(), torch.tensor([[steps, 2, 4]])
    words = [word for _ in range(steps) for word in (20, VIDEO, VIDEO)] if "3" in name else [VIDEO] * 2 * steps
    long = {"pixel_values_videos": torch.randn(steps * 8, 3 * 2 * 14 * 14), "video_grid_thw": grid}
    turns = [{"input_ids": torch.tensor([[1, 7, *words, 9, 10]]), **long}, prompt(case, 1, pictures=0),
             prompt(BY_NAME[name.removesuffix(" video")], 2)]  # fmt: skip
    watch, cache, ids = Watch(case, prune(model, 12)), new_cache(model), torch.zeros(1, 0).long()
    for i, turn in enumerate(turns):  # the first turn is the model's own
        ids = torch.cat([ids, turn["input_ids"]], dim=1)
        given = go_on(case, {"mm_token_type_ids": None} | joined(case, turns[: i + 1]), ids)
        ids = model.generate(**given, **ANSWER, **{CACHE: cache})
    kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    grids = {name: value for name, value in given.items() if name.endswith("grid_thw")}
    expected, _ = model.model.get_rope_index(ids, mm_token_type_ids=kinds, **grids)
    assert torch.equal(torch.cat(watch.positions, dim=1), expected[:, 0, :-1])


def test_pictures_side_by_side_are_two_and_tiles_of_one_are_one(tmp_path):
    """`after` numbers the tokens of each picture from where it begins unpruned."""
    method = tmp_path / "keep_first.py"
    method.write_text(KEEP_FIRST, encoding="utf-8")
    for name, starts in (("llava", [0, 16]), ("internvl", [0, 3])):  # InternVL's picture has two tiles of 16
        case = BY_NAME[name]
        model = prune(case.model(), 3, pruning_method=str(method), positions="after")
        watch, inputs = Watch(case, model), prompt(case, 1, pictures=2 if name == "llava" else 1)
        ids = [token for token in inputs["input_ids"][0].tolist() if token == IMAGE]
        inputs["input_ids"] = torch.tensor([[1, *ids, 9, 10]])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        model(**inputs)
        expected = [0, *(1 + start + i for start in starts for i in range(3)), 33, 34]
        assert watch.positions[0].tolist() == [expected]
