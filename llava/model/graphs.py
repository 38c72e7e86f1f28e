"""What a model does on a GPU, recorded once as CUDA graphs and done again with one launch: `compile=True`.

A GPU waits for the kernels that Python launches one by one. Recorded are the tower, the selection with the projection
(both by `encode`), and the language model's prefill and steps (`fixed_cache`), each for each form of its arguments.

It is `torch.cuda.graph` and not `torch.compile`, since what is recorded are the kernels that run uncompiled: in float32
the bits stay, and a form takes a fraction of a second, where Inductor takes a minute. A token's step alone passes
through Inductor before it is recorded, in half precision: it is some forty small kernels a layer around seven products,
and Inductor makes few of the many.

Elsewhere than on a GPU nothing is recorded: functions run anew each time, on the same fixed memory.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import output_capturing

from llava.errors import one_line

logger = logging.getLogger(__name__)

MOST_FORMS = 64  # of functions of images that are kept
MOST_CROPS = 8  # at once; more of them keep a GPU busy by themselves
_INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
_MOVING = {"_to_copy", "copy_", "_copy_from"}
_WAITING = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)


class NotRecordable(RuntimeError):
    """A function does what a CUDA graph cannot have; the message says what."""


class _Watch(TorchDispatchMode):
    """Raises NotRecordable for an operation that waits for the GPU, or takes from the host what may change."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _INDEXING:
            waits = any(own is not None and own.dtype in (torch.bool, torch.uint8) for own in args[1])
        else:
            waits = any(tag in func.tags for tag in _WAITING)
        if waits:
            raise NotRecordable(f"{name} waits for values that the GPU computes")
        if name == "lift_fresh" or name.startswith("rand"):
            raise NotRecordable(f"{name} takes values from the host")
        output = func(*args, **(kwargs or {}))
        if name in _MOVING:
            devices = {own.device for own in (output, *args) if isinstance(own, torch.Tensor)}
            if len(devices) > 1:
                raise NotRecordable(f"{name} moves values from {' to '.join(sorted(map(str, devices)))}")
        return output


@contextmanager
def plain_mode():
    """No gradients, and tensors that can be written to in inference mode and outside of it."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class Recorder:
    """Records functions of tensors of one device.

    Attributes:
        fuses: whether steps pass through Inductor before they are recorded.
        record: takes a function without arguments, and returns one that does the same to the same memory; None where
            functions run anew each time.
    """

    def __init__(self, device: torch.device, fuses: bool) -> None:
        self.device, self.fuses = device, fuses
        self.lock = RLock()  # the graphs share the memory of what is between: one runs after the other
        on_gpu = device.type == "cuda"
        self.record: Callable[[Callable], Callable] | None = self._capture if on_gpu else None
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None
        self._done: torch.cuda.Event | None = None

    def _capture(self, work: Callable[[], Any]) -> Callable[[], Any]:
        with torch.cuda.device(self.device):
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(2):  # libraries choose their kernels and get their memory
                    work()
            here.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()

        def replay() -> Any:
            with torch.cuda.device(self.device):
                graph.replay()
            return result

        return replay

    @contextmanager
    def turn(self):
        """One graph after the other, also where calls come from several threads and streams."""
        with self.lock, plain_mode():
            if self.device.type != "cuda":
                yield
                return
            stream = torch.cuda.current_stream(self.device)
            if self._done is not None:
                stream.wait_event(self._done)
            yield
            self._done = stream.record_event()


class Recorded:
    """A function of tensors, recorded for one form of its arguments. Calls give what is the caller's own."""

    def __init__(self, recorder: Recorder, function: Callable, arguments: tuple, is_step: bool = False) -> None:
        """Raises NotRecordable for a function that cannot be recorded."""
        self._recorder = recorder
        with recorder.turn():
            self._inputs = tuple(own.clone() for own in arguments)
            if recorder.record is not None:
                with _Watch():
                    function(*self._inputs)
            self._replay = (self._fused(function) if is_step and recorder.fuses else None) or self._recorded(function)

    def __call__(self, *arguments: torch.Tensor) -> Any:
        with self._recorder.turn():
            for own, given in zip(self._inputs, arguments, strict=True):
                own.copy_(given)
            return _copied(self._replay())

    def _recorded(self, function: Callable) -> Callable[[], Any]:
        work = partial(function, *self._inputs)
        if self._recorder.record is None:
            return work
        try:
            return self._recorder.record(work)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise NotRecordable(one_line(error)) from error

    def _fused(self, function: Callable) -> Callable[[], Any] | None:
        """The function by Inductor, recorded; None, with a warning, where that fails."""
        try:
            fused = torch.compile(_unwatched(function), fullgraph=True, dynamic=False)
            fused(*self._inputs)
            return self._recorded(fused)
        except Exception as error:  # no compiler, or one of the very many errors that Inductor has
            if isinstance(error, torch.OutOfMemoryError):
                raise
            logger.debug("the error comes from here", exc_info=error)
            logger.warning("compile: steps are recorded without Inductor, which failed: %s", one_line(error))
            return None


