"""What upstream's web server and its workers import from `llava.utils`, so that they run on this package."""

import logging
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path
from typing import NoReturn

from llava.constants import LOGDIR

server_error_msg = "The server is busy or cannot be reached. Please try again in a while."
moderation_msg = "The message was refused by a filter. Please ask something else."


def build_logger(logger_name: str, logger_filename: str) -> logging.Logger:
    """A logger that writes to the terminal and to `logger_filename` in `constants.LOGDIR`, a new file each day (UTC).

    A second call with the same name returns the same logger, without further handlers. Unlike upstream's, it leaves
    stdout and stderr as they are.
    """
    logger = logging.getLogger(logger_name)
    if not logger.handlers:
        folder = Path(LOGDIR)
        folder.mkdir(parents=True, exist_ok=True)
        file = TimedRotatingFileHandler(folder / logger_filename, when="D", utc=True, encoding="utf-8")
        for handler in (logging.StreamHandler(), file):
            handler.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s"))
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


def pretty_print_semaphore(semaphore) -> str:
    """A semaphore of asyncio, or None, as text: how many may still enter, and whether it is locked."""
    if semaphore is None:
        return "None"
    return f"Semaphore(value={semaphore._value}, locked={semaphore.locked()})"


def violates_moderation(text: str) -> NoReturn:
    """Raise NotImplementedError: upstream sends the text to another company's service, which is not offered here."""
    raise NotImplementedError(
        "moderation is not offered: this package sends no text to a service; leave --moderate out"
    )


def disable_torch_init() -> None:
    """Keep code written for upstream LLaVA running.

    Upstream calls this to spare the random initialisation of weights that are about to be loaded; here
    `load_pretrained_model` builds on the meta device and never initialises, so there is nothing to switch off.
    """
