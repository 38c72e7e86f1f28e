"""The way of a picture into the language model: encode, select, project, splice.

Liu et al., "Improved Baselines with Visual Instruction Tuning", arXiv 2310.03744, with VisPruner (arXiv 2412.01818)
between vision tower and projector; every line where pruning enters carries a `# [VisPruner]` comment.

Shapes: B prompts, I images, K crops of one image, N patches, T kept tokens, C vision channels, D model channels.
"""

import logging
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.mm_utils import get_anyres_image_grid_shape
from llava.model.answer_loss import training_loss
from llava.model.anyres import merge_crops
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.pruning import NONE, Budget, PruningSettings, chooses_patches, load_method
from llava.model.splice import splice, text_mask
from llava.model.static_cache import ReusedCache, can_be_static
from llava.model.visual_token_pruning import keep_patches, select_visual_tokens
from llava.utils import InputError

logger = logging.getLogger(__name__)


class LlavaMetaConfig:
    """What a LLaVA config adds to its language model's, with the values that an absent key stands for."""

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

    def get_vision_tower(self) -> CLIPVisionTower | None:
        return self.vision_tower

    def forward(self, input_ids=None, inputs_embeds=None, *, prune_decoder: Callable | None = None, **kwargs):
        """The decoder's own forward, or that of a method which drops visual tokens on the way (see `fastv`)."""
        if prune_decoder is None:
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
        inputs_embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return prune_decoder(self, inputs_embeds, **kwargs)


