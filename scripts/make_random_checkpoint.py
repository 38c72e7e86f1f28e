"""Make a tiny LLaVA with random weights, in the file layout of the published checkpoints.

Its answers are nonsense. It serves to try the commands, and for tests, without a download of 14 GB. FOLDER gets the
checkpoint, such as `llava-v1.5-llama-tiny-random`, and the folder of its CLIP vision tower, to which its config refers.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from llava.checkpoints.folders import write_errors
from llava.cli import CommandParser, run_command
from llava.errors import InputError, one_line

if TYPE_CHECKING:  # torch and transformers take seconds to import, too long for --help
    import torch
    from transformers import CLIPVisionModel

CLIP = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": 14,
    "image_size": 168,
    "projection_dim": 32,
}
CLIP_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "projection_dim": CLIP["projection_dim"],
}
LANGUAGE_MODEL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
LLAVA = {
    "mm_hidden_size": CLIP["hidden_size"],
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "../clip-vit-tiny-random",
    "max_length": 4096,
    "tokenizer_padding_side": "right",
    "torch_dtype": "float16",
    "use_mm_proj": True,
}
VERSIONS = {
    "v1.5": {"image_aspect_ratio": "pad", "unfreeze_mm_vision_tower": False},
    "v1.6": {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[168, 336], [336, 168], [336, 336], [504, 168], [168, 504]],
        "mm_patch_merge_type": "spatial_unpad",
        "unfreeze_mm_vision_tower": True,
    },
}
ARCHITECTURES = {"llama": "llava", "mistral": "llava_mistral", "qwen": "llava_qwen"}


def make_checkpoint(
    parent: Path, version: str = "v1.5", language_model: str = "llama", shards: int = 2, **config
) -> Path:
    """Write a checkpoint and its CLIP folder into `parent`. Returns the checkpoint's folder.

    Args:
        parent: an existing folder. A CLIP folder of an earlier call is used again.
        version: v1.5 (`.bin` files, the tower from the CLIP folder) or v1.6 (safetensors, with a tower of its own).
        language_model: llama, mistral or qwen.
        shards: number of weight files.
        config: keys of config.json to set.

    Raises InputError if the checkpoint's folder exists or cannot be made.
    """
    import torch

    from llava.model.families import find_family

    torch.manual_seed(0)
    folder, clip_folder = parent / f"llava-{version}-{language_model}-tiny-random", parent / "clip-vit-tiny-random"
    make_folder(folder)
    clip = random_clip()  # also where it is there, so that the random numbers of what follows are the same
    if not clip_folder.exists():
        write_clip(clip_folder, clip)
    special = write_qwen_tokenizer(folder) if language_model == "qwen" else write_llama_tokenizer(folder)
    values = LANGUAGE_MODEL | LLAVA | VERSIONS[version] | special | config
    cls = find_family(None, ARCHITECTURES[language_model]).causal_lm
    values |= {"model_type": ARCHITECTURES[language_model], "architectures": [cls.__name__]}
    write_json(folder / "config.json", values)
    generation = {"max_length": 4096, "temperature": 0.9, "top_p": 0.6}
    write_json(folder / "generation_config.json", {k: v for k, v in special.items() if k != "vocab_size"} | generation)

    model = cls(cls.config_class.from_dict({k: v for k, v in values.items() if k != "model_type"}))
    weights = dict(model.state_dict())
    if values["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    tower = clip_weights(random_clip() if values["unfreeze_mm_vision_tower"] else clip_folder)
    vision = {key: tensor for key, tensor in tower.items() if key.startswith("vision_model.")}
    weights |= {f"model.vision_tower.vision_tower.{key}": tensor for key, tensor in vision.items()}
    if version == "v1.5":
        weights |= rotary_buffers(model)
    write_shards(folder, {k: v.half().contiguous() for k, v in weights.items()}, shards, safetensors=version == "v1.6")
    return folder


def make_folder(folder: Path) -> None:
    """Make a folder. Raises InputError if it exists or cannot be made."""
    try:
        folder.mkdir()
    except FileExistsError:
        raise InputError(f"{folder} exists already: remove it, or choose another folder") from None
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {one_line(error)}") from error


def rotary_buffers(model) -> dict[str, torch.Tensor]:
    """The buffer `inv_freq` of each layer, which published v1.5 checkpoints hold."""
    layers, inv_freq = model.config.num_hidden_layers, model.model.rotary_emb.inv_freq
    return {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": inv_freq.clone() for i in range(layers)}


def random_clip() -> CLIPVisionModel:
    """A CLIP vision model whose attention differs between patches, as that of a trained one does."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model = CLIPVisionModel(CLIPVisionConfig(**CLIP))
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "position_embedding.weight")):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def clip_weights(source: CLIPVisionModel | Path) -> dict[str, torch.Tensor]:
    """The weights of a CLIP vision model under the published keys, which begin with `vision_model.`."""
    if isinstance(source, Path):
        import torch

        return torch.load(source / "pytorch_model.bin", weights_only=True)
    return {f"vision_model.{key.removeprefix('vision_model.')}": tensor for key, tensor in source.state_dict().items()}


