"""Upstream's place for `auto_upgrade`."""

from pathlib import Path

from llava.checkpoints.folders import find_folder, get_model_name_from_path
from llava.errors import InputError
from llava.files import read_json_object


def auto_upgrade(config: str | Path) -> None:
    """Refuse a checkpoint from before LLaVA's release, whose config does not say that it is a LLaVA.

    Args:
        config: folder or hub id of the checkpoint.

    Upstream asks on the terminal and rewrites the user's config; here the error says what to write. Other checkpoints
    pass. Raises InputError.
    """
    folder = find_folder(str(config), "checkpoint")
    model_type = read_json_object(folder / "config.json", "config").get("model_type")
    if "llava" in get_model_name_from_path(str(config)).lower() and "llava" not in str(model_type):
        raise InputError(
            f"{folder / 'config.json'} is from before LLaVA's release: set model_type, now {model_type!r}, "
            'to "llava" and architectures to ["LlavaLlamaForCausalLM"]'
        )
