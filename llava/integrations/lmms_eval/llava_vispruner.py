"""`lmms_eval --model llava_vispruner`: LLaVA with its visual tokens pruned."""

from llava.checkpoints.folders import get_model_name_from_path
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import question_in
from llava.errors import InputError
from llava.inference import Engine, Request
from llava.inference.likelihood import answer_losses
from llava.inference.request import mark_images
from llava.integrations.lmms_eval.arguments import check_conv_template, read_batch_size, read_dtype, refuse_unknown
from llava.integrations.lmms_eval.base import Message, PrunedModel
from llava.model.builder import load_pretrained_model
from llava.pruning.settings import take_settings, takes_settings


class LlavaVisPruner(PrunedModel):
    """A LLaVA checkpoint with settings of pruning, asked by the engine that `python -m llava.eval` asks.

    Pixels are float32 up to the vision tower: pixels of half precision change what is kept.
    """

    @takes_settings
    def __init__(
        self,
        pretrained: str | None = None,
        conv_template: str | None = None,
        batch_size: int | str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        **settings,
    ) -> None:
        """
        Args:
            pretrained: checkpoint folder or hub id.
            settings: those of `llava.pruning.Settings`, by name.
            conv_template: the prompt template, or "chat_template" for the tokenizer's own; the one of the checkpoint's
                published figures if None.
            batch_size: requests answered at once; as many as memory allows if None or "auto".
            device: "cuda" (the CPU where there is no GPU), "cuda:N" or "cpu".
            dtype: of the weights, "float16", "bfloat16" or "float32"; float16 on a GPU and float32 on a CPU if None.

        Raises InputError or ValueError, naming the argument, before weights are loaded.
        """
        pruning = take_settings(settings)
        refuse_unknown("llava_vispruner", type(self), settings)
        if not isinstance(pretrained, str):
            raise InputError("llava_vispruner needs the model argument pretrained: a checkpoint folder or hub id")
        check_conv_template(conv_template)
        torch_dtype = read_dtype(dtype)
        super().__init__(read_batch_size(batch_size))
        name = get_model_name_from_path(pretrained)
        loaded = load_pretrained_model(pretrained, None, name, device=self.own_device(device), torch_dtype=torch_dtype)
        loaded.model.pruning = pruning
        self.config = loaded.model.config
        self.template = loaded.find_template(conv_template) if conv_template else loaded.template
        self.engine: Engine | None = Engine(loaded, self.batch_size)

    def answer(self, messages: list[Message], options: dict) -> list[str]:
        return [completion.text for completion in self.engine.answer(map(self._request, messages), **options)]

    def answer_losses(self, messages: list[Message], answers: list[str]) -> list[tuple[float, bool]]:
        # A task's answer may begin with a space, to follow other text; the template has its own.
        answered = [self._prompt(message, answer.strip()) for message, answer in zip(messages, answers, strict=True)]
        return list(answer_losses(self.engine, map(self._request, messages), answered))

    def clean(self) -> None:
        """Free the model's memory, for a judge that lmms-eval runs on the same GPU."""
        self.engine = None
        super().clean()

    def _request(self, message: Message) -> Request:
        asked = {"name": message.name, "as_displayed": False, "question": question_in(message.text)}
        return Request(self._prompt(message), message.pictures, **asked)

    def _prompt(self, message: Message, answer: str | None = None) -> str:
        """The conversation up to the answer, or with it. Raises InputError if pictures and placeholders do not match.

        Without placeholders in the text, those of all pictures stand in front of it, on a line of their own.
        """
        text, pictures = message.text, len(message.pictures)
        if pictures and DEFAULT_IMAGE_TOKEN not in text:
            text = " ".join([DEFAULT_IMAGE_TOKEN] * pictures) + f"\n{text}"
        return self.template.prompt(mark_images(text, pictures, self.config, message.name), answer)
