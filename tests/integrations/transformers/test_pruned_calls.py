"""Everything that may be given to `generate` and `forward` of a pruned model, on hosts of different kinds."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from host_cases import CLOSE, IMAGE, batch, prompt
from kinds import BY_NAME, CACHE, GREEDY, answer
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from llava.errors import InputError
from llava.integrations.transformers import prune, unprune


def test_beams(pruned):
    case, model = pruned
    prompts = [prompt(case, 1), prompt(case, 2, pictures=2)]
    options = {"num_beams": 3, "num_return_sequences": 2}
    found = answer(model, batch(case, prompts), **options)
    assert found.shape == (4, 6)
    assert torch.equal(found, torch.cat([answer(model, one, **options) for one in prompts]))
    assert torch.equal(found, answer(model, batch(case, prompts), **options, use_cache=False))
    with torch.no_grad():  # the first beam is at least as likely as the greedy answer
        for row, one in enumerate(prompts):
            greedy = likelihood(model, one, answer(model, one)[0])
            assert likelihood(model, one, found[2 * row]) >= greedy - 1e-4


def with_text(inputs: dict, before: torch.Tensor | None = None, after: torch.Tensor | None = None) -> dict:
    """Inputs with (B, length) ids of text before and after theirs."""
    whole = dict(inputs)
    for name, fill in (("input_ids", None), ("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if name in inputs:
            parts = [text if fill is None or text is None else torch.full_like(text, fill) for text in (before, after)]
            parts.insert(1, inputs[name])
            whole[name] = torch.cat([part for part in parts if part is not None], dim=1)
    return whole


def likelihood(model, inputs: dict, tokens: torch.Tensor) -> float:
    """Log probability of an answer."""
    logits = model(**with_text(inputs, after=tokens[None])).logits[0, -len(tokens) - 1 : -1]
    return logits.log_softmax(dim=-1).gather(1, tokens[:, None]).sum().item()


def test_sampling_and_several_answers(pruned):
    case, model = pruned
    inputs = batch(case, [prompt(case, 1), prompt(case, 2, pictures=2)])
    options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 6}
    torch.manual_seed(5)
    output = model.generate(**inputs, **options)
    torch.manual_seed(5)
    assert torch.equal(model.generate(**inputs, **options, use_cache=False), output)
    assert output.shape[0] == 6
    assert torch.equal(output[:, : inputs["input_ids"].shape[1]], inputs["input_ids"].repeat_interleave(3, dim=0))


class Words(BaseStreamer):
    """A streamer that keeps what it is sent."""

    def __init__(self):
        self.sent, self.ended = [], False

    def put(self, value):
        self.sent.append(value)

    def end(self):
        self.ended = True


def test_a_streamer_gets_the_prompt_and_then_the_answer(pruned):
    case, model = pruned
    inputs, words = prompt(case, 1), Words()
    output = model.generate(**inputs, **GREEDY, streamer=words)
    assert words.ended
    assert torch.equal(words.sent[0], inputs["input_ids"])
    assert torch.equal(
        torch.cat([word.flatten() for word in words.sent[1:]]), output[0, inputs["input_ids"].shape[1] :]
    )


class StopAt(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


class Never(LogitsProcessor):
    """Notes the lengths that it sees, and forbids the token that stands first in the prompt's text."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append(input_ids.shape[1])
        return scores.index_fill(1, input_ids[0, -1:], -torch.inf)


def test_what_sees_the_sequences_sees_the_whole_prompt(llava):
    case, model = llava
    inputs, never, prefixes = prompt(case, 1), Never(), []
    length = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, do_sample=False, max_new_tokens=9, stopping_criteria=[StopAt(length + 4)])
    assert output.shape[1] == length + 4
    output = model.generate(**inputs, **GREEDY, logits_processor=[never])
    assert never.seen == list(range(length, length + 6))
    assert all(a != b for a, b in zip(output[0, length - 1 :], output[0, length:]))

    def allowed(row, ids):
        prefixes.append(ids.tolist())
        return [7, 8]

    output = model.generate(**inputs, **GREEDY, prefix_allowed_tokens_fn=allowed)
    assert prefixes[0] == inputs["input_ids"][0].tolist()
    assert set(output[0, length:].tolist()) <= {7, 8}


