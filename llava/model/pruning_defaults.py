"""The pruning settings that a model holds for the calls that give none of their own."""

from dataclasses import replace

from llava.pruning.settings import NAMES, Settings, take_settings


def _default(name: str) -> property:
    """The setting `name` as an attribute; what may be assigned is checked as in `Settings`."""

    def read(self):
        return getattr(self.pruning, name)

    def write(self, value) -> None:
        self.pruning = replace(self.pruning, **{name: value})

    return property(read, write, doc=f"`Settings.{name}`; an invalid value is a ValueError.")


class PruningDefaults:
    """Mixin: `pruning` holds a model's settings, and each is an attribute that may be assigned between calls.

    A call that takes settings as arguments (`visual_token_num`, ...) uses these instead and leaves the model as it is,
    so that calls in several threads do not disturb each other.
    """

    pruning = Settings()

    def take_pruning(self, options: dict) -> Settings:
        """Remove the settings of a call from its keyword arguments: the model's own, less those that are given."""
        return take_settings(options, self.pruning)


for _name in NAMES:
    setattr(PruningDefaults, _name, _default(_name))