def write_clip(folder: Path, model: CLIPVisionModel | None = None) -> None:
    """Write the folder of a CLIP vision tower, a random one if None, with CLIP's side of texts."""
    import torch

    make_folder(folder)
    model = random_clip() if model is None else model
    text_config, text_weights = write_clip_texts(folder)
    own = {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"], "text_config": text_config}
    write_json(folder / "config.json", own | CLIP)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": CLIP["image_size"], "width": CLIP["image_size"]},
        "size": {"shortest_edge": CLIP["image_size"]},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
    }
    write_json(folder / "preprocessor_config.json", processor)
    weights = clip_weights(model) | text_weights
    torch.save({key: tensor.half() for key, tensor in weights.items()}, folder / "pytorch_model.bin")


def write_clip_texts(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Write CLIP's tokenizer of bytes. Returns the config of its text tower, and random weights under published keys.

    They leave the random numbers of what is made later as they are.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    begin, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), begin, end]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([begin, end])
    ids = [(token, vocabulary.index(token)) for token in (begin, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": begin, "eos_token": end, "pad_token": end, "unk_token": end}
    write_json(folder / "tokenizer_config.json", names | {"tokenizer_class": "PreTrainedTokenizerFast"})
    special = {"bos_token_id": ids[0][1], "eos_token_id": ids[1][1], "pad_token_id": ids[1][1]}
    config = {"model_type": "clip_text_model", "vocab_size": len(vocabulary), **CLIP_TEXT, **special}
    with torch.random.fork_rng(devices=[]):
        tower = CLIPTextModelWithProjection(CLIPTextConfig(**config))
        weights = {key: tensor for key, tensor in tower.state_dict().items() if not key.endswith("position_ids")}
        weights["visual_projection.weight"] = torch.randn(CLIP["projection_dim"], CLIP["hidden_size"])
    return config, weights


def sample_text() -> list[str]:
    """Sentences to train a tokenizer on: those that prompts contain."""
    from llava.conversation import conv_templates

    turns = ["<image>\nIs there a dog in the image?\nAnswer the question using a single word or phrase.", "Yes", "No"]
    return [line for template in conv_templates.values() for line in template.get_prompt().splitlines()] + turns * 20


def write_llama_tokenizer(folder: Path) -> dict:
    """Write a tokenizer like Vicuna's: BPE with byte fallback, unk, bos and eos first. Returns keys of config.json."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(sample_text()),
        model_writer=model,
        model_type="bpe",
        vocab_size=800,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", names | {"pad_token": "<unk>"})
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "padding_side": "right"}
    write_json(folder / "tokenizer_config.json", names | settings | {"model_max_length": 2048})
    return {"vocab_size": 800, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def write_qwen_tokenizer(folder: Path) -> dict:
    """Write a tokenizer like Qwen2's: byte-level BPE without BOS. Returns keys of config.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(sample_text(), trainer)
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    write_json(folder / "tokenizer_config.json", names | {"tokenizer_class": "PreTrainedTokenizerFast"})
    eos, pad = (tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>"))
    return {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": None, "eos_token_id": eos, "pad_token_id": pad}


def write_shards(folder: Path, weights: dict[str, torch.Tensor], shards: int, safetensors: bool) -> None:
    """Write weight files and their index, or a single file without index."""
    import torch
    from safetensors.torch import save_file

    stem, ending = ("model", "safetensors") if safetensors else ("pytorch_model", "bin")
    keys = sorted(weights)
    weight_map = {}
    for i in range(shards):
        name = f"{stem}-{i + 1:05d}-of-{shards:05d}.{ending}" if shards > 1 else f"{stem}.{ending}"
        part = {key: weights[key] for key in keys[i::shards]}
        weight_map |= dict.fromkeys(part, name)
        if safetensors:
            save_file({key: tensor.clone() for key, tensor in part.items()}, folder / name, metadata={"format": "pt"})
        else:
            torch.save(part, folder / name)
    if shards > 1:
        write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the two folders, made if it is missing")
    parser.add_argument("--version", choices=VERSIONS, default="v1.5", help="LLaVA's version (v1.5)")
    parser.add_argument("--language-model", choices=ARCHITECTURES, default="llama", help="its language model (llama)")
    args = parser.parse_args()
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {args.folder}: {one_line(error)}") from error
    with write_errors(args.folder):
        folder = make_checkpoint(args.folder, args.version, args.language_model)
    print(folder)


if __name__ == "__main__":
    run_command(main)
