"""Settings of one call, what a call is refused, and prompts that continue on a KV cache."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.pruning import Settings
from llava.pruning.kv_cache import CACHE, cache_in
from llava.vision.pixels import process_images
from tests.conftest import picture

PROMPT = torch.tensor([[1, 20, IMAGE_TOKEN_INDEX, 30, 40, 50]])
FAMILIES = [("v1.5", "llama"), ("v1.5", "mistral"), ("v1.6", "qwen")]


def test_settings_of_a_call_hold_for_that_call_alone(model_and_image):
    model, image = model_and_image
    for given in ({"visual_token_num": 8}, {"pruning": Settings(8)}):
        assert model(PROMPT, **image, **given).logits.shape[1] == 5 + 8
        assert model(PROMPT, **image).logits.shape[1] == 5 + 144
    model.visual_token_num = 16
    assert model(PROMPT, **image, visual_token_num=None).logits.shape[1] == 5 + 144
    assert model(PROMPT, **image, pruning_method="none").logits.shape[1] == 5 + 144
    assert model.pruning == Settings(16)
    of_the_model = model.generate(PROMPT, **image, do_sample=False, max_new_tokens=6)
    model.visual_token_num = None
    of_the_call = model.generate(PROMPT, **image, do_sample=False, max_new_tokens=6, visual_token_num=16)
    assert of_the_call.tolist() == of_the_model.tolist()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"visual_token_num": 0}, "at least 1"),
        ({"important_ratio": 2}, "important_ratio"),
        ({"pruning_method": "tome"}, "pruning_method must be one of"),
        ({"pruning_seed": 0.5}, "pruning_seed must be an integer"),
        ({"pruning_seed": "x"}, "pruning_seed must be an integer"),
    ],
)
def test_impossible_settings_of_a_call_are_named(model_and_image, given, named):
    model, image = model_and_image
    with pytest.raises(ValueError, match=named):
        model.generate(PROMPT, **image, max_new_tokens=1, **given)


@pytest.mark.parametrize("compile_decoding", [False, True])
def test_threads_with_different_settings_do_not_disturb_each_other(model_and_image, compile_decoding):
    model, image = model_and_image
    settings = [Settings(n, ratio) for n in (4, 16, 60) for ratio in (0.0, 1.0)]
    settings += [Settings(16, pruning_method="fastv")]
    model.compile_decoding = compile_decoding

    def answer(pruning: Settings) -> tuple:
        options = {"do_sample": False, "max_new_tokens": 8, "return_dict_in_generate": True, "output_logits": True}
        output = model.generate(PROMPT, **image, pruning=pruning, **options)
        return output.sequences.tolist(), torch.stack(output.logits)

    try:
        alone = [answer(pruning) for pruning in settings]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(answer, settings * 3))
    finally:
        model.compile_decoding = False
    for i, (ids, logits) in enumerate(together):
        assert ids == alone[i % len(settings)][0]
        torch.testing.assert_close(logits, alone[i % len(settings)][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_loss_with_a_method_that_prunes_in_the_decoder_is_refused(model_and_image, training):
    model, image = model_and_image
    labels = PROMPT.clone().clamp(min=IGNORE_INDEX)
    model.train(training)
    try:
        with pytest.raises(InputError, match="fastv drops tokens on the way: there is no loss with labels"):
            model(PROMPT, labels=labels, **image, visual_token_num=16, pruning_method="fastv")
    finally:
        model.eval()


def test_a_call_with_labels_leaves_nothing_to_the_next(loaded):
    """Once a call with labels left the mask of the call before, which fastv then applied to another prompt."""
    _, model, image_processor, _ = loaded()
    pixels = process_images([picture(seed=i) for i in range(2)], image_processor, model.config)
    fastv = Settings(16, pruning_method="fastv")
    expected = model.generate(PROMPT, images=pixels[:1], pruning=fastv, do_sample=False, max_new_tokens=8)
    state = dict(vars(model))
    two = torch.tensor([[1, IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, 7]])
    model(two, images=pixels, labels=torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 7]]))
    again = model.generate(PROMPT, images=pixels[:1], pruning=fastv, do_sample=False, max_new_tokens=8)
    assert again.tolist() == expected.tolist()
    assert dict(vars(model)) == state


@pytest.mark.parametrize(("version", "language_model"), FAMILIES)
@pytest.mark.parametrize("masked", ["no mask", "mask of the ids", "mask of everything"])
def test_an_image_behind_a_cache_gets_the_positions_behind_it(loaded, version, language_model, masked):
    _, model, image_processor, _ = loaded(version, language_model)
    image = picture(200, 150, 5)
    given = {"images": process_images([image], image_processor, model.config), "image_sizes": [image.size]}
    before = torch.tensor([[1, 11, 12, 13]])
    expected = model(torch.cat([before, PROMPT[:, 1:]], dim=1), **given, visual_token_num=16).logits[0, -1]

    cache = cache_in(model(before, use_cache=True))
    mask = {"mask of the ids": torch.ones(1, 5), "mask of everything": torch.ones(1, 4 + 5)}
    if masked in mask:
        given["attention_mask"] = mask[masked].long()
    ours = model(PROMPT[:, 1:], **given, visual_token_num=16, **{CACHE: cache}).logits[0, -1]
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_position_ids_are_heeded_whether_of_the_ids_or_of_the_embeddings(model_and_image):
    model, image = model_and_image
    plain = model(PROMPT, **image).logits[0, -1]
    ids, embeds = torch.arange(6).unsqueeze(0), torch.arange(5 + 144).unsqueeze(0)
    for given in (ids, embeds):
        torch.testing.assert_close(model(PROMPT, **image, position_ids=given).logits[0, -1], plain)
    spread = torch.cat([embeds[:, :-1], embeds[:, -1:] + 30], dim=1)
    moved = model(PROMPT, **image, position_ids=spread).logits[0, -1]
    same = model(PROMPT, **image, position_ids=torch.cat([ids[:, :-1], ids[:, -1:] + 30], dim=1)).logits[0, -1]
    torch.testing.assert_close(moved, same)
    assert (moved - plain).abs().max() > 1e-3


def test_what_would_be_ignored_is_refused(model_and_image):
    model, image = model_and_image
    embeds = model.embed_prompts(PROMPT, None, None, image["images"], None, "left").inputs_embeds
    with pytest.raises(InputError, match="images go with input_ids"):
        model(inputs_embeds=embeds, **image)
    with pytest.raises(InputError, match="generate computes the positions itself"):
        model.generate(PROMPT, **image, position_ids=torch.arange(6).unsqueeze(0), max_new_tokens=1)
    fastv = {"pruning": Settings(16, pruning_method="fastv")}
    for name in ("hidden_states", "attentions"):
        with pytest.raises(InputError, match=f"fastv drops tokens on the way: it gives no {name}"):
            model(PROMPT, **image, **fastv, **{f"output_{name}": True})
    with pytest.raises(InputError, match="fastv needs is_visual with inputs_embeds"):
        model(inputs_embeds=embeds, **fastv)
    filled = cache_in(model(torch.tensor([[1, 2]]), use_cache=True))
    with pytest.raises(InputError, match="cannot go on from a cache that another method has filled"):
        model(PROMPT[:, 1:], **image, **fastv, **{CACHE: filled})
    with pytest.raises(InputError, match=r"attention_mask has shape \(1, 4\), the ids \(1, 6\)"):
        model(PROMPT, **image, attention_mask=torch.ones(1, 4))


def test_a_loop_of_forward_calls_decodes_as_generate_does(model_and_image):
    model, image = model_and_image
    for pruning in (Settings(16), Settings(16, pruning_method="fastv")):
        expected = model.generate(PROMPT, **image, pruning=pruning, do_sample=False, max_new_tokens=5)[0].tolist()
        output = model(PROMPT, **image, pruning=pruning, use_cache=True)
        said = []
        length = 5 + 16 if not pruning.prunes_in_decoder else 5 + 144
        for step in range(5):
            said.append(int(output.logits[0, -1].argmax()))
            mask = torch.ones(1, length + step + 1, dtype=torch.long)
            place = torch.tensor([[length + step]])
            ids = torch.tensor([said[-1:]])
            given = {CACHE: cache_in(output), "attention_mask": mask, "position_ids": place}
            output = model(ids, pruning=pruning, use_cache=True, **given)
        assert said[: len(expected)] == expected
