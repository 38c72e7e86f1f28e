"""The loss of a training step equals the language model's own, and batches and crops are made as they should."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.anyres import count_merged_tokens
from llava.train.data import count_kept_ids
from llava.train.sampler import EpochSampler
from llava.vision.pixels import process_images
from tests.conftest import load, picture


@pytest.fixture
def batch():
    torch.manual_seed(0)
    ids = torch.randint(3, 500, (3, 20))
    ids[0, 4] = ids[1, 1] = IMAGE_TOKEN_INDEX
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 15:] = mask[2, 12:] = False
    labels = ids.masked_fill(~mask | (torch.arange(20) < 8), IGNORE_INDEX)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.fixture
def model(checkpoints):
    return load(checkpoints()).model.train()


@pytest.fixture
def images(model):
    return process_images([picture(seed=i) for i in range(2)], model.get_vision_tower().image_processor, model.config)


def test_the_loss_on_answers_alone_is_the_plain_loss_and_so_are_its_gradients(model, batch, images):
    def gradients() -> dict[str, torch.Tensor]:
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    model.requires_grad_(True)
    loss = model(**batch, images=images).loss
    loss.backward()
    trained = gradients()
    model.zero_grad()
    model.eval()
    prepared = model.prepare_inputs_labels_for_multimodal(
        batch["input_ids"], None, batch["attention_mask"], None, batch["labels"], images
    )
    _, position_ids, mask, _, embeds, labels = prepared
    logits = model(inputs_embeds=embeds, attention_mask=mask, position_ids=position_ids).logits
    plain = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
    plain.backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(trained, gradients(), atol=1e-6, rtol=1e-3)


def test_parts_of_a_batch_add_up_with_the_number_of_items(model, batch, images):
    whole = model(**batch, images=images).loss
    items = int((batch["labels"] != IGNORE_INDEX).sum())
    parts = [
        model(**{key: value[i : i + 1] for key, value in batch.items()}, images=pixels, num_items_in_batch=items).loss
        for i, pixels in enumerate((images[:1], images[1:], None))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_a_batch_without_images_has_a_gradient_of_zero_for_the_projector(model, batch):
    model.requires_grad_(False)
    model.model.mm_projector.requires_grad_(True)
    model(**{key: value[2:] for key, value in batch.items()}).loss.backward()
    assert all((parameter.grad == 0).all() for parameter in model.model.mm_projector.parameters())


def test_nothing_to_learn_is_a_loss_of_zero(model, batch):
    rows = {key: value[2:] for key, value in batch.items()} | {"labels": torch.full((1, 20), IGNORE_INDEX)}
    assert model(**rows).loss == 0


@pytest.mark.parametrize("merge_type", ["flat", "spatial", "spatial_unpad"])
@pytest.mark.parametrize("size", [(300, 200), (100, 400), (500, 90), (64, 64)])
def test_visual_tokens_are_counted_as_the_model_makes_them(loaded, merge_type, size):
    _, model, image_processor, _ = loaded("v1.6", mm_patch_merge_type=merge_type)
    pixels = process_images([picture(*size)], image_processor, model.config)
    tokens = model.embed_images(pixels, [size])[0]
    side = model.get_vision_tower().num_patches_per_side
    assert count_merged_tokens(size, model.config, side, image_processor) == len(tokens)


@pytest.mark.parametrize(
    ("ids", "limit", "visual", "kept"),
    [
        ([1, -200, 5, 6], 13, 10, 4),
        ([1, -200, 5, 6], 12, 10, 3),
        ([1, -200, 5, 6], 11, 10, 2),
        ([1, -200, 5, 6], 10, 10, 1),
        ([1, 2, 3], 3, 0, 3),
        ([1, 2, 3], 2, 0, 2),
        ([1, 2, 3, -200], 2, 10, 2),
    ],
)
def test_what_is_too_long_loses_its_end_and_an_image_stays_whole(ids, limit, visual, kept):
    assert count_kept_ids(ids, limit, visual) == kept


def test_the_order_is_all_samples_and_differs_by_epoch_and_seed():
    orders = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0)):
        sampler = EpochSampler(50, 4, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_grouped_batches_are_of_one_kind_and_of_like_lengths():
    torch.manual_seed(0)
    lengths = torch.randint(0, 1000, (400,)).tolist()
    has_image = [i % 4 != 0 for i in range(400)]
    order = list(EpochSampler(400, 8, 0, lengths, has_image))
    assert sorted(order) == list(range(400))
    batches = [order[i : i + 8] for i in range(0, 400, 8)]
    mixed = [batch for batch in batches if len({has_image[i] for i in batch}) > 1]
    assert len(mixed) <= 1
    spread = sum(max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches) / len(batches)
    assert spread < 150
