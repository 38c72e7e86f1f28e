"""What every command shares: the error for bad input, and the one place that turns it into one line and exit code 2."""

import argparse
import ast
import contextlib
import errno
import json
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from llava.compat import build_logger as build_logger  # upstream's place, as the next four
from llava.compat import moderation_msg as moderation_msg
from llava.compat import pretty_print_semaphore as pretty_print_semaphore
from llava.compat import server_error_msg as server_error_msg
from llava.compat import violates_moderation as violates_moderation
from llava.constants import IMAGE_ASPECT_RATIOS
from llava.errors import InputError as InputError
from llava.errors import list_some as list_some
from llava.errors import one_line as one_line


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line on stderr and exit code 2, like any other bad input."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main` and exit: 0 when it returns, 2 with one line on stderr for an InputError.

    While it runs, the threads of OpenMP sleep when they wait, unless OMP_WAIT_POLICY says otherwise: on a CPU that
    other processes use too, threads that spin take time from one another. It must come before the import of torch.
    A stdout whose reader has gone (`| head`) ends it quietly with the shell's code for SIGPIPE, Ctrl-C with that for
    SIGINT, a full disk with 2. A stream that was closed from the start (`>&-`) is one that nobody reads.
    """
    _open_closed_streams()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it may be stdout, and is tried again at exit
        print(f"error: cannot write: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _open_closed_streams() -> None:
    """Let streams that are closed lead nowhere: else the next file that is opened takes their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


MOST_BYTES = 1 << 30  # of a file that is read whole; VQAv2's annotations have 0.4 GB


@contextlib.contextmanager
def open_text(path: str | Path, what: str) -> Iterator[TextIO]:
    """A file open for reading as UTF-8, with or without a byte-order mark.

    Raises InputError, calling the file `what`, if it cannot be read, now or later, or is no file: a pipe or a device
    may have no end.
    """
    try:
        is_file = stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"cannot read the {what} {path}: {one_line(error)}") from error
    if not is_file:
        raise InputError(f"cannot read the {what} {path}: not a file")
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the {what} {path}: {one_line(error)}") from error


def read_text(path: str | Path, what: str) -> str:
    """A file's text, as `open_text` reads it. Raises InputError as that does, and for more than 1 GiB."""
    with open_text(path, what) as file:
        if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
            raise InputError(f"cannot read the {what} {path}: {size} bytes are more than {MOST_BYTES}")
        return file.read()


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says. Raises InputError, saying where, if it is not JSON or more than Python can take."""
    try:
        return json.loads(text)
    except ValueError as error:  # also for a number of thousands of digits
        raise InputError(f"{where} is not JSON: {one_line(error)}") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply") from error


def read_json(path: str | Path, what: str) -> Any:
    """What a JSON file says. Raises InputError, calling the file `what`, if it cannot be read or is not JSON.

    So does half a surrogate pair in a string, which JSON can write and nothing can print or store as UTF-8.
    """
    text, where = read_text(path, what), f"the {what} {path}"
    values = parse_json(text, where)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where} is not JSON in UTF-8: {one_line(error)}") from error
    return values


def read_json_object(path: str | Path, what: str) -> dict:
    """The object in a JSON file. Raises InputError as `read_json` does, and if it is no object."""
    values = read_json(path, what)
    if not isinstance(values, dict):
        raise InputError(f"the {what} {path} is not a JSON object")
    return values


@contextlib.contextmanager
def atomic_writer(path: str | Path):
    """A text file open for writing that appears under its name only when it is complete.

    Until then it is `<name>.part`; an InputError on the way removes that, any other end leaves what was written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            yield file
        part.replace(path)
    except InputError:
        part.unlink()
        raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {one_line(error)}") from error


def get_model_name_from_path(model_path: str) -> str:
    """The checkpoint's name: the last part of its path, with the run's in front of a `checkpoint-N`."""
    *parents, name = str(model_path).strip("/").split("/")
    return f"{parents[-1]}_{name}" if name.startswith("checkpoint-") and parents else name