def test_lengths_count_the_whole_prompt(llava):
    case, model = llava
    inputs = prompt(case, 1)
    length = inputs["input_ids"].shape[1]
    assert model.generate(**inputs, do_sample=False, max_length=length + 3).shape[1] == length + 3
    config = transformers.GenerationConfig(max_length=length + 2, do_sample=False)
    assert model.generate(**inputs, generation_config=config).shape[1] == length + 2
    assert model.generate(**inputs, do_sample=False).shape[1] == length + 20
    eos = int(answer(model, inputs)[0, 0])
    assert answer(model, inputs, eos_token_id=eos).shape[1] == 1
    longer = model.generate(**inputs, do_sample=False, eos_token_id=eos, min_length=length + 4, max_length=length + 9)
    assert longer.shape[1] > length + 4


def test_ways_of_decoding_that_give_the_greedy_answer(pruned):
    case, model = pruned
    inputs = prompt(case, 2, pictures=2)
    expected = answer(model, inputs)
    assert torch.equal(answer(model, inputs, prompt_lookup_num_tokens=2), expected)
    assert torch.equal(answer(model, inputs, cache_implementation="static"), expected)
    output = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(output.sequences[:, inputs["input_ids"].shape[1] :], expected)
    assert len(output.scores) == 6
    model.set_attn_implementation("eager")
    assert torch.equal(answer(model, inputs), expected)


@torch.no_grad()
def test_decoding_by_hand(pruned):
    case, model = pruned
    inputs = batch(case, [prompt(case, 1), prompt(case, 2, pictures=2)])
    expected, mask = answer(model, inputs), inputs["attention_mask"]
    tokens, output = [], model(**inputs, use_cache=True)
    cache = output[CACHE]
    for _ in range(6):
        output.logits[:, -1, IMAGE] = -torch.inf
        tokens.append(output.logits[:, -1].argmax(dim=-1, keepdim=True))
        mask = torch.cat([mask, torch.ones_like(tokens[-1])], dim=1)
        output = model(input_ids=tokens[-1], attention_mask=mask, **{CACHE: cache})
    assert torch.equal(torch.cat(tokens, dim=1), expected)


