"""FastV and DART in the decoder: against a decoder that computes every token everywhere and hides the dropped ones."""

import pytest
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.pruning.kv_cache import CACHE, cache_in
from llava.pruning.methods import fastv
from llava.vision.pixels import process_images
from tests.conftest import load, picture
from tests.data import plain

FAMILIES = [("v1.5", "llama"), ("v1.5", "mistral"), ("v1.6", "qwen")]
PROMPT = torch.tensor([[1, 20, IMAGE_TOKEN_INDEX, 30, 40, 50, 60]])


def hide(model, dropped: torch.BoolTensor, prompt_length: int) -> list:
    """Hooks that keep layers K and later from seeing `dropped` tokens (B, L), whose states they go on to compute."""

    def mask_of(layer, args, kwargs):
        query, key = args[0].shape[1], kwargs[CACHE].get_seq_length()  # the first layer has written
        allowed = torch.ones(query, key, dtype=torch.bool).tril(key - query).expand(len(dropped), 1, query, key).clone()
        allowed[:, :, :, :prompt_length] &= ~dropped[:, None, None]
        return args, kwargs | {"attention_mask": allowed}

    layers = model.model.layers[fastv.METHOD.full_layers :]
    return [layer.register_forward_pre_hook(mask_of, with_kwargs=True) for layer in layers]


def full_rows(model, pixels, sizes) -> torch.Tensor:
    """Attention of the last token in layer K - 1, mean over heads, by the decoder's own eager attention."""
    model.config._attn_implementation = "eager"
    weights = model(PROMPT, images=pixels, image_sizes=sizes, output_attentions=True).attentions
    model.config._attn_implementation = "sdpa"
    return weights[fastv.METHOD.full_layers - 1][:, :, -1].mean(dim=1)


def kept_by_fastv(model, pixels, sizes, visual: torch.BoolTensor) -> torch.LongTensor:
    row = full_rows(model, pixels, sizes)
    return row.masked_fill(~visual, -1).topk(round(visual.sum().item() * 32 / 144)).indices


def kept_by_dart(model, pixels, sizes, visual: torch.BoolTensor) -> torch.LongTensor:
    """By the states and the cache that the decoder itself gives after the layers that see everything."""
    output = model(PROMPT, images=pixels, image_sizes=sizes, output_hidden_states=True, use_cache=True)
    layers = fastv.METHOD.full_layers
    states = model.model.norm(output.hidden_states[layers])[0]
    keys = cache_in(output).layers[layers - 1].keys[0].transpose(0, 1).flatten(1)
    places = visual[0].nonzero()[:, 0].tolist()
    number = round(len(places) * 32 / 144)
    kept = plain.dart(states.numpy(), keys.numpy(), range(places[0], places[-1] + 1), number)
    assert number - 8 < len(kept) <= number
    return torch.tensor([kept])


@pytest.mark.parametrize(("method", "keep"), [("fastv", kept_by_fastv), ("dart", kept_by_dart)])
@pytest.mark.parametrize(("version", "language_model"), FAMILIES)
@torch.no_grad()
def test_generation_is_that_of_a_decoder_that_hides_the_dropped_tokens(loaded, version, language_model, method, keep):
    _, model, image_processor, _ = loaded(version, language_model)
    image = picture(seed=3)
    pixels, sizes = process_images([image], image_processor, model.config), [image.size]
    visual = model.embed_prompts(PROMPT, None, None, pixels, sizes, "left").is_visual
    dropped = visual.clone().scatter(1, keep(model, pixels, sizes, visual), False)
    options = {"images": pixels, "image_sizes": sizes, "do_sample": False, "max_new_tokens": 12}
    options |= {"return_dict_in_generate": True, "output_logits": True}

    hooks = hide(model, dropped, visual.shape[1])
    expected = model.generate(PROMPT, **options)
    for hook in hooks:
        hook.remove()
    unpruned = model.generate(PROMPT, **options)
    model.visual_token_num, model.pruning_method = 32, method
    ours = model.generate(PROMPT, **options)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(expected.logits), atol=2e-4, rtol=1e-3)
    assert ours.sequences.tolist() == expected.sequences.tolist()
    assert (ours.logits[0] - unpruned.logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize(("method", "kept"), [("fastv", 16), ("dart", 12)])
def test_caches_hold_what_each_layer_saw(model_and_image, method, kept):
    model, image = model_and_image
    model.visual_token_num, model.pruning_method = 16, method
    output = model(PROMPT, **image)
    lengths = [layer.keys.shape[2] for layer in cache_in(output).layers]
    assert lengths[: fastv.METHOD.full_layers] == [6 + 144] * fastv.METHOD.full_layers
    assert set(lengths[fastv.METHOD.full_layers :]) == {6 + kept}
    assert output.logits.shape[1] == 6 + kept
    assert model.pruning.left(144) == model.pruning.left_in_decoder(144, 144) == kept
    assert model.embed_prompts(PROMPT, None, None, image["images"], None, "left").num_visual_tokens == [144]


@pytest.mark.parametrize("method", ["fastv", "dart"])
def test_beams_and_eager_attention_work(loaded, checkpoints, method):
    _, model, image_processor, _ = loaded()
    eager = load(checkpoints(), attn_implementation="eager")[1]
    pixels = process_images([picture(seed=i) for i in range(2)], image_processor, model.config)
    prompts = torch.tensor([[1, IMAGE_TOKEN_INDEX, 9, 8], [2, 1, IMAGE_TOKEN_INDEX, 9]])
    answers = []
    for each in (model, eager):
        each.visual_token_num, each.pruning_method = 16, method
        mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
        answers.append(
            each.generate(prompts, images=pixels, attention_mask=mask, do_sample=False, num_beams=3, max_new_tokens=5)
        )
    assert answers[0].shape == (2, 5)
    assert answers[0].tolist() == answers[1].tolist()


@pytest.mark.parametrize("method", ["fastv", "dart"])
def test_a_window_that_would_slide_over_the_prompt_is_refused(loaded, monkeypatch, method):
    _, model, image_processor, _ = loaded("v1.5", "mistral")
    pixels = process_images([picture()], image_processor, model.config)
    model.visual_token_num, model.pruning_method = 16, method
    monkeypatch.setattr(model.config, "sliding_window", 100)
    with pytest.raises(InputError, match=f"{method} knows no sliding window: 150 tokens, the window has 100"):
        model(PROMPT, images=pixels)
