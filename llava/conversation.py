"""Prompt templates: how system message, turns and separators become the text a checkpoint was trained on.

Names, fields and templates are upstream LLaVA's, since every published checkpoint depends on them to the letter.
"""

import base64
import dataclasses
import re
from enum import Enum, auto
from io import BytesIO

from PIL import Image, ImageOps

from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    DEFAULT_IMAGE_TOKEN,
)
from llava.errors import InputError


class SeparatorStyle(Enum):
    """How the turns of a conversation are joined."""

    SINGLE = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    LLAMA_2 = auto()
    CHATML = auto()
    LLAMA_3 = auto()
    GEMMA = auto()


@dataclasses.dataclass
class Conversation:
    """A template and the turns said so far.

    `messages` holds [role, message] pairs; a message is text, (text, image, image_process_mode), or None where the
    model is to go on. An empty text is an answer that said nothing: it is written with what ends an answer. `offset` is
    the number of example turns the template brings along.
    """

    system: str
    roles: tuple[str, str]
    messages: list
    offset: int
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"
    skip_next: bool = False

    def get_prompt(self) -> str:
        """The whole conversation as the text to tokenize."""
        turns = [(role, message[0] if isinstance(message, tuple) else message) for role, message in self._turns()]
        if self.sep_style is SeparatorStyle.LLAMA_2:
            return self._llama_2_prompt(turns)
        if self.sep_style is SeparatorStyle.LLAMA_3:
            return self._llama_3_prompt(turns)
        if self.sep_style is SeparatorStyle.CHATML:
            said = [f"{role}\n" + ("" if message is None else f"{message}{self.sep}\n") for role, message in turns]
            return (f"{self.system}{self.sep}\n" if self.system else "") + "".join(said)
        if self.sep_style is SeparatorStyle.GEMMA:
            return "".join(role if message is None else role + message + self.sep for role, message in turns)
        if self.sep_style is SeparatorStyle.PLAIN:
            seps = (self.sep, self.sep2 or "")
            return self.system + "".join(m + seps[i % 2] for i, (_, m) in enumerate(turns) if m is not None)
        if self.sep_style is SeparatorStyle.MPT:
            said = [role if message is None else role + message + self.sep for role, message in turns]
            return self.system + self.sep + "".join(said)
        seps = (self.sep, self.sep2 if self.sep_style is SeparatorStyle.TWO else self.sep)
        text = self.system + seps[0]
        for i, (role, message) in enumerate(turns):
            text += f"{role}:" if message is None else f"{role}: {message}{seps[i % 2]}"
        return text

    def _turns(self) -> list:
        """The messages, with an image that came with the first one put where this template wants it."""
        if not self.messages or not isinstance(self.messages[0][1], tuple):
            return self.messages
        role, (text, *_) = self.messages[0]
        text = text.replace("<image>", "").strip()
        if "mmtag" in self.version:
            image_turns = [(self.roles[0], "<Image><image></Image>"), (self.roles[1], "Received.")]
            return [*image_turns, (role, text), *self.messages[1:]]
        return [(role, "<image>\n" + text), *self.messages[1:]]

    def _llama_2_prompt(self, turns: list) -> str:
        if turns and (turns[0][0] != self.roles[0] or not turns[0][1]):
            raise InputError(f"a {self.version} conversation must begin with a message of {self.roles[0]}")
        text = ""
        for i, (_, message) in enumerate(turns):
            if message is None:
                continue
            if i == 0 and self.system:
                message = f"<<SYS>>\n{self.system}\n<</SYS>>\n\n{message}"
            text += f"{self.sep}[INST] {message} [/INST]" if i % 2 == 0 else f" {message} {self.sep2}"
        return text.removeprefix(self.sep)

    def _llama_3_prompt(self, turns: list) -> str:
        system = [("system", self.system)] if self.system else []
        said = [
            f"<|start_header_id|>{role}<|end_header_id|>\n\n{'' if message is None else message.strip() + self.sep}"
            for role, message in [*system, *turns]
        ]
        return "<|begin_of_text|>" + "".join(said)

    def append_message(self, role: str, message) -> None:
        """Add a turn; `message` None marks where the model's answer begins."""
        self.messages.append([role, message])

    def process_image(
        self,
        image: Image.Image,
        image_process_mode: str,
        return_pil: bool = False,
        image_format: str = "PNG",
        max_len: int = 1344,
        min_len: int = 672,
    ) -> Image.Image | str:
        """Make an image fit for display: `Pad` to a square, `Resize` to 336 x 336, or keep (`Default`, `Crop`).

        Long sides are cut down so that they stay within [min_len, max_len] pixels. Returns the PIL image, or its
        base64 text in `image_format`.
        """
        if image_process_mode == "Pad":
            image = ImageOps.pad(image, (max(image.size),) * 2, color=(122, 116, 104))
        elif image_process_mode == "Resize":
            image = image.resize((336, 336))
        elif image_process_mode not in ("Default", "Crop"):
            raise InputError(f"unknown image_process_mode {image_process_mode!r}: Pad, Resize, Default or Crop")
        longest, shortest = max(image.size), min(image.size)
        if longest > max_len:
            short_side = int(min(max_len * shortest / longest, min_len, shortest))
            scale = short_side / shortest
            image = image.resize((int(image.width * scale), int(image.height * scale)))
        if return_pil:
            return image
        buffer = BytesIO()
        image.save(buffer, format=image_format)
        return base64.b64encode(buffer.getvalue()).decode()

    def get_images(self, return_pil: bool = False) -> list:
        """The user's images in order, as PIL images or as base64 PNG text."""
        said = [message for _, message in self.messages[self.offset :: 2] if isinstance(message, tuple)]
        return [self.process_image(image, mode, return_pil=return_pil) for _, image, mode in said]

    def to_gradio_chatbot(self) -> list:
        """[question, answer] pairs for a chat widget, images inlined as HTML."""
        pairs = []
        for i, (_, message) in enumerate(self.messages[self.offset :]):
            if i % 2:
                pairs[-1][1] = message
            elif isinstance(message, tuple):
                text, image, _ = message
                data = self.process_image(image, "Default", image_format="JPEG")
                tag = f'<img src="data:image/jpeg;base64,{data}" alt="user upload image" />'
                pairs.append([tag + text.replace("<image>", "").strip(), None])
            else:
                pairs.append([message, None])
        return pairs

    def copy(self) -> "Conversation":
        """A conversation that can be continued without changing this one."""
        return dataclasses.replace(self, messages=[list(turn) for turn in self.messages])

    def dict(self) -> dict:
        """The fields as JSON-ready values; images are left out of their messages."""
        texts = [[role, message[0] if isinstance(message, tuple) else message] for role, message in self.messages]
        fields = ("system", "roles", "offset", "sep", "sep2")
        return {name: getattr(self, name) for name in fields} | {"messages": texts}