def is_anyres(image_aspect_ratio: str | None) -> bool:
    """Whether pictures are cut into crops: `anyres`, or `anyres_max_9` as LLaVA-OneVision writes it."""
    return image_aspect_ratio == "anyres" or anyres_max(image_aspect_ratio) is not None


def check_aspect_ratio(image_aspect_ratio: str | None) -> str | None:
    """Return it. Raises InputError for a way of making squares of pictures that is not known."""
    if image_aspect_ratio not in (None, *IMAGE_ASPECT_RATIOS) and not is_anyres(image_aspect_ratio):
        known = ", ".join([*IMAGE_ASPECT_RATIOS, "anyres_max_N"])
        raise InputError(f"unknown image_aspect_ratio {image_aspect_ratio!r}: {known}")
    return image_aspect_ratio


def anyres_max(image_aspect_ratio: str | None) -> int | None:
    """The number in `anyres_max_9`: crops whose tokens a large picture has at most. None for any other value."""
    found = re.fullmatch(r"anyres_max_([1-9]\d?)", image_aspect_ratio or "")
    return int(found[1]) if found else None


def read_grid_pinpoints(text: str | None) -> list[list[int]] | None:
    """What a user wrote for `image_grid_pinpoints`, such as `[[672, 672]]`. Raises InputError for another form.

    A range, `(1x1),...,(6x6)`, which needs the tower's size, comes as it is.
    """
    if not text:
        return None
    return text if _GRID_RANGE.fullmatch(text.strip()) else parse_grid_pinpoints(text)


_GRID_RANGE = re.compile(r"\((\d{1,2})x(\d{1,2})\),\.\.\.,\((\d{1,2})x(\d{1,2})\)")
MOST_CROPS = 100


def parse_grid_pinpoints(grid_pinpoints: list | str, side: int | None = None) -> list[list[int]]:
    """A config's `image_grid_pinpoints` as a list of [W, H] in pixels.

    Args:
        grid_pinpoints: such a list, or its text, or a range in crops, as LLaVA-NeXT writes it: `(1x1),...,(6x6)`.
        side: pixels along one side of a crop, which a range needs, and which others must be made of.

    Raises InputError for anything else, and for more than 100 crops.
    """
    sizes = grid_pinpoints
    if isinstance(sizes, str):
        if side and (found := _GRID_RANGE.fullmatch(sizes.strip())):
            low, high = [int(found[1]), int(found[2])], [int(found[3]), int(found[4])]
            across, down = (range(start, end + 1) for start, end in zip(low, high))
            sizes = [[x * side, y * side] for x in across for y in down]
        else:
            try:
                sizes = ast.literal_eval(sizes)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                sizes = None
    if not isinstance(sizes, list | tuple) or not sizes or not all(map(_is_size, sizes)):
        raise InputError(f"image_grid_pinpoints must be a list of [width, height], not {str(grid_pinpoints)[:80]!r}")
    for width, height in sizes:
        if side and (width % side or height % side):
            raise InputError(
                f"image_grid_pinpoints has {width} x {height}, which is not made of crops of {side} pixels"
            )
        if side and width // side * (height // side) > MOST_CROPS:
            raise InputError(f"image_grid_pinpoints has {width} x {height}, which is more than {MOST_CROPS} crops")
    return [list(size) for size in sizes]


def _is_size(size: object) -> bool:
    """Whether this is [width, height] in pixels."""
    if not isinstance(size, list | tuple) or len(size) != 2:
        return False
    return all(isinstance(length, int) and not isinstance(length, bool) and 0 < length < 2**31 for length in size)


def disable_torch_init() -> None:
    """Keep code written for upstream LLaVA running.

    Upstream calls this to spare the random initialisation of weights that are about to be loaded; here
    `load_pretrained_model` builds on the meta device and never initialises, so there is nothing to switch off.
    """
