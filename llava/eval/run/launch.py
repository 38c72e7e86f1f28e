"""`accelerate launch` for the commands that answer question files: one process per GPU, and what died by name.

python -m llava.eval.run.launch [accelerate's flags] -m llava.eval.model_vqa_loader [its options]
"""

import logging
import os
import subprocess
import sys

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from llava.cli import run_command
from llava.errors import InputError, one_line
from llava.eval.run.processes import GOES_ON, end_with_parent, environment_of_child

BAD_INPUT = 2


def main() -> None:
    parser = launch_command_parser()
    args = parser.parse_args()
    end_with_parent()
    os.environ.update(environment_of_child())
    logging.getLogger("accelerate.commands.launch").setLevel(logging.ERROR)  # which of its defaults it has taken
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it tells at length what is told below
    try:
        launch_command(args)
    except ChildFailedError as error:
        sys.exit(_report(error))
    except SignalException as error:
        print(f"error: ended by signal {int(error.sigval)}; {GOES_ON}", file=sys.stderr)
        sys.exit(128 + int(error.sigval))
    except subprocess.CalledProcessError as error:  # one process alone, which has said why
        sys.exit(error.returncode if error.returncode > 0 else 1)
    except (ValueError, RuntimeError, OSError, OverflowError) as error:  # the last for a port above 65535
        raise InputError(f"accelerate launch: {one_line(error)}") from error


def _report(error: ChildFailedError) -> int:
    """Say which process ended, unless it has said itself that its input was bad; returns the exit code."""
    rank, first = error.get_first_failure()
    if first.exitcode == BAD_INPUT:
        return BAD_INPUT
    how = f"was ended by signal {-first.exitcode}" if first.exitcode < 0 else f"ended with exit code {first.exitcode}"
    print(f"error: rank {rank} {how}; {GOES_ON}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run_command(main)