_CURIOUS_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_IMAGE_TAGS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_LLAVA_LLAMA_2 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_RENEWABLE_ENERGY = [
    ["Human", "What are the key differences between renewable and non-renewable energy sources?"],
    [
        "Assistant",
        "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, "
        "such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are "
        "finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences "
        "between renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources "
        "are finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
        "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
        "operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations "
        "than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations "
        "and needs, while non-renewable sources are more rigid and inflexible.\n"
        "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable "
        "sources are not, and their depletion can lead to economic and social instability.\n",
    ],
]
_MPT = (
    "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers."
)


def _single(system: str, version: str) -> Conversation:
    """Vicuna v0's style: `###` after every turn."""
    return Conversation(system, ("Human", "Assistant"), [], 0, SeparatorStyle.SINGLE, "###", version=version)


def _two(system: str, version: str) -> Conversation:
    """Vicuna v1's style: a space after the user's turn, `</s>` after the assistant's."""
    return Conversation(system, ("USER", "ASSISTANT"), [], 0, SeparatorStyle.TWO, " ", "</s>", version)


def _llama_2(system: str, sep: str) -> Conversation:
    """Llama-2's style: `[INST] ... [/INST]` around the user's turn."""
    return Conversation(system, ("USER", "ASSISTANT"), [], 0, SeparatorStyle.LLAMA_2, sep, "</s>", "llama_v2")


def _mpt(system: str) -> Conversation:
    """ChatML without line breaks between turns."""
    roles = ("<|im_start|>user\n", "<|im_start|>assistant\n")
    return Conversation(system, roles, [], 0, SeparatorStyle.MPT, "<|im_end|>", version="mpt")


