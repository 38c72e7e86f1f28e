"""A picture's way into the language model: batches, budgets, crops, labels, and what must be refused."""

import pytest
import torch

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.pruning import Settings
from llava.pruning.methods import vispruner
from llava.vision.pixels import process_images
from tests.conftest import IMAGE, ask, count_visual_tokens, load, picture

FAMILIES = [("v1.5", "llama"), ("v1.6", "llama"), ("v1.5", "mistral"), ("v1.6", "qwen")]


@pytest.mark.parametrize(("version", "language_model"), FAMILIES)
@pytest.mark.parametrize("pruning", [Settings(), Settings(16), Settings(16, pruning_method="fastv")], ids=str)
@pytest.mark.parametrize("pad", ["left", "right"])
def test_a_batch_gets_the_answers_that_each_prompt_gets_alone(loaded, version, language_model, pruning, pad):
    llava = loaded(version, language_model)
    llava[1].pruning = pruning
    images = [picture(200, 150, 1), picture(90, 300, 2), picture(400, 120, 3), picture(168, 168, 4)]
    prompts = [
        f"A {IMAGE} dog?",
        f"{IMAGE}\nand a much longer question about {IMAGE} the two",
        "no picture",
        f"{IMAGE} e",
    ]
    shown = [images[:1], images[1:3], [], images[3:]]
    alone = [ask(llava, [prompt], own)[0] for prompt, own in zip(prompts, shown)]
    assert ask(llava, prompts, images, pad=pad) == alone
    assert len({tuple(answer) for answer in alone}) > 1


def test_the_answer_depends_on_the_picture(loaded):
    llava = loaded()
    llava[1].visual_token_num = 16
    logits = []
    for seed in range(2):
        pixels = process_images([picture(seed=seed)], llava[2], llava[1].config)
        logits.append(llava[1](torch.tensor([[1, IMAGE_TOKEN_INDEX, 5]]), images=pixels).logits[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_the_budget_of_anyres_holds_for_each_crop(loaded):
    llava = loaded("v1.6", mm_patch_merge_type="spatial", image_grid_pinpoints=[[336, 336]])
    for budget, total in ((None, 5 * 144), (16, 5 * 16)):
        llava[1].visual_token_num = budget
        assert count_visual_tokens(llava, [IMAGE], [picture(300, 200)]) == [total]


def test_unpadding_drops_the_tokens_of_padding_and_ends_each_row_with_a_newline(loaded, monkeypatch):
    """A 400 x 100 picture takes 1 + 3 crops in a 36 x 12 grid, of which 9 rows are picture and 2 of padding above."""
    llava = loaded("v1.6")
    model = llava[1]
    kept = torch.arange(0, 144, 9).repeat(4, 1)
    monkeypatch.setattr(vispruner, "select_visual_tokens", lambda *args: kept)
    model.visual_token_num = 16
    pixels = process_images([picture(400, 100)], llava[2], model.config)
    embeds = model.embed_images(pixels, [(400, 100)])[0]
    padding = (12 - int(100 * 36 / 400)) // 2
    rows = range(padding, 12 - padding)
    tokens = model.encode_images(pixels[0]).tokens
    expected = list(tokens[0])
    for row in rows:
        for crop in (1, 2, 3):
            expected += [tokens[crop, i] for i, patch in enumerate(kept[crop].tolist()) if patch // 12 == row]
        expected.append(model.model.image_newline)
    torch.testing.assert_close(embeds, torch.stack(expected))


def test_in_float32_the_selection_sees_the_same_bits_alone_and_in_a_batch(loaded, monkeypatch):
    """The selection amplifies rounding, which depends on the size of a batch."""
    _, model, image_processor, _ = loaded()
    model.visual_token_num = 16
    seen, select = [], vispruner.select_visual_tokens
    monkeypatch.setattr(vispruner, "select_visual_tokens", lambda *args: seen.append(args) or select(*args))
    pixels = process_images([picture(seed=i) for i in range(4)], image_processor, model.config)
    model.embed_images(pixels, None)
    batch = [torch.cat(part) for part in zip(*(args[:2] for args in seen))]
    seen.clear()
    for image in pixels:
        model.embed_images(image.unsqueeze(0), None)
    alone = [torch.cat(part) for part in zip(*(args[:2] for args in seen))]
    assert torch.equal(batch[0], alone[0])
    assert torch.equal(batch[1], alone[1])


def test_only_the_kept_tokens_are_projected(loaded):
    llava = loaded()
    llava[1].visual_token_num = 16
    shapes = []
    hook = llava[1].model.mm_projector.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    ask(llava, [IMAGE], [picture()])
    hook.remove()
    assert shapes == [(1, 16, 64)]


def test_beams_and_sampling_work(model_and_image):
    model, image = model_and_image
    model.visual_token_num = 16
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 9]])

    def generate(**options) -> torch.Tensor:
        return model.generate(ids, **image, max_new_tokens=4, **options)

    greedy = generate(do_sample=False, min_new_tokens=4)
    beams = generate(do_sample=False, min_new_tokens=4, num_beams=3)
    assert greedy.shape == (1, 4)  # the new tokens alone
    scores = []
    for said in (greedy, beams):
        logits = model(torch.cat([ids, said], dim=1), **image).logits[0, -5:-1]
        scores.append(logits.log_softmax(dim=-1).gather(1, said[0].unsqueeze(1)).sum().item())
    assert scores[1] >= scores[0] - 1e-4
    more = generate(do_sample=False, num_beams=3, num_return_sequences=3)
    assert len({tuple(row) for row in more.tolist()}) == 3
    torch.manual_seed(0)
    assert len({tuple(generate(do_sample=True, temperature=2.0)[0].tolist()) for _ in range(4)}) > 1


