"""Upstream's place of these names."""

from llava.errors import InputError as InputError
from llava.upstream.server import build_logger as build_logger
from llava.upstream.server import disable_torch_init as disable_torch_init
from llava.upstream.server import moderation_msg as moderation_msg
from llava.upstream.server import pretty_print_semaphore as pretty_print_semaphore
from llava.upstream.server import server_error_msg as server_error_msg
from llava.upstream.server import violates_moderation as violates_moderation