def _unwatched(function: Callable) -> Callable:
    """The same function, of which transformers collects no states.

    Its hooks stay where hidden states or attentions were asked for once. They ask a context variable whether somebody
    collects, which Dynamo cannot trace unless the variable was set in what it traces.
    """
    collector = getattr(output_capturing, "_active_collector", None)
    if collector is None:
        return function

    def run(*arguments: torch.Tensor) -> Any:
        token = collector.set(None)
        result = function(*arguments)
        collector.reset(token)
        return result

    return run


def _copied(value: Any) -> Any:
    """Tensors, in tuples and dataclasses, as copies: the next call overwrites them."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    if is_dataclass(value):
        return replace(value, **{own.name: _copied(getattr(value, own.name)) for own in fields(value)})
    return value


class Graphs:
    """All that is recorded of one model, and what of it was said to run uncompiled."""

    def __init__(self, model) -> None:
        weights = model.lm_head.weight
        self.recorder = Recorder(weights.device, weights.is_cuda and weights.dtype is not torch.float32)
        self.caches: OrderedDict[tuple[int, int], Any] = OrderedDict()  # (B, S) -> `FixedCache`
        self.of = _identity(model)
        self._images: OrderedDict[tuple, Recorded | None] = OrderedDict()
        self._said: set[str] = set()

    def __reduce__(self) -> tuple:
        """None in the copy of a model, which records anew: all here is bound to the memory of the first."""
        return type(None), ()

    def say(self, what: str) -> None:
        """Warn, once, of something that runs uncompiled."""
        if what not in self._said:
            self._said.add(what)
            logger.warning("compile: %s", what)

    def run(self, key: tuple, what: str, function: Callable, *arguments: torch.Tensor) -> Any:
        """The result of a function of images, of which `key` says all but the arguments.

        It is recorded for each form of these. Where it cannot be, `what` runs uncompiled, which is said once: None.
        """
        form = key, *((own.shape, own.dtype, own.device) for own in arguments)
        with self.recorder.lock:
            if form not in self._images:
                try:
                    self._images[form] = Recorded(self.recorder, function, arguments)
                except NotRecordable as error:
                    self.say(f"{what} runs uncompiled: {error}")
                    self._images[form] = None
            self._images.move_to_end(form)
            if len(self._images) > MOST_FORMS:
                self._images.popitem(last=False)
            recorded = self._images[form]
            return None if recorded is None else recorded(*arguments)


class RecordsGraphs:
    """Mixin of a model with image input.

    Attributes:
        records: `compile` of `load_pretrained_model`.
    """

    records = False
    _graphs: Graphs | None = None

    @property
    def graphs(self) -> Graphs:
        """What is recorded of the model as it is now."""
        if self._graphs is None or self._graphs.of != _identity(self):
            self._graphs = Graphs(self)
        return self._graphs

    @property
    def compile_decoding(self) -> bool:
        """The former name of `records`."""
        return self.records

    @compile_decoding.setter
    def compile_decoding(self, value: bool) -> None:
        self.records = value


def _identity(model) -> tuple:
    """What graphs are bound to: where a model's weights are and of what dtype, and the kernels of its attention."""
    tower, parts = model.get_vision_tower(), [model.lm_head, model.model.embed_tokens, model.model.norm]
    parts += [] if tower is None else [tower]
    weights = [weight for part in parts if (weight := next(part.parameters(), None)) is not None]
    kernels = [getattr(own.config, "_attn_implementation", None) for own in (model, tower) if own is not None]
    return *((own.data_ptr(), own.dtype, own.device) for own in weights), *kernels