@pytest.mark.parametrize("budget", [None, 16])
@pytest.mark.parametrize(("version", "language_model"), FAMILIES)
def test_training_gives_a_finite_loss_and_gradients_reach_the_projector(loaded, version, language_model, budget):
    _, model, image_processor, _ = loaded(version, language_model)
    model.visual_token_num = budget
    images = [picture(200, 150), picture(90, 200)]
    pixels = process_images(images, image_processor, model.config)
    ids = torch.tensor([[3, IMAGE_TOKEN_INDEX, 5, 6, 7], [3, 4, IMAGE_TOKEN_INDEX, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    labels = torch.tensor([[IGNORE_INDEX] * 3 + [6, 7], [IGNORE_INDEX] * 3 + [8, IGNORE_INDEX]])
    model.train()
    output = model(ids, attention_mask=mask, labels=labels, images=pixels, image_sizes=[i.size for i in images])
    output.loss.backward()
    grads = [p.grad.abs().max().item() for p in model.model.mm_projector.parameters()]
    model.zero_grad(set_to_none=True)
    model.eval()
    assert torch.isfinite(output.loss)
    assert min(grads) > 0


def test_labels_stay_with_their_tokens(model_and_image):
    model, image = model_and_image
    model.visual_token_num = 4
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5, 6], [0, 1, 7, 8]])
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 50, 60], [IGNORE_INDEX, 10, 70, 80]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    _, position_ids, new_mask, _, embeds, new_labels = model.prepare_inputs_labels_for_multimodal(
        ids, None, mask, None, labels, **image
    )
    assert new_labels.tolist() == [[IGNORE_INDEX] * 5 + [50, 60], [10, 70, 80] + [IGNORE_INDEX] * 4]
    assert new_mask.tolist() == [[1] * 7, [1, 1, 1, 0, 0, 0, 0]]
    assert position_ids[0].tolist() == list(range(7))
    torch.testing.assert_close(embeds[1, :3], model.model.embed_tokens(torch.tensor([1, 7, 8])))


def test_a_loss_ignores_padding_and_pictures(model_and_image):
    """The loss of a padded batch is the mean over its answer tokens, as computed sample by sample."""
    model, image = model_and_image
    first, first_labels = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5, 6]]), torch.tensor([[IGNORE_INDEX] * 3 + [6]])
    second, second_labels = torch.tensor([[1, 7, 0, 0]]), torch.tensor([[IGNORE_INDEX, 7, IGNORE_INDEX, IGNORE_INDEX]])
    with torch.no_grad():
        alone = model(first, labels=first_labels, **image).loss
        other = model(second[:, :2], labels=second_labels[:, :2]).loss
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        labels = torch.cat([first_labels, second_labels])
        both = model(torch.cat([first, second]), attention_mask=mask, labels=labels, **image).loss
    torch.testing.assert_close(both, (alone + other) / 2)


@pytest.mark.parametrize(("images", "tokens"), [(0, 1), (1, 0), (2, 1), (1, 2)])
def test_images_that_do_not_match_their_placeholders_are_refused(loaded, images, tokens):
    _, model, image_processor, _ = loaded()
    pixels = process_images([picture()] * images, image_processor, model.config) if images else None
    ids = torch.tensor([[1] + [IMAGE_TOKEN_INDEX] * tokens + [5]])
    for call in (model, model.generate):
        with pytest.raises(InputError, match=rf"{images} image\(s\) for {tokens} <image>"):
            call(ids, images=pixels)


