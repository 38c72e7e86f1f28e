"""FastV inside the decoder: against a decoder that computes every token everywhere and hides the dropped ones."""

import pytest
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.pruning.kv_cache import CACHE, cache_in
from llava.pruning.methods import fastv
from llava.vision.pixels import process_images
from tests.conftest import load, picture

FAMILIES = [("v1.5", "llama"), ("v1.5", "mistral"), ("v1.6", "qwen")]
PROMPT = torch.tensor([[1, 20, IMAGE_TOKEN_INDEX, 30, 40, 50]])


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


@pytest.mark.parametrize(("version", "language_model"), FAMILIES)
def test_generation_is_that_of_a_decoder_that_hides_the_dropped_tokens(loaded, version, language_model):
    _, model, image_processor, _ = loaded(version, language_model)
    image = picture(seed=3)
    pixels, sizes = process_images([image], image_processor, model.config), [image.size]
    row = full_rows(model, pixels, sizes)
    visual = model.embed_prompts(PROMPT, None, None, pixels, sizes, "left").is_visual
    number = round(visual.sum().item() * 32 / 144)
    best = row.masked_fill(~visual, -1).topk(number).indices
    dropped = visual.clone().scatter(1, best, False)
    options = {"images": pixels, "image_sizes": sizes, "do_sample": False, "max_new_tokens": 12}
    options |= {"return_dict_in_generate": True, "output_logits": True}

    hooks = hide(model, dropped, visual.shape[1])
    expected = model.generate(PROMPT, **options)
    for hook in hooks:
        hook.remove()
    unpruned = model.generate(PROMPT, **options)
    model.visual_token_num, model.pruning_method = 32, "fastv"
    ours = model.generate(PROMPT, **options)
    torch.testing.assert_close(torch.stack(ours.logits), torch.stack(expected.logits), atol=2e-4, rtol=1e-3)
    assert ours.sequences.tolist() == expected.sequences.tolist()
    assert (ours.logits[0] - unpruned.logits[0]).abs().max() > 1e-3


def test_caches_hold_what_each_layer_saw(model_and_image):
    model, image = model_and_image
    model.visual_token_num, model.pruning_method = 16, "fastv"
    output = model(PROMPT, **image)
    lengths = [layer.keys.shape[2] for layer in cache_in(output).layers]
    assert lengths[: fastv.METHOD.full_layers] == [5 + 144] * fastv.METHOD.full_layers
    assert set(lengths[fastv.METHOD.full_layers :]) == {5 + 16}
    assert output.logits.shape[1] == 5 + 16
    assert model.embed_prompts(PROMPT, None, None, image["images"], None, "left").num_visual_tokens == [144]


def test_beams_and_eager_attention_work(loaded, checkpoints):
    _, model, image_processor, _ = loaded()
    eager = load(checkpoints(), attn_implementation="eager")[1]
    pixels = process_images([picture(seed=i) for i in range(2)], image_processor, model.config)
    prompts = torch.tensor([[1, IMAGE_TOKEN_INDEX, 9, 8], [2, 1, IMAGE_TOKEN_INDEX, 9]])
    answers = []
    for each in (model, eager):
        each.visual_token_num, each.pruning_method = 16, "fastv"
        mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
        answers.append(
            each.generate(prompts, images=pixels, attention_mask=mask, do_sample=False, num_beams=3, max_new_tokens=5)
        )
    assert answers[0].shape == (2, 5)
    assert answers[0].tolist() == answers[1].tolist()


def test_a_window_that_would_slide_over_the_prompt_is_refused(loaded, monkeypatch):
    _, model, image_processor, _ = loaded("v1.5", "mistral")
    pixels = process_images([picture()], image_processor, model.config)
    model.visual_token_num, model.pruning_method = 16, "fastv"
    monkeypatch.setattr(model.config, "sliding_window", 100)
    with pytest.raises(InputError, match="sliding window: 149 tokens, the window has 100"):
        model(PROMPT, images=pixels)
