"""Names of weights in the layout of transformers' own LLaVA classes <-> in LLaVA's: one table for all who read them."""

import re
from collections.abc import Iterable

from llava.errors import InputError, list_some

# What names begin with: in LLaVA's layout; in the published files of transformers' layout, which transformers 4 reads
# too; and as a pattern of all forms that transformers reads and has written.
_PARTS = (
    (
        "model.vision_tower.vision_tower.vision_model.",
        "vision_tower.vision_model.",
        r"(model\.)?vision_tower\.(vision_model\.)?",
    ),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1.", r"(model\.)?multi_modal_projector\.linear_1\."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2.", r"(model\.)?multi_modal_projector\.linear_2\."),
    ("model.image_newline", "image_newline", r"(model\.)?image_newline$"),
    ("lm_head.", "language_model.lm_head.", r"(language_model\.)?lm_head\.(?=weight$)"),
    ("model.", "language_model.model.", r"(model\.language_model|language_model\.model)\."),
)
_NAMES = tuple((re.compile(pattern), own) for own, _, pattern in _PARTS)
_OWN_NAMES = tuple(
    (re.compile("^" + re.escape(own).replace(r"vision_model\.", r"(vision_model\.)?")), theirs)
    for own, theirs, _ in _PARTS
)


def to_llava_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Names of weights in transformers' layout -> in LLaVA's.

    Raises InputError, naming them, for weights that are no part of a LLaVA, and for two that mean the same.
    """
    renamed: dict[str, str] = {}
    unknown = []
    for name in names:
        found = next(((pattern, new) for pattern, new in _NAMES if pattern.match(name)), None)
        if found is None:
            unknown.append(name)
        else:
            renamed[name] = found[0].sub(found[1], name, count=1)
    if unknown:
        raise InputError(f"{where} has weights that are no part of a LLaVA: {list_some(unknown)}")
    if len(set(renamed.values())) != len(renamed):
        seen: dict[str, str] = {}
        twice = {f"{seen[new]} and {old}" for old, new in renamed.items() if seen.setdefault(new, old) != old}
        raise InputError(f"{where} has weights twice: {list_some(twice)}")
    return renamed


def to_hf_name(name: str) -> str:
    """The name of a weight in LLaVA's layout -> that in llava-hf's files. Raises InputError for one that has none."""
    for pattern, theirs in _OWN_NAMES:
        if pattern.match(name):
            return pattern.sub(theirs, name, count=1)
    raise InputError(f"{name} is no weight of a LLaVA")


def published_name_patterns() -> dict[str, str]:
    """Patterns of names in either layout -> what those of llava-hf's files begin with, to be applied in this order."""
    *parts, (language_model, theirs) = ((pattern.pattern, theirs) for pattern, theirs in _OWN_NAMES)
    # `model.` comes last: in transformers' layout every name may begin so.
    return dict(parts) | {f"^{pattern}": name for _, name, pattern in _PARTS} | {language_model: theirs}
