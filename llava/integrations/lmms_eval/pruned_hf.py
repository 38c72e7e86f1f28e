"""`lmms_eval --model pruned_hf`: transformers' own vision-language models with their visual tokens pruned."""

import logging
from collections.abc import Iterator
from itertools import groupby, takewhile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import InputError, one_line
from llava.files import read_text
from llava.inference.images import open_image
from llava.inference.request import check_placeholders
from llava.integrations.lmms_eval.arguments import read_batch_size, read_dtype, refuse_unknown
from llava.integrations.lmms_eval.base import Message, PrunedModel
from llava.integrations.transformers import count_tokens, prune
from llava.integrations.transformers import downsample as make_smaller
from llava.integrations.transformers.budget import Budget
from llava.pruning.settings import pop_settings, takes_settings

PROMPTS_AT_ONCE = 8  # where batch_size is "auto"
logger = logging.getLogger(__name__)


class PrunedHf(PrunedModel):
    """A model that `llava.integrations.transformers.prune` takes, asked in its processor's chat template."""

    @takes_settings
    def __init__(
        self,
        pretrained: str | None = None,
        visual_token_num: int | float | None = None,
        chat_template: str | None = None,
        batch_size: int | str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        downsample: int | None = None,
        **settings,
    ) -> None:
        """
        Args:
            pretrained: checkpoint folder or hub id in transformers' layout.
            visual_token_num, settings: see `prune`.
            chat_template: a file of Jinja in place of the processor's own template.
            batch_size: prompts answered at once; 8 if None or "auto".
            device: "cuda" (the CPU where there is no GPU), "cuda:N" or "cpu".
            dtype: of the weights, "float16", "bfloat16" or "float32"; float16 on a GPU and float32 on a CPU if None.
            downsample: visual tokens that a picture has at most because it is made smaller, in place of pruning.

        Raises InputError or ValueError, naming the argument, before weights are loaded, and InputError for what cannot
        be loaded or is no model that can be pruned.
        """
        others = pop_settings(settings)
        refuse_unknown("pruned_hf", type(self), settings)
        if not isinstance(pretrained, str):
            raise InputError("pruned_hf needs the model argument pretrained: a checkpoint folder or hub id")
        Budget.from_options(visual_token_num, **others)
        if downsample is not None and visual_token_num is not None:
            raise InputError("downsample takes the place of visual_token_num: give one of the two")
        self._template = None if chat_template is None else read_text(Path(chat_template), "chat template")
        wanted = read_dtype(dtype)
        super().__init__(read_batch_size(batch_size) or PROMPTS_AT_ONCE)
        place = self.own_device(device)
        if place == "cuda" and not torch.cuda.is_available():
            place = "cpu"
        wanted = wanted or (torch.float32 if place == "cpu" else torch.float16)
        try:
            self.processor = AutoProcessor.from_pretrained(pretrained)
            model = AutoModelForImageTextToText.from_pretrained(pretrained, dtype=wanted)
        except (OSError, ValueError) as error:  # transformers': it is not there, or another kind of model
            raise InputError(f"cannot load {pretrained}: {one_line(error)}") from error
        if self._template is None and not getattr(self.processor, "chat_template", None):
            raise InputError(
                f"the processor of {pretrained} has no chat template: give the model argument chat_template"
            )
        self._is_downsampled, self._numbers = downsample is not None, []
        if self._is_downsampled:
            make_smaller(self.processor, downsample)
        self.processor.tokenizer.padding_side = "left"
        self.model = prune(model.to(place).eval(), visual_token_num, **others)

    def _windows(self, requests: list) -> Iterator[list[tuple]]:
        yield from super()._windows(requests)
        if self._numbers:
            mean = sum(self._numbers) / len(self._numbers)
            logger.warning("downsample: a picture had %.1f visual tokens on average", mean)
            self._numbers = []

    @torch.inference_mode()
    def answer(self, messages: list[Message], options: dict) -> list[str]:
        answers = []
        # Processors take batches in which every prompt has as many pictures.
        for _, group in groupby(messages, key=lambda message: len(message.pictures)):
            alike = list(group)
            for start in range(0, len(alike), self.batch_size):
                inputs = self._inputs([_turns(message) for message in alike[start : start + self.batch_size]])
                output = self.model.generate(**inputs, **options)
                new = output[:, inputs["input_ids"].shape[1] :]
                answers += [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]
        return answers

    @torch.inference_mode()
    def answer_losses(self, messages: list[Message], answers: list[str]) -> list[tuple[float, bool]]:
        losses = []
        for message, answer in zip(messages, answers, strict=True):
            turns = _turns(message)
            said = {"role": "assistant", "content": [{"type": "text", "text": answer.strip()}]}
            prompt, whole = self._inputs([turns]), self._inputs([[*turns, said]], goes_on=False)
            pairs = zip(prompt["input_ids"][0].tolist(), whole["input_ids"][0].tolist())
            ids = whole["input_ids"][0, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :]
            if not len(ids):
                raise InputError(f"{message.name} has an answer without a token")
            logits = self.model(**whole, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1].float()
            losses.append((float(cross_entropy(logits, ids)), bool((logits.argmax(dim=1) == ids).all())))
        return losses

    def clean(self) -> None:
        """Free the model's memory, for a judge that lmms-eval runs on the same GPU."""
        self.model = None
        super().clean()

    def _inputs(self, conversations: list[list[dict]], goes_on: bool = True):
        """What the model takes for conversations; `goes_on` leaves the answer to it."""
        inputs = self.processor.apply_chat_template(
            conversations,
            chat_template=self._template,
            add_generation_prompt=goes_on,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        if self._is_downsampled:
            self._numbers += count_tokens(self.processor, inputs)
        return inputs.to(self.model.device, self.model.dtype)


def _turns(message: Message) -> list[dict]:
    """A message as a conversation of transformers, its pictures where their placeholders are, or else in front.

    Raises InputError if a picture cannot be read, or if there are not as many placeholders.
    """
    pictures = [open_image(picture, message.name, as_displayed=False) for picture in message.pictures]
    text = message.text
    if pictures and DEFAULT_IMAGE_TOKEN not in text:
        text = DEFAULT_IMAGE_TOKEN * len(pictures) + text
    check_placeholders(text, len(pictures), message.name)
    first, *rest = text.split(DEFAULT_IMAGE_TOKEN)
    content = [{"type": "text", "text": first}]
    for picture, part in zip(pictures, rest, strict=True):
        content += [{"type": "image", "image": picture}, {"type": "text", "text": part}]
    return [{"role": "user", "content": [part for part in content if part.get("text") != ""]}]
