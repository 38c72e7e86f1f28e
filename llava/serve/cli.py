"""Chat about a picture on the command line. An empty line, or the end of the input, ends it."""

from transformers import TextStreamer

from llava.conversation import get_conversation
from llava.eval.answering import answer, image_token
from llava.eval.options import (
    add_compile_argument,
    add_generation_arguments,
    add_model_arguments,
    conv_mode_of,
    generation_options,
    load_model,
)
from llava.mm_utils import get_model_name_from_path, load_image
from llava.utils import CommandParser, run_command


def chat(args) -> None:
    """Ask, answer as it is generated, and again, with all that was said before."""
    conversation = get_conversation(args.conv_mode or conv_mode_of(get_model_name_from_path(args.model_path)))
    options = generation_options(args)
    image = load_image(args.image_file)
    loaded = load_model(args)
    tokenizer, model, *_ = loaded
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    you, assistant = (role.strip() or "ASSISTANT" for role in conversation.roles)
    prefix = f"{image_token(model.config)}\n"
    while message := _ask(f"{you}: "):
        conversation.append_message(conversation.roles[0], prefix + message)
        conversation.append_message(conversation.roles[1], None)
        prefix = ""
        print(f"{assistant}: ", end="", flush=True)
        prompt = conversation.get_prompt()
        conversation.messages[-1][1] = answer(loaded, prompt, [image], streamer=streamer, **options)
        if args.debug:
            print({"prompt": prompt, "answer": conversation.messages[-1][1]})


def _ask(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        print()
        return ""


def main() -> None:
    parser = CommandParser(description=__doc__)
    add_model_arguments(parser)
    add_compile_argument(parser)
    parser.add_argument("--image-file", required=True, help="file or URL")
    parser.add_argument("--conv-mode", help="prompt template (from the checkpoint's name)")
    parser.add_argument("--debug", action="store_true", help="also print each prompt and the number of visual tokens")
    add_generation_arguments(parser, temperature=0.2, max_new_tokens=512)
    chat(parser.parse_args())


if __name__ == "__main__":
    run_command(main)
