"""One question about one picture, or several."""

from llava.cli import CommandParser, run_command
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.conversation import check_conv_mode
from llava.inference.options import add_generation_arguments, add_model_arguments, generation_options, model_options


def eval_model(args, as_upstream: bool = True) -> str:
    """Answer `args.query` about the images of `args.image_file`, print and return the answer.

    `args` may be made by hand, with upstream's attributes alone. Raises InputError for what cannot be answered.
    """
    from llava.inference import Engine, make_request
    from llava.inference.request import check_placeholders
    from llava.vision.pictures import load_image

    if args.conv_mode:
        check_conv_mode(args.conv_mode)
    options = generation_options(args)
    query = args.query.replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
    if DEFAULT_IMAGE_TOKEN not in query:
        query = f"{DEFAULT_IMAGE_TOKEN}\n{query}"
    files = split_image_files(args.image_file, args.sep)
    check_placeholders(query, len(files), "the query")
    images = [load_image(file, as_displayed=True) for file in files]
    loaded = model_options(args).load()
    template = loaded.find_template(args.conv_mode, as_upstream)
    request = make_request(query, images, template, loaded.model.config)
    text = next(Engine(loaded, batch_size=1).answer([request], **options)).text
    print(text)
    return text


def split_image_files(text: str, sep: str) -> list[str]:
    """The files of `--image-file`; the comma that belongs to a `data:` URI does not end it."""
    files: list[str] = []
    for part in text.split(sep):
        if files and files[-1].lower().startswith("data:") and "," not in files[-1]:
            files[-1] += sep + part
        else:
            files.append(part)
    return files


def main(as_upstream: bool = True) -> None:
    parser = CommandParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--image-file", required=True, help="file, URL or data: URI; several are separated by --sep")
    parser.add_argument("--query", required=True, help="the question; <image> in it marks where each image belongs")
    parser.add_argument("--sep", default=",", help="separator between image files (,)")
    default = "upstream's: llava_v1 for LLaVA-1.5" if as_upstream else "that of the checkpoint's published figures"
    parser.add_argument("--conv-mode", help=f"prompt template ({default})")
    add_generation_arguments(parser, temperature=0.2, max_new_tokens=512)
    eval_model(parser.parse_args(), as_upstream)


if __name__ == "__main__":
    run_command(main)
