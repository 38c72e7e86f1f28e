"""The way of a picture into the language model: encode, select, project, splice.

Liu et al., "Improved Baselines with Visual Instruction Tuning", arXiv 2310.03744, with VisPruner (arXiv 2412.01818)
between vision tower and projector; every line where pruning enters carries a `# [VisPruner]` comment.

Shapes: B prompts, I images, K crops of one image, N patches, T kept tokens, C vision channels, D model channels.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from transformers import Cache

from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.model.encode import choose, encode, visual_tokens
from llava.model.gaps import next_positions
from llava.model.graphs import RecordsGraphs
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.pruning_defaults import PruningDefaults
from llava.model.question import QuestionViews
from llava.model.splice import EmbeddedPrompts, PlacedTokens, splice, text_mask
from llava.model.vision_setup import add_vision_modules, add_vision_tokens
from llava.pruning import MergedTokens, Settings, VisualTokens
from llava.pruning.kv_cache import cached_length
from llava.vision.pixels import unpad_image as unpad_image  # upstream's place

logger = logging.getLogger(__name__)


class LlavaMetaConfig:
    """The keys that LLaVA adds to a language model's config, with the values that an absent key stands for."""

    mm_vision_tower: str | None = None
    mm_hidden_size: int | None = None
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: str = "patch"
    mm_projector_type: str = "linear"
    mm_patch_merge_type: str = "flat"
    mm_use_im_start_end: bool = False
    mm_use_im_patch_token: bool = False
    unfreeze_mm_vision_tower: bool = False
    image_aspect_ratio: str | None = None
    image_grid_pinpoints: list | str | None = None
    tokenizer_padding_side: str = "right"
    tokenizer_model_max_length: int | None = None


class LlavaMetaModel:
    """Adds the vision side to a decoder stack (LlamaModel, MistralModel, Qwen2Model)."""

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = None
        if config.mm_vision_tower:
            self.mm_projector = build_vision_projector(config)
        if "unpad" in config.mm_patch_merge_type:
            self.image_newline = nn.Parameter(torch.randn(config.hidden_size) / config.hidden_size**0.5)

    def get_vision_tower(self) -> nn.Module | None:
        return self.vision_tower

    def initialize_vision_modules(self, model_args, fsdp=None) -> None:
        """Upstream's name of `vision_setup.add_vision_modules`; `fsdp` changes nothing."""
        add_vision_modules(self, model_args)

    def forward(self, input_ids=None, inputs_embeds=None, *, prune_decoder: Callable | None = None, **kwargs):
        """The decoder's own forward, or that of a method which drops visual tokens inside it (see `fastv`)."""
        if prune_decoder is None:
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
        inputs_embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return prune_decoder(self, inputs_embeds, **kwargs)