conv_vicuna_v0 = dataclasses.replace(_single(_CURIOUS_HUMAN, "Unknown"), messages=_RENEWABLE_ENERGY, offset=2)
conv_vicuna_v1 = _two(_CURIOUS_USER, "v1")
conv_llama_2 = _llama_2(_LLAMA_2, "<s>")
conv_llava_llama_2 = _llama_2(_LLAVA_LLAMA_2, "<s>")
conv_mistral_instruct = _llama_2("", "")
conv_chatml_direct = _mpt("<|im_start|>system\nAnswer the questions.")
conv_mpt = _mpt(_MPT)
conv_qwen = Conversation(
    "<|im_start|>system\nYou are a helpful assistant.",
    ("<|im_start|>user", "<|im_start|>assistant"),
    [],
    0,
    SeparatorStyle.CHATML,
    "<|im_end|>",
    version="qwen",
)
conv_llava_llama_3 = Conversation(
    _LLAVA_LLAMA_2, ("user", "assistant"), [], 0, SeparatorStyle.LLAMA_3, "<|eot_id|>", version="llama_v3"
)
conv_gemma_instruct = Conversation(
    "",
    ("<start_of_turn>user\n", "<start_of_turn>model\n"),
    [],
    0,
    SeparatorStyle.GEMMA,
    "<end_of_turn>\n",
    version="gemma",
)
conv_llava_plain = Conversation("", ("", ""), [], 0, SeparatorStyle.PLAIN, "\n")
conv_llava_v0 = _single(_CURIOUS_HUMAN, "v0")
conv_llava_v0_mmtag = _single(_IMAGE_TAGS, "v0_mmtag")
conv_llava_v1 = _two(_CURIOUS_HUMAN, "v1")
conv_llava_v1_mmtag = _two(_IMAGE_TAGS, "v1_mmtag")

default_conversation = conv_vicuna_v1
conv_templates = {
    "default": conv_vicuna_v0,
    "v0": conv_vicuna_v0,
    "v1": conv_vicuna_v1,
    "vicuna_v1": conv_vicuna_v1,
    "llama_2": conv_llama_2,
    "mistral_instruct": conv_mistral_instruct,
    "chatml_direct": conv_chatml_direct,
    "mistral_direct": conv_chatml_direct,
    "qwen_1_5": conv_qwen,
    "qwen_2": conv_qwen,
    "qwen_2_5": conv_qwen,
    "llava_llama_3": conv_llava_llama_3,
    "llava_mistral_instruct": conv_mistral_instruct,
    "gemma_instruct": conv_gemma_instruct,
    "plain": conv_llava_plain,
    "v0_plain": conv_llava_plain,
    "llava_v0": conv_llava_v0,
    "v0_mmtag": conv_llava_v0_mmtag,
    "llava_v1": conv_llava_v1,
    "v1_mmtag": conv_llava_v1_mmtag,
    "llava_llama_2": conv_llava_llama_2,
    "mpt": conv_mpt,
}
CHAT_TEMPLATE = "chat_template"  # the conversation mode that is the checkpoint's tokenizer's own


AROUND_IMAGES = (DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN)


_PICTURE = re.compile(
    f"(?:{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}|{DEFAULT_IMAGE_TOKEN})\n?"
)


def without_pictures(prompt: str) -> str:
    """A prompt less the places of its images: their tokens and, after each, the line break that follows it."""
    return _PICTURE.sub("", prompt)


def question_in(message: str) -> str:
    """What a user's message asks: its text without the places of its images."""
    for token in AROUND_IMAGES:
        message = message.replace(token, "")
    return " ".join(filter(None, map(str.strip, message.split(DEFAULT_IMAGE_TOKEN))))


def check_conv_mode(conv_mode: str) -> None:
    """Raise InputError for a name that is neither in `conv_templates` nor `chat_template`."""
    if conv_mode not in conv_templates and conv_mode != CHAT_TEMPLATE:
        known = ", ".join([*conv_templates, CHAT_TEMPLATE])
        raise InputError(f"unknown conversation mode {conv_mode!r}; known: {known}")


def get_conversation(conv_mode: str) -> Conversation:
    """A fresh conversation in the template `conv_mode`. Raises InputError for a name that `conv_templates` lacks."""
    if conv_mode not in conv_templates:
        raise InputError(f"unknown conversation mode {conv_mode!r}; known: {', '.join(conv_templates)}")
    return conv_templates[conv_mode].copy()
