"""One question about one picture, or several."""

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_PLACEHOLDER
from llava.conversation import get_conversation
from llava.eval.answering import answer, image_token, single_turn_prompt
from llava.eval.options import (
    add_generation_arguments,
    add_model_arguments,
    conv_mode_of,
    generation_options,
    load_model,
)
from llava.mm_utils import get_model_name_from_path, load_image
from llava.utils import CommandParser, InputError, run_command


def eval_model(args) -> str:
    """Answer `args.query` about the images of `args.image_file`, print and return the answer."""
    conv_mode = args.conv_mode or conv_mode_of(get_model_name_from_path(args.model_path))
    get_conversation(conv_mode)
    options = generation_options(args)
    query = args.query.replace(IMAGE_PLACEHOLDER, DEFAULT_IMAGE_TOKEN)
    if DEFAULT_IMAGE_TOKEN not in query:
        query = f"{DEFAULT_IMAGE_TOKEN}\n{query}"
    files = args.image_file.split(args.sep)
    if len(files) != query.count(DEFAULT_IMAGE_TOKEN):
        raise InputError(
            f"{len(files)} image(s) for {query.count(DEFAULT_IMAGE_TOKEN)} <image> placeholder(s) in the query: "
            f"write one for each image"
        )
    images = [load_image(file) for file in files]
    loaded = load_model(args)
    model = loaded[1]
    prompt = single_turn_prompt(query.replace(DEFAULT_IMAGE_TOKEN, image_token(model.config)), conv_mode)
    text = answer(loaded, prompt, images, **options)
    print(text)
    return text


def main() -> None:
    parser = CommandParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--image-file", required=True, help="file or URL; several are separated by --sep")
    parser.add_argument("--query", required=True, help="the question; <image> in it marks where each image belongs")
    parser.add_argument("--sep", default=",", help="separator between image files (,)")
    parser.add_argument("--conv-mode", help="prompt template (from the checkpoint's name)")
    add_generation_arguments(parser, temperature=0.2, max_new_tokens=512)
    eval_model(parser.parse_args())


if __name__ == "__main__":
    run_command(main)