# [VisPruner] visual_token_num, important_ratio
class LlavaMetaForCausalLM(QuestionViews, PruningDefaults, RecordsGraphs):
    """Mixin that adds image input to a causal language model: from pixels and ids to embedded prompts."""

    _has_warned = False  # of rounded pixels

    def get_model(self) -> nn.Module:
        return self.model

    def get_vision_tower(self) -> nn.Module | None:
        return self.model.get_vision_tower()

    def initialize_vision_tokenizer(self, model_args, tokenizer) -> None:
        """Upstream's name of `vision_setup.add_vision_tokens`."""
        add_vision_tokens(self, model_args, tokenizer)

    def encode_images(
        self, pixels: torch.Tensor, pruning: Settings | None = None, question: str = ""
    ) -> VisualTokens | MergedTokens:
        """Encode, select, project crops.

        Args:
            pixels: (K, 3, height, width).
            pruning: the settings of this call; the model's own if None.
            question: what is asked about the crops, for methods that choose by it.

        Returns: the kept tokens, projected: (K, T, D).
        Raises: InputError if the method cannot work on this tower.
        """
        (crops,) = encode(self, [pixels])
        return choose(self, crops.views, pruning or self.pruning, question)  # [VisPruner]

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """(K, T, C) of any device and dtype -> (K, T, D)."""
        projector = self.model.mm_projector
        like = next(projector.parameters(), self.model.embed_tokens.weight)
        return projector(features.to(like.device, like.dtype))

    def embed_images(
        self,
        images: torch.Tensor | list[torch.Tensor],
        image_sizes: list[tuple[int, int]] | None,
        pruning: Settings | None = None,
        questions: list[str] | None = None,
    ) -> list[torch.Tensor | PlacedTokens]:
        """Visual tokens of each image, as the language model takes them: (length, D) of I images.

        Args:
            images: (I, 3, h, w) or (I, K, 3, h, w), or a list of (3, h, w) and (K, 3, h, w).
            image_sizes: original (width, height) of each image; needed where one has several crops.
            pruning: the settings of this call; the model's own if None.
            questions: what is asked about each image, for methods that choose by it; None for nothing.
        """
        pruning = pruning or self.pruning
        self._warn_of_rounded_pixels(images, pruning)
        has_crops = not isinstance(images, torch.Tensor) or images.ndim == 5
        encoded = encode(self, images, image_sizes, has_crops)
        return visual_tokens(self, encoded, pruning, questions)  # [VisPruner]

    def _warn_of_rounded_pixels(self, images: torch.Tensor | list[torch.Tensor], pruning: Settings) -> None:
        """Warn once of pixels that lost bits on the way to a tower that would have used them: nothing restores them."""
        rounded = {image.dtype for image in images} - {torch.float32, torch.float64}
        if rounded and pruning.prunes and self.get_vision_tower().dtype is torch.float32 and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "pixels of %s for a vision tower of float32: other visual tokens may be kept than of float32 pixels",
                str(rounded.pop()).removeprefix("torch."),
            )

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes=None
    ):
        """Replace each image token by its image's visual tokens (upstream's name, arguments and results).

        Args:
            input_ids: (B, length) int64, with -200 for each image; padding, on either side, is where `attention_mask`
                is 0, or without a mask the pad tokens at the ends of a row.
            position_ids: (B, length) of the ids, or (B, longest) of the result; None for one after another.
            attention_mask: (B, length), or (B, past + length) after a cache of `past` tokens.
            labels: (B, length) int64 or None.
            images, image_sizes: the images of all prompts in order (see `embed_images`).

        Returns:
            (input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels). With images `input_ids`
            is None and the others are (B, longest, ...), padded on the side `config.tokenizer_padding_side`, the mask
            (B, past + longest); without images everything comes back as it was. After a cache, positions are those
            that come next: not its number of tokens, where `positions` kept the room of images in it.

        Raises:
            InputError: if images and image tokens do not match, or a prompt is longer than the context.
        """
        if not self._has_images(input_ids, images, past_key_values):
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        prompts, position_ids, attention_mask = self.embed_after(
            past_key_values, input_ids, position_ids, attention_mask, labels, images, image_sizes
        )
        return None, position_ids, attention_mask, past_key_values, prompts.inputs_embeds, prompts.labels

    def _has_images(self, input_ids: torch.LongTensor, images, cache: Cache | None) -> bool:
        """Whether there is anything to embed. Raises InputError if text alone is longer than the context."""
        if images is None and cache is not None and input_ids.shape[1] == 1:
            return False  # a decoding step, where asking the GPU for the ids would cost time
        if images is not None or bool((input_ids == IMAGE_TOKEN_INDEX).any()):
            return True
        start = next_positions(cache, len(input_ids))
        self.check_context(input_ids.shape[1] + (cached_length(cache) if start is None else int(start.max())))
        return False

    def embed_after(
        self,
        cache: Cache | None,
        input_ids,
        position_ids,
        attention_mask,
        labels,
        images,
        image_sizes,
        pruning=None,
        question=None,
    ) -> tuple[EmbeddedPrompts, torch.LongTensor, torch.LongTensor]:
        """Embed prompts that follow `past` cached tokens, with positions (B, longest) and mask (B, past + longest).

        Arguments are those of `prepare_inputs_labels_for_multimodal`.
        """
        past = int(cached_length(cache))
        past_mask = input_ids.new_ones(len(input_ids), past)
        if attention_mask is not None:
            if past and attention_mask.shape[1] == past + input_ids.shape[1]:
                past_mask, attention_mask = attention_mask[:, :past].to(past_mask), attention_mask[:, past:]
            if attention_mask.shape != input_ids.shape:
                raise InputError(
                    f"attention_mask has shape {tuple(attention_mask.shape)}, the ids {tuple(input_ids.shape)}"
                    + (f" after {past} cached tokens" if past else "")
                )
        side = self.config.tokenizer_padding_side
        prompts = self.embed_prompts(input_ids, attention_mask, labels, images, image_sizes, side, pruning, question)
        if position_ids is not None and (pruning := pruning or self.pruning).is_blind:
            raise InputError(f"{pruning.pruning_method} shows no image: position_ids of the ids with images do not fit")
        if (start := next_positions(cache, len(input_ids), past_mask)) is None:
            start = past_mask.sum(dim=1, keepdim=True)
        if past:
            self.check_context(int((prompts.next_position + start).max()))
        positions = prompts.positions(start) if position_ids is None else prompts.expand_positions(position_ids)
        return prompts, positions, torch.cat([past_mask, prompts.attention_mask], dim=1)

    @torch.compiler.disable  # its shapes depend on the data: compiling it never ends
    def embed_prompts(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None,
        labels: torch.LongTensor | None,
        images: torch.Tensor | list[torch.Tensor] | None,
        image_sizes: list[tuple[int, int]] | None,
        padding_side: str,
        pruning: Settings | None = None,
        question: str | list[str] | None = None,
    ) -> EmbeddedPrompts:
        """Prompts with their images in place, padded on `padding_side`; the arguments are those of upstream's method.

        `question` is what is asked about each image, or about all, for methods that choose by it; if None, it is read
        from the ids: the user's text of the turn that holds the image.
        Raises InputError as `prepare_inputs_labels_for_multimodal` does.
        """
        mask = text_mask(input_ids, attention_mask, self.generation_config)
        image_num = 0 if images is None else len(images)
        placeholders = int(((input_ids == IMAGE_TOKEN_INDEX) & mask).sum())
        if image_num != placeholders:
            raise InputError(f"{image_num} image(s) for {placeholders} <image> placeholder(s) in the prompt")
        if image_sizes is not None and len(image_sizes) != image_num:
            raise InputError(f"{len(image_sizes)} image size(s) for {image_num} image(s)")
        if image_num and self.get_vision_tower() is None:
            raise InputError("this model has no vision tower: load it with llava.model.builder.load_pretrained_model")
        pruning, more = pruning or self.pruning, ()
        if image_num and pruning.is_blind:
            if labels is not None:
                raise InputError(f"{pruning.pruning_method} shows no image: there is no loss with labels")
            input_ids, mask = self.drop_pictures(input_ids, mask)
            prompts = splice(input_ids, mask, None, [], self.model.embed_tokens, padding_side)
            self.check_context(prompts.longest)
            return replace(prompts, num_visual_tokens=[0] * image_num)
        if image_num and pruning.question_views:
            questions = self.read_questions(input_ids, mask) if question is None else question
            more = ([questions] * image_num if isinstance(questions, str) else questions,)
            if len(more[0]) != image_num:
                raise InputError(f"{len(more[0])} question(s) for {image_num} image(s)")
        visual = self.embed_images(images, image_sizes, pruning, *more) if image_num else []
        limit = self.config.tokenizer_model_max_length if self.training else None
        prompts = splice(input_ids, mask, labels, visual, self.model.embed_tokens, padding_side, limit)
        self.check_context(prompts.furthest)
        return prompts

    def check_context(self, length: int) -> None:
        """Raise InputError if a prompt is longer than the context: `length` is the position of what follows it."""
        limit = self.config.max_position_embeddings
        if length > limit:
            raise InputError(f"the prompt is longer than the context: {length} tokens, the model takes {limit}")
