"""Merge a LoRA checkpoint into its base model: a checkpoint in the published layout, which loads by itself."""

from llava.checkpoints.folders import ADAPTER_CONFIG, find_folder, get_model_name_from_path, new_checkpoint
from llava.cli import CommandParser, new_folder, run_command
from llava.errors import InputError


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--model-path", required=True, help="folder or hub id of the LoRA checkpoint")
    parser.add_argument("--model-base", required=True, help="folder or hub id of the model that it was trained on")
    parser.add_argument(
        "--save-model-path", required=True, type=new_folder, help="folder to write, which must not exist"
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        default="float16",
        help="of the weights written (float16)",
    )
    args = parser.parse_args()
    folder = find_folder(args.model_path, "checkpoint")
    if not (folder / ADAPTER_CONFIG).exists():
        raise InputError(f"{folder} is no LoRA checkpoint: there is nothing to merge")

    import torch

    from llava.checkpoints.weights import save_checkpoint
    from llava.model.builder import load_pretrained_model

    name = get_model_name_from_path(args.model_path)
    loaded = load_pretrained_model(args.model_path, args.model_base, name, device="cpu", torch_dtype="float32")
    with new_checkpoint(args.save_model_path) as part:
        save_checkpoint(loaded.model, loaded.tokenizer, part, getattr(torch, args.dtype))
    print(args.save_model_path)


if __name__ == "__main__":
    run_command(main)
