"""From a checkpoint that answers in words to one with the weights that find letters."""

import shutil
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedTokenizerBase

from llava.checkpoints.folders import get_model_name_from_path
from llava.checkpoints.weight_files import read_weights
from llava.checkpoints.weights import split_tower
from llava.files import read_json_object, write_json
from llava.model.builder import load_pretrained_model
from llava.train.records import Record, read_records
from playground.tiny.language_model.model import TEMPLATE
from playground.tiny.letters.grow import NEW, grow
from playground.tiny.letters.measure import measure
from playground.tiny.options import make_folder
from playground.tiny.questions import options_of

CONVERSATIONS = 1500  # that hidden states are measured on


def option_words(records: list[Record], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids that the options of multiple-choice questions consist of, without the blank before a digit."""
    options = {option for record in records for text, _ in record.turns for option in options_of(text).values()}
    ids = {token for option in options for token in tokenizer(f"A. {option}").input_ids[3:]}
    return sorted(ids - {tokenizer.convert_tokens_to_ids("▁")})


def grow_checkpoint(source: Path, data: Path, output: Path) -> None:
    """Write the checkpoint of `source` with the weights that find letters, measured on the data's conversations.

    Args:
        source: folder of a tiny LLaVA.
        data: folder that playground.tiny.data wrote.
        output: folder of the new checkpoint.
    """
    name = get_model_name_from_path(str(source))
    tokenizer, model, image_processor, _ = load_pretrained_model(str(source), None, name, device="cpu")
    records = read_records(data / "words.json", data / "images", TEMPLATE)
    make_folder(output)
    pictured = [record for record in records if record.image is not None][:CONVERSATIONS]
    states = measure(model.float(), tokenizer, image_processor, pictured)
    letters, answers = (tokenizer.convert_tokens_to_ids([before + x for x in "ABCD"]) for before in ("", "▁"))
    old, _ = split_tower({key: tensor.float() for key, tensor in read_weights(source).items()})
    weights = grow(old, states, option_words(records, tokenizer), letters, answers)

    save_torch_state_dict(weights, output)
    tokenizer.save_pretrained(output)
    shutil.copy(source / "generation_config.json", output)
    config = read_json_object(source / "config.json", "config")
    config["hidden_size"] += NEW
    for key in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers"):
        config[key] += 1
    write_json(output / "config.json", config | {"torch_dtype": "float32"})
