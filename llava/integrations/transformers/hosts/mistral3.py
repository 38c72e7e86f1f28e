"""Mistral Small 3.1 and later: Pixtral's tower, 2 x 2 patches merged into a token."""

from llava.integrations.transformers.hosts.pixtral import PixtralHost


class Mistral3Host(PixtralHost):
    models = ("Mistral3ForConditionalGeneration",)


HOST = Mistral3Host()