@pytest.mark.parametrize("with_picture", [False, True])
def test_a_conversation_goes_on_in_its_cache(pruned, with_picture):
    case, model = pruned
    first, second = prompt(case, 1), prompt(case, 2, pictures=int(with_picture))
    cache = DynamicCache(config=model.config.get_text_config())
    said = model.generate(**first, **GREEDY, **{CACHE: cache})
    ids = torch.cat([said, second["input_ids"]], dim=1)
    whole = {**first, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    new = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name, value in second.items():
        if name in ("mm_token_type_ids", "token_type_ids"):
            kinds = torch.cat([first[name], torch.zeros(1, 6, dtype=value.dtype), value], dim=1)
            whole[name] = new[name] = kinds
        elif name not in ("input_ids", "attention_mask"):
            whole[name], new[name] = torch.cat([first[name], value]), value
    options = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    expected = torch.stack(model.generate(**whole, **options).logits)
    for given in (whole, new):  # all pictures are given again, or only the new one, if there is one
        found = model.generate(**given, **options, **{CACHE: copy.deepcopy(cache)})
        torch.testing.assert_close(torch.stack(found.logits), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.sequences[:, : ids.shape[1]], ids)


def test_conversations_of_a_batch_go_on_in_their_cache(pruned):
    case, model = pruned
    inputs = batch(case, [prompt(case, 1), prompt(case, 2, pictures=2)])
    cache = DynamicCache(config=model.config.get_text_config())
    said = model.generate(**inputs, **GREEDY, **{CACHE: cache})
    more = torch.randint(5, 90, (2, 5), generator=torch.Generator().manual_seed(4))
    whole = with_text(inputs, after=torch.cat([said[:, inputs["input_ids"].shape[1] :], more], dim=1))
    new = {name: whole[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(answer(model, new, **{CACHE: cache}), answer(model, whole))


def test_a_picture_behind_a_cache_that_others_made(pruned):
    case, model = pruned
    system = torch.randint(5, 90, (1, 7), generator=torch.Generator().manual_seed(9))
    cache = DynamicCache(config=model.config.get_text_config())
    model(input_ids=system, **{CACHE: cache})
    whole = with_text(prompt(case, 1), before=system)
    assert torch.equal(answer(model, whole, **{CACHE: cache}), answer(model, whole))


def test_a_cache_that_was_cut_inside_the_prompt_is_refused(llava):
    case, model = llava
    inputs, cache = prompt(case, 1), DynamicCache()
    model(**inputs, **{CACHE: cache})
    cache.crop(-8)
    with pytest.raises(InputError, match="the cache was cut inside its pruned prompt"):
        model(input_ids=inputs["input_ids"][:, -1:], **{CACHE: cache})


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_decoding_goes_on_from_the_last_position_of_the_full_grid(name):
    case = BY_NAME[name]
    model, inputs, seen = case.model(), prompt(case, 1), []
    ends = int((inputs["input_ids"][0] == CLOSE).nonzero()[-1]) + 1  # nothing follows the picture
    inputs = {
        key: value[:, :ends] if key in ("input_ids", "attention_mask", "mm_token_type_ids") else value
        for key, value in inputs.items()
    }
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"][-3:, 0, -1].tolist()), with_kwargs=True
    )
    model.generate(**inputs, **GREEDY)
    full, seen[:] = seen[1:], []
    answer(prune(model, 3), inputs)
    assert seen[1:] == full


def test_the_loss_is_that_of_the_answer(pruned):
    case, model = pruned
    prompts = [prompt(case, 1), prompt(case, 2, pictures=2)]
    losses = []
    for one in prompts:
        ids = one["input_ids"]
        logits = model(**one).logits[0, -5:-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, -4:]))
        labels = torch.full_like(ids, -100)
        labels[:, -4:] = ids[:, -4:]
        torch.testing.assert_close(model(**one, labels=labels).loss, losses[-1])
    inputs = batch(case, prompts)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -4:] = inputs["input_ids"][:, -4:]
    torch.testing.assert_close(model(**inputs, labels=labels).loss, torch.stack(losses).mean())


def test_prompts_padded_on_the_right(llava):
    case, model = llava
    prompts = [prompt(case, 1), prompt(case, 2, pictures=2)]
    left = batch(case, prompts)
    padding = int((left["attention_mask"][0] == 0).sum())
    right = {name: value.clone() for name, value in left.items()}
    for name in ("input_ids", "attention_mask"):
        right[name][0] = left[name][0].roll(-padding)
    alone = [model(**one).logits for one in prompts]
    logits = model(**right).logits
    for row, expected in enumerate(alone):
        torch.testing.assert_close(logits[row, : expected.shape[1]], expected[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(model.generate(**left, **GREEDY)[:, -6:], model.generate(**right, **GREEDY)[:, -6:])


def test_without_a_mask_pad_tokens_are_padding(pruned):
    case, model = pruned
    inputs = batch(case, [prompt(case, 1), prompt(case, 2, pictures=2)])
    expected = answer(model, inputs)
    del inputs["attention_mask"]
    assert torch.equal(answer(model, inputs), expected)


def test_prompts_without_pictures_are_left_alone(pruned):
    case, model = pruned
    inputs = prompt(case, 1, pictures=0)
    expected = unprune(case.model())
    assert torch.equal(model(**inputs).logits, expected(**inputs).logits)
    assert torch.equal(model.generate(**inputs, **GREEDY), expected.generate(**inputs, **GREEDY))


def test_calls_in_threads_do_not_disturb_one_another(llava):
    case, model = llava
    inputs = [prompt(case, seed) for seed in range(4)]
    expected = [answer(model, one, visual_token_num=2 + i) for i, one in enumerate(inputs)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: answer(model, inputs[i % 4], visual_token_num=2 + i % 4), range(20)))
    assert all(torch.equal(one, expected[i % 4]) for i, one in enumerate(found))
