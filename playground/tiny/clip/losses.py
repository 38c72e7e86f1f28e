"""The losses of the tiny CLIP."""

import torch
import torch.nn.functional as F
from transformers import CLIPModel, PreTrainedTokenizerFast

from playground.tiny.clip.model import embed_regions, embed_scenes, embed_texts, normalise

Loss = tuple[torch.Tensor, torch.Tensor]  # the loss, and the share of pictures or patches that find their text


def contrastive_loss(scale: torch.Tensor, image: torch.Tensor, text: torch.Tensor, names: list[str]) -> Loss:
    """The contrastive loss of B pictures and M texts, and the share of pictures and texts that find each other.

    Args:
        scale: logarithm of the factor of the similarities.
        image: (B, C), of length 1.
        text: (M, C), of length 1; the first B belong to the pictures, the others are wrong for all of them.
        names: the M texts. Equal texts are equally right.
    """
    count = len(image)
    logits = scale.exp() * image @ text.T
    same = torch.tensor([[float(name == other) for other in names] for name in names[:count]], device=logits.device)
    by_image = F.cross_entropy(logits, same / same.sum(dim=1, keepdim=True))
    same = same[:, :count]
    by_text = F.cross_entropy(logits[:, :count].T, same / same.sum(dim=1, keepdim=True))
    found = same.gather(1, logits[:, :count].argmax(dim=1, keepdim=True)).flatten() * (logits.argmax(dim=1) < count)
    return (by_image + by_text) / 2, found.mean()


def patch_loss(scale: torch.Tensor, patches: torch.Tensor, texts: torch.Tensor, right: torch.Tensor) -> Loss:
    """The loss of patches (P, C) against texts (M, C), and the share of patches that find their text.

    `scale` is the logarithm of the factor of the similarities, `right` (P,) int64 is the number of each patch's text.
    """
    logits = scale.exp() * patches @ texts.T
    return F.cross_entropy(logits, right), (logits.argmax(dim=1) == right).float().mean()


def batch_losses(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, batch: tuple, with_scenes: bool, with_patches: bool
) -> tuple[Loss, Loss, Loss]:
    """The losses of regions, whole scenes and single patches in a batch of `CaptionedScenes`; zero if not trained."""
    pixels, right, wrong, patches, names, single, words = batch
    device = model.device
    pixels, patches, single = normalise(pixels.to(device)), patches.to(device), single.to(device)
    zero = torch.zeros((), device=device)
    scene_loss = single_loss = (zero, zero)
    with torch.autocast(device.type, torch.bfloat16):
        if with_scenes:
            captions = [*right, *wrong]
            # In a whole picture an object is the mean over the nine patches nearest to its centre.
            scenes, regions, singles = embed_scenes(model, pixels, patches[:, :9], single)
            scene_loss = contrastive_loss(model.logit_scale, scenes, embed_texts(model, tokenizer, captions), captions)
        else:
            regions = embed_regions(model, pixels, patches)
        if with_patches:
            single_loss = _single_patch_loss(model, tokenizer, singles, words)
        region_loss = contrastive_loss(model.logit_scale, regions, embed_texts(model, tokenizer, names), names)
    return region_loss, scene_loss, single_loss


def _single_patch_loss(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, singles: torch.Tensor, words: list[tuple[str, ...]]
) -> Loss:
    """The loss of single patches (B, m, C). The loader gives their words by column: m tuples of B texts."""
    texts = [text for row in zip(*words) for text in row]  # in the order of `singles.flatten(0, 1)`
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    right = torch.tensor([number[text] for text in texts], device=singles.device)
    return patch_loss(model.logit_scale, singles.flatten(0, 1), embed_texts(model, tokenizer, list(number)), right)