class LlavaMetaForCausalLM(PruningSettings):  # [VisPruner] visual_token_num, important_ratio
    """Makes a `...ForCausalLM` class of transformers see: the one mixin of every LLaVA language model.

    `num_visual_tokens` lists, for the last call, the visual tokens of each image, newline tokens included.
    `compile_decoding` keeps keys and values in place, so that on a GPU a token's step is compiled into a CUDA graph; it
    is for one prompt after another, and answers stay the same.
    `sampling_defaults` (temperature, top_p, top_k) hold where a call asks for `do_sample` and does not set them.
    """

    model_class: type[nn.Module]

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        self.model = self.model_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.num_visual_tokens: list[int] = []
        self.visual_mask: torch.BoolTensor | None = None  # (B, longest): where they are in the last call's prompts
        self.sampling_defaults: dict[str, float] = {}
        self.compile_decoding = False
        self._cache = ReusedCache(config)
        self.post_init()

    def get_model(self) -> nn.Module:
        return self.model

    def get_vision_tower(self) -> CLIPVisionTower | None:
        return self.model.get_vision_tower()

    def encode_images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode, select, project crops.

        Args:
            pixels: (K, 3, height, width).

        Returns:
            Projected tokens (K, T, D) in raster order and the indices (K, T) of their patches, None if all are kept.
        """
        tower, number = self.get_vision_tower(), self.visual_token_num
        method = load_method(self.pruning_method)
        if number is None or self.pruning_method == NONE or not chooses_patches(method):
            return self.project(tower(pixels)), None
        if tower.select_feature != "patch":
            raise InputError("pruning needs mm_vision_select_feature 'patch', not 'cls_patch'")
        if method is None:  # [VisPruner]
            features, cls_attention = tower(pixels, output_attentions=True)
            kept = select_visual_tokens(features, cls_attention.mean(dim=1), number, self.important_ratio)
            return self.project(keep_patches(features, kept)), kept
        if number >= tower.num_patches:
            return self.project(tower(pixels)), None
        return method.visual_tokens(tower.encode(pixels), self.project, Budget(number, self.pruning_seed))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """(K, T, C) of any device and dtype -> (K, T, D)."""
        projector = self.model.mm_projector
        like = next(projector.parameters(), self.model.embed_tokens.weight)
        return projector(features.to(like.device, like.dtype))

    def embed_images(
        self, images: torch.Tensor | list[torch.Tensor], image_sizes: list[tuple[int, int]] | None
    ) -> list[torch.Tensor]:
        """Visual tokens of each image, as the language model sees them: I tensors (length, D).

        Args:
            images: (I, 3, h, w) or (I, K, 3, h, w), or a list of (3, h, w) and (K, 3, h, w).
            image_sizes: original (width, height) of each image; needed where one has several crops.
        """
        has_crops = not isinstance(images, torch.Tensor) or images.ndim == 5
        crops = [image.unsqueeze(0) if image.ndim == 3 else image for image in images]
        embedded = []
        for i, (tokens, kept) in enumerate(self._encode_each(crops)):
            size = image_sizes[i] if image_sizes is not None else None
            embedded.append(self._merge_crops(tokens, kept, size) if has_crops else tokens[0])
        return embedded

    def _encode_each(self, crops: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """`encode_images` for each image's crops, in one batch where that cannot change what is kept.

        To answer in float32 every image is encoded by itself: the size of a batch changes the last bits of the
        features, and the selection can turn on them, so that an answer would depend on what else is in the batch.
        """
        if self.get_vision_tower().dtype is torch.float32 and not self.training:
            return [self.encode_images(image) for image in crops]
        counts = [len(image) for image in crops]
        tokens, kept = self.encode_images(torch.cat(crops))
        return list(zip(tokens.split(counts), kept.split(counts) if kept is not None else [None] * len(counts)))

    def _merge_crops(
        self, tokens: torch.Tensor, kept: torch.Tensor | None, image_size: tuple[int, int] | None
    ) -> torch.Tensor:
        """One sequence (length, D) of the visual tokens (K, T, D) of one image, as `mm_patch_merge_type` says."""
        merge_type = self.config.mm_patch_merge_type
        if not merge_type.startswith("spatial"):
            return tokens.flatten(0, 1)
        newline = self.model.image_newline if "unpad" in merge_type else None
        if len(tokens) == 1:
            return tokens[0] if newline is None else torch.cat([tokens[0], newline.unsqueeze(0).to(tokens)])
        if image_size is None:
            raise InputError("image_sizes is needed: an image in several crops is put together by its original size")
        tower = self.get_vision_tower()
        if kept is None and tokens.shape[1] < tower.num_patches:  # merged tokens, which lie nowhere
            return torch.cat([tokens.flatten(0, 1), *([] if newline is None else [newline.unsqueeze(0).to(tokens)])])
        grid = get_anyres_image_grid_shape(image_size, self.config.image_grid_pinpoints, tower.config.image_size)
        if len(tokens) != 1 + grid[0] * grid[1]:
            raise InputError(f"an image of size {image_size} takes 1 + {grid[0]} x {grid[1]} crops, not {len(tokens)}")
        return merge_crops(tokens, kept, grid, tower.num_patches_per_side, image_size, newline)

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes=None
    ):
        """Replace each image token by its image's visual tokens (upstream's name, arguments and results).

        Args:
            input_ids: (B, length) int64, with -200 for each image; padding, on either side, is where `attention_mask`
                is 0, or without a mask the pad tokens at the ends of a row.
            labels: (B, length) int64 or None.
            images, image_sizes: the images of all prompts in order (see `embed_images`).

        Returns:
            (input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels). With images `input_ids`
            is None and the others are (B, longest, ...), padded on the side `config.tokenizer_padding_side`; without
            images everything comes back as it was.

        Raises:
            InputError: if images and image tokens do not match, or a prompt is longer than the context.
        """
        if images is None and past_key_values is not None:  # a decoding step: nothing to see, and no time to look
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        if images is None and not (input_ids == IMAGE_TOKEN_INDEX).any():
            self.num_visual_tokens, self.visual_mask = [], None
            self.check_context(input_ids.shape[1])
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        inputs_embeds, attention_mask, labels = self.embed_prompts(
            input_ids, attention_mask, labels, images, image_sizes, self.config.tokenizer_padding_side
        )
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        return None, position_ids, attention_mask, past_key_values, inputs_embeds, labels

    @torch.compiler.disable  # its shapes depend on the data: compiling it never ends
    def embed_prompts(
        self, input_ids, attention_mask, labels, images, image_sizes, padding_side: str
    ) -> tuple[torch.Tensor, torch.LongTensor, torch.LongTensor | None]:
        """Prompts with their images as embeddings (B, longest, D), attention mask and labels (B, longest)."""
        mask = text_mask(input_ids, attention_mask, self.generation_config)
        placeholders = int(((input_ids == IMAGE_TOKEN_INDEX) & mask).sum())
        image_num = 0 if images is None else len(images)
        if image_num != placeholders:
            raise InputError(f"{image_num} image(s) for {placeholders} <image> placeholder(s) in the prompt")
        if image_sizes is not None and len(image_sizes) != image_num:
            raise InputError(f"{len(image_sizes)} image size(s) for {image_num} image(s)")
        if image_num and self.get_vision_tower() is None:
            raise InputError("this model has no vision tower: load it with llava.model.builder.load_pretrained_model")
        visual = self.embed_images(images, image_sizes) if image_num else []
        self.num_visual_tokens = [len(tokens) for tokens in visual]

        remaining, embed = iter(visual), self.model.embed_tokens
        limit = self.config.tokenizer_model_max_length if self.training else None
        row_labels = labels if labels is not None else torch.zeros_like(input_ids)
        rows = [splice(ids[m], lab[m], remaining, embed, limit) for ids, lab, m in zip(input_ids, row_labels, mask)]
        self.check_context(max(len(embeds) for embeds, _ in rows))

        def pad(sequences: list[torch.Tensor], value: int = 0) -> torch.Tensor:
            return pad_sequence(sequences, batch_first=True, padding_value=value, padding_side=padding_side)

        new_mask = pad([torch.ones_like(row) for _, row in rows])
        new_labels = pad([row for _, row in rows], IGNORE_INDEX if labels is not None else 0)
        embeds = pad([embeds for embeds, _ in rows])
        if labels is None:  # only visual tokens have then been told to be ignored
            self.visual_mask, new_labels = (new_labels == IGNORE_INDEX), None
        return embeds, new_mask, new_labels

    def check_context(self, length: int) -> None:
        """Raise InputError if a prompt of so many tokens is longer than the context."""
        limit = self.config.max_position_embeddings
        if length > limit:
            raise InputError(f"the prompt is longer than the context: {length} tokens, the model takes {limit}")

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        images: torch.Tensor | list[torch.Tensor] | None = None,
        image_sizes: list[tuple[int, int]] | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        visual_mask: torch.BoolTensor | None = None,
        **kwargs,
    ):
        """The language model's forward, for prompts with images; see `prepare_inputs_labels_for_multimodal`.

        `visual_mask`, where the prompts' visual tokens are, is for methods that prune in the decoder: a step of
        generation has it from `generate`.

        In training mode, ids with labels give the loss alone (see `training_loss`).
        """
        if self.training and labels is not None and inputs_embeds is None:
            items = kwargs.get("num_items_in_batch")
            return training_loss(self, input_ids, attention_mask, labels, images, image_sizes, items)
        if inputs_embeds is None:
            input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels = (
                self.prepare_inputs_labels_for_multimodal(
                    input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes
                )
            )
            visual_mask = self.visual_mask if inputs_embeds is not None else visual_mask
        if visual_mask is not None and self.prunes_in_decoder:
            if labels is not None:
                raise InputError(f"{self.pruning_method} drops tokens on the way: there is no loss with labels")
            share = min(1.0, self.visual_token_num / self.get_vision_tower().num_patches)
            prune_decoder = load_method(self.pruning_method).prune_decoder
            kwargs |= {"prune_decoder": prune_decoder, "visual_mask": visual_mask, "visual_share": share}
        options = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": return_dict,
        }
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{name: value for name, value in options.items() if value is not None},
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        images: torch.Tensor | list[torch.Tensor] | None = None,
        image_sizes: list[tuple[int, int]] | None = None,
        **kwargs,
    ) -> torch.LongTensor:
        """Answer prompts: (B, length) ids with -200 for each image -> (B, new) ids of the answers alone.

        `kwargs` are transformers' generation options, `attention_mask` among them; without `max_new_tokens` an answer
        goes on to the end of the context. Raises InputError as `prepare_inputs_labels_for_multimodal` does.
        """
        inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
        if inputs is None or "inputs_embeds" in kwargs:
            raise ValueError("generate takes token ids (`inputs`), not `inputs_embeds`")
        kwargs.pop("position_ids", None)
        inputs_embeds, attention_mask, _ = self.embed_prompts(
            inputs, kwargs.pop("attention_mask", None), None, images, image_sizes, "left"
        )
        if self.prunes_in_decoder:
            kwargs["visual_mask"] = self.visual_mask
        return self.generate_from_embeds(inputs_embeds, attention_mask, inputs_embeds.shape[1], **kwargs)

    @torch.no_grad()
    def generate_from_embeds(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.LongTensor, length: int, **kwargs
    ) -> torch.LongTensor:
        """Answer prompts of at most `length` tokens that are embedded already; the rest as `generate`.

        Args:
            inputs_embeds: (B, longest, D), padded on the left.
            attention_mask: (B, longest), 0 where there is padding.
        """
        room = max(1, self.config.max_position_embeddings - length)
        if self.compile_decoding and can_be_static(kwargs) and not self.prunes_in_decoder:
            new = min(kwargs.get("max_new_tokens") or room, room)
            kwargs["past_key_values"] = self._cache.empty(len(inputs_embeds), inputs_embeds.shape[1] + new)
        if kwargs.get("max_new_tokens") is None and kwargs.get("max_length") is None:
            kwargs["max_new_tokens"] = room
        elif (kwargs.get("max_new_tokens") or 0) > room:
            logger.warning("max_new_tokens %d goes beyond the context: %d are left", kwargs["max_new_tokens"], room)
        if kwargs.get("do_sample", self.generation_config.do_sample):
            kwargs = self.sampling_defaults | kwargs
        return super().generate(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
