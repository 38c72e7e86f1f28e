"""A causal language model with image input: its loss, its logits, its answers. The families add a host class each."""

import logging

import torch
from torch import nn
from transformers import PreTrainedModel

from llava.checkpoints.tokenizer import load_tokenizer
from llava.errors import InputError
from llava.model.answer_loss import training_loss
from llava.model.argument_checks import check_attentions, check_embeds, check_modalities
from llava.model.fixed_cache import FixedCache
from llava.model.gaps import keep_whole, positions_after, remember_call, trim_positions
from llava.model.generation_defaults import all_options, spell_out
from llava.model.llava_arch import LlavaMetaForCausalLM
from llava.model.splice import EmbeddedPrompts, check_answerable
from llava.model.steps import Prompts, begun, sample
from llava.pruning import Settings
from llava.pruning.kv_cache import CACHE, cache_in, take_cache

logger = logging.getLogger(__name__)


class LlavaCausalLM(LlavaMetaForCausalLM):
    """Mixin in front of a `...ForCausalLM` class of transformers.

    `sampling_defaults` (temperature, top_p, top_k) hold where a call asks for `do_sample` and does not set them.
    """

    model_class: type[nn.Module]
    read_tokenizer = staticmethod(load_tokenizer)  # from a checkpoint's folder; a family may have another

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        self.model = self.model_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.sampling_defaults: dict[str, float] = {}
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs) -> PreTrainedModel:
        """A checkpoint's model with its vision tower, in eval mode; `loading.from_pretrained` has the arguments."""
        if pretrained_model_name_or_path is None:  # transformers builds it from `state_dict`
            return super().from_pretrained(None, *args, **kwargs)
        from llava.model.loading import from_pretrained

        return from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs)

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
        is_visual: torch.BoolTensor | None = None,
        pruning: Settings | None = None,
        cache=None,
        modalities: str | list[str] | None = None,
        question: str | list[str] | None = None,
        **kwargs,
    ):
        """The language model's forward, for prompts with images; see `prepare_inputs_labels_for_multimodal`.

        Args:
            position_ids: of the ids, or of all tokens. Without them tokens after a cache go on where its own end, which
                is not its number of tokens where `positions` kept the room of images.
            inputs_embeds: (B, length, D) in place of ids; images are then in place already. They need `position_ids`
                where `positions` keeps the room of images.
            is_visual: (B, length) bool, with `inputs_embeds`: where the visual tokens are, for methods that prune
                inside the decoder.
            pruning: the settings of this call; the model's own if None.
            cache: the KV cache, as transformers 5.24 names it; `past_key_values` is the same.
            modalities: LLaVA-NeXT's, "image" alone or a list of it.
            question: what is asked about the images, for methods that choose by it (see `embed_prompts`).
            kwargs: single settings in place of `pruning` (`visual_token_num`, ...), and what the language model takes.

        In training mode, ids with labels give the loss alone (see `training_loss`).
        Raises InputError as `prepare_inputs_labels_for_multimodal` does, and for what the pruning method cannot do.
        """
        cache = past_key_values if cache is None else cache
        pruning = pruning or self.take_pruning(kwargs)
        _refuse(pruning, labels, inputs_embeds, images)
        check_modalities(modalities)
        if self.training and labels is not None and inputs_embeds is None:
            items = kwargs.get("num_items_in_batch")
            return training_loss(self, input_ids, attention_mask, labels, images, image_sizes, items, pruning, question)
        if not torch.compiler.is_compiling():
            trim_positions(cache)
        ends = None
        if inputs_embeds is None and self._has_images(input_ids, images, cache):
            prompts, position_ids, attention_mask = self.embed_after(
                cache, input_ids, position_ids, attention_mask, labels, images, image_sizes, pruning, question
            )
            input_ids, inputs_embeds, labels = None, prompts.inputs_embeds, prompts.labels
            is_visual = prompts.is_visual
            ends = prompts.ends_at(position_ids)
        elif position_ids is None:
            given = input_ids if inputs_embeds is None else inputs_embeds
            position_ids = positions_after(cache, *given.shape[:2], attention_mask)
            if position_ids is None and inputs_embeds is not None:
                _require_positions(pruning)
        kwargs |= _given(
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=return_dict
        )
        if pruning.prunes_in_decoder:
            kwargs |= self._decoder_pruning(pruning, is_visual, input_ids, kwargs)
        check_attentions(output_attentions, self.config)
        is_placed = pruning.keeps_room and position_ids is not None and not torch.compiler.is_compiling()
        if is_placed:
            position_ids = position_ids.expand(len(input_ids if inputs_embeds is None else inputs_embeds), -1)
            kwargs |= keep_whole(position_ids, attention_mask, cache)
            attention_mask = kwargs.pop("attention_mask")
        output = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{CACHE: cache},
            **kwargs,
        )
        if is_placed:
            remember_call(cache, output, position_ids, attention_mask, is_visual, ends)
        return output

    def _decoder_pruning(
        self,
        pruning: Settings,
        is_visual: torch.BoolTensor | None,
        input_ids: torch.LongTensor | None,
        options: dict,
    ) -> dict:
        """The arguments that make the decoder drop visual tokens; ids without images have none.

        Raises InputError for what it cannot give.
        """
        for name in ("output_hidden_states", "output_attentions"):
            if options.get(name, getattr(self.config, name, False)):
                raise InputError(
                    f"{pruning.pruning_method} drops tokens on the way: it gives no {name.split('_', 1)[1]}"
                )
        if is_visual is None and input_ids is not None:
            is_visual = torch.zeros_like(input_ids, dtype=torch.bool)
        if is_visual is None:
            raise InputError(f"{pruning.pruning_method} needs is_visual with inputs_embeds")
        share = pruning.share_in_decoder(self.get_vision_tower().num_patches)
        return {"prune_decoder": pruning.method.prune_decoder, "is_visual": is_visual, "visual_share": share}

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.LongTensor | None = None,
        images: torch.Tensor | list[torch.Tensor] | None = None,
        image_sizes: list[tuple[int, int]] | None = None,
        modalities: str | list[str] | None = None,
        question: str | list[str] | None = None,
        **kwargs,
    ) -> torch.LongTensor:
        """Answer prompts: (B, length) ids with -200 for each image -> (B, new) ids of the answers alone.

        In place of ids, `inputs_embeds` (B, length, D) are prompts that are complete, padded on the left; methods that
        prune inside the decoder need `is_visual` too, and `positions` that keep the room of images their `position_ids`
        (B, length). `modalities` are LLaVA-NeXT's, "image" or a list of it.
        `question` is what methods choose by that depend on it, one for each image or one for all; if None, it is read
        from the ids.

        `kwargs` are the settings of this call (`visual_token_num`, `important_ratio`, `pruning_method`, `pruning_seed`,
        `budget_per`, `positions`, or `pruning`) and transformers' generation options, `attention_mask` among them;
        without `max_new_tokens`, there or in the checkpoint's generation config, an answer goes on to the end of the
        context. `max_length` counts the prompt's ids too, one for each image.
        Raises InputError as `prepare_inputs_labels_for_multimodal` does, and for `position_ids` of ids, which are
        computed here.
        """
        inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
        embeds, mask = kwargs.pop("inputs_embeds", None), kwargs.pop("attention_mask", None)
        check_modalities(modalities)
        check_embeds(inputs, embeds, images, mask)
        position_ids = kwargs.pop("position_ids", None)
        if position_ids is not None and embeds is None:
            raise InputError("generate computes the positions itself: it takes no position_ids")
        pruning = kwargs.pop("pruning", None) or self.take_pruning(kwargs)
        kwargs = spell_out(kwargs)
        if embeds is not None:
            mask = embeds.new_ones(embeds.shape[:2], dtype=torch.long) if mask is None else mask
            kwargs = _without_max_length(kwargs, embeds.shape[1])
            length = _length_of(embeds, position_ids, pruning)
            self.check_context(length)
            return self.generate_from_embeds(embeds, mask, length, pruning=pruning, position_ids=position_ids, **kwargs)
        kwargs = _without_max_length(kwargs, inputs.shape[1])
        prompts = self.embed_prompts(inputs, mask, None, images, image_sizes, "left", pruning, question)
        return self.answer(prompts, pruning, **kwargs)

    def answer(self, prompts: EmbeddedPrompts, pruning: Settings | None = None, **kwargs) -> torch.LongTensor:
        """As `generate_from_embeds`, of prompts padded on the left. Raises InputError as `check_answerable` does."""
        positions = prompts.positions()
        check_answerable(positions, prompts.next_position)
        embeds, mask = prompts.inputs_embeds, prompts.attention_mask
        return self.generate_from_embeds(
            embeds, mask, prompts.furthest, prompts.is_visual, pruning, positions, **kwargs
        )

    @torch.no_grad()
    def generate_from_embeds(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.LongTensor,
        length: int,
        is_visual: torch.BoolTensor | None = None,
        pruning: Settings | None = None,
        position_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> torch.LongTensor:
        """Answer prompts that are embedded already; the rest as `generate`.

        Args:
            inputs_embeds: (B, longest, D), padded on the left.
            attention_mask: (B, longest), 0 where there is padding.
            length: the greatest position at which an answer begins.
            is_visual: (B, longest) bool, needed by methods that prune inside the decoder.
            pruning: the settings of this call; the model's own if None.
            position_ids: (B, longest); None for one after another.
            kwargs: generation options, and a cache that holds the first of these tokens.
        """
        pruning, cache = pruning or self.pruning, take_cache(kwargs)
        kwargs = spell_out(kwargs)
        options = all_options(self, kwargs)
        room = max(1, self.config.max_position_embeddings - length)
        if (new := options.get("max_new_tokens")) is None and options.get("max_length") is None:
            kwargs["max_new_tokens"] = new = room
        elif (new or 0) > room:
            logger.warning("max_new_tokens %d goes beyond the context: %d are left", new, room)
        if options.get("do_sample"):
            kwargs = self.sampling_defaults | kwargs
        kwargs |= {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        if position_ids is not None:
            kwargs["position_ids"] = position_ids
        if pruning.keeps_room or pruning.prunes_in_decoder:  # what `forward` has to know of them in every step
            kwargs |= {"is_visual": is_visual, "pruning": pruning}
        if self.records:
            prompts = Prompts(inputs_embeds, attention_mask, position_ids, is_visual if pruning.keeps_room else None)
            with begun(self, prompts, options, pruning, cache, new or room, room) as fixed:
                if fixed is not None:
                    return super().generate(**kwargs, **{CACHE: fixed})
        if cache is not None:
            kwargs[CACHE] = cache
        return super().generate(**kwargs)

    def _sample(
        self,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        synced_gpus=False,
        streamer=None,
        **kwargs,
    ):
        """transformers' loop of greedy decoding and sampling; where a `FixedCache` has the prompts, `steps.sample`."""
        options = input_ids, logits_processor, stopping_criteria, generation_config
        if isinstance(fixed := cache_in(kwargs), FixedCache):
            return sample(fixed, *options, streamer)
        return super()._sample(*options, synced_gpus=synced_gpus, streamer=streamer, **kwargs)


def _require_positions(pruning: Settings) -> None:
    """Raise InputError where embeddings do not tell the positions of their tokens."""
    if pruning.keeps_room:
        raise InputError(f"positions {pruning.positions!r} needs position_ids with inputs_embeds")


def _length_of(embeds: torch.Tensor, position_ids: torch.LongTensor | None, pruning: Settings) -> int:
    """Where answers to embedded prompts begin at most. Raises InputError for positions that are missing or no fit."""
    if position_ids is None:
        _require_positions(pruning)
        return embeds.shape[1]
    if position_ids.shape != embeds.shape[:2]:
        raise InputError(f"position_ids must be {tuple(embeds.shape[:2])}, got {tuple(position_ids.shape)}")
    return int(position_ids.max()) + 1


def _refuse(pruning: Settings, labels, inputs_embeds, images) -> None:
    """Raise InputError for arguments of `forward` that do not go together."""
    if labels is not None and pruning.prunes_in_decoder:
        raise InputError(f"{pruning.pruning_method} drops tokens on the way: there is no loss with labels")
    if inputs_embeds is not None and images is not None:
        raise InputError("images go with input_ids: inputs_embeds have their visual tokens in place already")


def _given(**options) -> dict:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _without_max_length(options: dict, length: int) -> dict:
    """Generation options with `max_new_tokens` in place of `max_length`, which counts `length` tokens of prompt.

    transformers would take the length with the images in place from it. Raises InputError where no room is left.
    """
    options = dict(options)
    most = options.pop("max_length", None)
    if most is not None and options.get("max_new_tokens") is None:
        if most <= length:
            raise InputError(f"max_length {most} leaves no room after a prompt of {length} tokens: see max_new_tokens")
        options["max_new_tokens"] = most - length
    return options
