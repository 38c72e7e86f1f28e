"""The pruning settings that a model holds for the calls that give none of their own."""

from dataclasses import fields, replace

from llava.pruning import PruningSettings

_NAMES = tuple(field.name for field in fields(PruningSettings))


def _default(name: str) -> property:
    """The setting `name` as an attribute; what may be assigned is checked as in `PruningSettings`."""

    def read(self):
        return getattr(self.pruning, name)

    def write(self, value) -> None:
        self.pruning = replace(self.pruning, **{name: value})

    return property(read, write, doc=f"`PruningSettings.{name}`; a value that is none is a ValueError.")


class PruningDefaults:
    """Mixin: `pruning` holds a model's settings, and each is an attribute that may be assigned between calls.

    A call that takes settings as arguments (`visual_token_num`, `important_ratio`, `pruning_method`, `pruning_seed`,
    `budget_per`) uses these instead and leaves the model as it is, so that calls in several threads do not disturb each
    other.
    """

    pruning = PruningSettings()
    visual_token_num = _default("visual_token_num")
    important_ratio = _default("important_ratio")
    pruning_method = _default("pruning_method")
    pruning_seed = _default("pruning_seed")
    budget_per = _default("budget_per")

    def take_pruning(self, options: dict) -> PruningSettings:
        """Remove the settings of a call from its keyword arguments: the model's own, less those that are given."""
        given = {name: options.pop(name) for name in _NAMES if name in options}
        return replace(self.pruning, **given) if given else self.pruning
