"""Answer a question file about pictures at length: MM-Vet and other open questions."""

from llava.cli import run_command
from llava.eval import model_vqa_loader


def main() -> None:
    model_vqa_loader.main(__doc__, max_new_tokens=1024)


if __name__ == "__main__":
    run_command(main)