def test_a_placeholder_under_the_mask_takes_no_image(loaded):
    """Else the images after it would move up by one."""
    _, model, image_processor, _ = loaded()
    pixels = process_images([picture(seed=0), picture(seed=1)], image_processor, model.config)
    ids = torch.tensor([[IMAGE_TOKEN_INDEX, 1, IMAGE_TOKEN_INDEX, 5]])
    mask = torch.tensor([[0, 1, 1, 1]])
    with pytest.raises(InputError, match=r"2 image\(s\) for 1 <image>"):
        model.generate(ids, attention_mask=mask, images=pixels, max_new_tokens=1)
    assert model.generate(ids, attention_mask=mask, images=pixels[:1], max_new_tokens=1).shape == (1, 1)


def test_a_prompt_longer_than_the_context_is_refused(model_and_image):
    model, image = model_and_image
    ids = torch.full((1, 4096 - 100), 5)
    ids[0, 0] = IMAGE_TOKEN_INDEX
    with pytest.raises(InputError, match="longer than the context: 4139 tokens, the model takes 4096"):
        model.generate(ids, **image, max_new_tokens=1)
    model.visual_token_num = 16
    assert model.generate(ids, **image, max_new_tokens=1).shape == (1, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("visual_token_num", value) for value in (0, -1, 1.5, "64", True)),
        *(("important_ratio", value) for value in (-0.1, 1.01, float("nan"), "0.5")),
        ("pruning_method", "tome"),
    ],
)
def test_an_impossible_setting_is_refused_and_the_old_one_stays(loaded, name, value):
    model = loaded()[1]
    model.visual_token_num = 7
    with pytest.raises(ValueError, match=name):
        setattr(model, name, value)
    assert model.pruning == Settings(7)


def test_padding_is_told_from_text_where_eos_pads(loaded):
    """Without a mask, eos before a row is padding and eos after it is text."""
    _, model, image_processor, _ = loaded("v1.5", "mistral")
    config, before = model.generation_config, model.generation_config.pad_token_id
    pixels = process_images([picture()], image_processor, model.config)
    config.pad_token_id = config.eos_token_id
    ids = torch.tensor([[2, 2, 1, IMAGE_TOKEN_INDEX, 5, 2]])
    mask = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, pixels)[2]
    config.pad_token_id = before
    assert mask.tolist() == [[1] * (1 + 144 + 2)]


def test_a_long_prompt_is_not_turned_into_logits(loaded):
    """A prefill of 2880 visual tokens would otherwise make 2880 rows of the vocabulary's size."""
    llava = loaded()
    rows = []
    hook = llava[1].lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    ask(llava, [IMAGE], [picture()], new=3)
    hook.remove()
    assert set(rows) == {1}


def test_half_precision_encodes_a_batch_at_once_and_keeps_images_apart(checkpoints):
    _, model, image_processor, _ = load(checkpoints("v1.6"), torch_dtype="bfloat16")
    images = [picture(400, 100, 1), picture(150, 150, 2), picture(90, 300, 3)]
    pixels, sizes = process_images(images, image_processor, model.config), [image.size for image in images]
    for number in (16, None):
        model.visual_token_num = number
        together = model.embed_images(pixels, sizes)
        alone = [model.embed_images([own], [size])[0] for own, size in zip(pixels, sizes)]
        assert [len(x) for x in together] == [len(x) for x in alone]
    for tokens, own in zip(together, alone):
        torch.testing.assert_close(tokens, own, rtol=0.1, atol=0.05)


def test_pixels_may_come_in_another_dtype_than_the_model_s(model_and_image):
    model, image = model_and_image
    half = image["images"].half()
    assert model.generate(torch.tensor([[1, IMAGE_TOKEN_INDEX]]), images=half, max_new_tokens=1).shape == (1, 1)


def test_a_model_without_tower_says_so(loaded):
    model = loaded()[1]
    tower, model.model.vision_tower = model.model.vision_tower, None
    with pytest.raises(InputError, match="no vision tower"):
        model.generate(torch.tensor([[1, IMAGE_TOKEN_INDEX]]), images=torch.zeros(1, 3, 168, 168))
    model.model.vision_tower = tower
