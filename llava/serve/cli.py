"""Chat about a picture on the command line. An empty line, or the end of the input, ends it."""

import logging
import sys

from llava.cli import CommandParser, run_command
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import check_conv_mode
from llava.errors import InputError
from llava.inference.options import (
    add_compile_argument,
    add_generation_arguments,
    add_model_arguments,
    generation_options,
    model_options,
)

logger = logging.getLogger(__name__)


def chat(args, as_upstream: bool = True) -> None:
    """Ask, answer as it is generated, and again, with all that was said before.

    A message that cannot be answered is dropped with one line that says why, and the chat goes on.
    """
    from llava.inference import Session
    from llava.vision.pictures import load_image

    if args.conv_mode:
        check_conv_mode(args.conv_mode)
    options = generation_options(args)
    images = [load_image(args.image_file, as_displayed=True)]
    loaded = model_options(args).load()
    session = Session(loaded, loaded.find_template(args.conv_mode, as_upstream))
    you, assistant = (role.strip() or "ASSISTANT" for role in session.conversation.roles)
    hint = " (an empty line ends the chat)"
    while message := _read(f"{you}{hint}: "):
        hint = ""
        try:
            _answer(
                session, f"{DEFAULT_IMAGE_TOKEN}\n{message}" if images else message, images, f"{assistant}: ", options
            )
        except InputError as error:
            logger.debug("the error comes from here", exc_info=error)
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        images = []  # the first message that is answered has brought it
        if args.debug:
            turn = session.last
            print(
                {
                    "prompt": turn.prompt,
                    "answer": turn.text,
                    "visual_tokens": list(turn.num_visual_tokens),
                    "computed_tokens": turn.computed_tokens,
                }
            )


def _answer(session, message: str, images: list, prefix: str, options: dict) -> None:
    """Print the answer to a message as it is generated."""
    pieces = session.stream(message, images, **options)
    print(prefix, end="", flush=True)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def _read(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        print()
        return ""


def main(as_upstream: bool = True) -> None:
    parser = CommandParser(description=__doc__, conflict_handler="resolve")  # its --debug does more
    add_model_arguments(parser)
    add_compile_argument(parser)
    parser.add_argument("--image-file", required=True, help="file, URL or data: URI")
    default = "upstream's: llava_v1 for LLaVA-1.5" if as_upstream else "that of the checkpoint's published figures"
    parser.add_argument("--conv-mode", help=f"prompt template ({default})")
    parser.add_argument(
        "--debug",
        action="store_true",
        help="also print each prompt, its visual tokens and the tokens computed anew, and the traceback of an error",
    )
    add_generation_arguments(parser, temperature=0.2, max_new_tokens=512)
    args = parser.parse_args()
    if args.debug:
        logging.getLogger("llava").setLevel(logging.DEBUG)
    chat(args, as_upstream)


if __name__ == "__main__":
    run_command(main)
