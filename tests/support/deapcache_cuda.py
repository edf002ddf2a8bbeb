"""A GPU that is not there: what is put on ``cuda`` is computed by the CPU, and what only a GPU is asked for is noted.

So what runs on a GPU alone runs on any machine, with real values: a misspelt name, a wrong argument or a step that was
left out is found there. What it cannot find is what a GPU does differently, such as a copy that was not waited for.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

_JOINING = {
    "add", "sub", "mul", "div", "matmul", "mm", "bmm", "cat", "stack", "where", "linear", "conv2d", "layer_norm",
    "batch_norm", "index_select", "gather", "cross_entropy", "binary_cross_entropy_with_logits", "mse_loss",
    "__add__", "__sub__", "__mul__", "__truediv__", "__radd__", "__rsub__", "__rmul__", "__rtruediv__", "__matmul__",
}  # fmt: skip
"""What takes several tensors, all of one device."""


class StandInGpu(TorchFunctionMode):
    """While it is entered, in this thread, ``cuda`` is the CPU's memory; :attr:`calls` notes what was asked of the GPU.

    A tensor that is made on ``cuda`` or moved there says that it is there, and so does what is computed from it, except
    gradients. As a GPU does, it refuses to be a NumPy array, and outside a backward pass to be joined with one on the
    CPU. Pinning, asynchronous copies and ``record_stream`` are noted and do nothing else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self._there: dict[int, torch.Tensor] = {}
        """Address → a tensor that keeps it from being used again."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func is torch.device or name == "_parse_to":  # they name a device, and make nothing
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
                return torch.device("cuda", 0) if self._is_there(args[0]) else func(args[0])
            if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
                return self._is_there(args[0])
        given = [*args, *kwargs.values()]
        given += [one for each in given if isinstance(each, list | tuple) for one in each]
        is_there = any(map(_is_gpu, given)) or any(map(self._is_there, given))
        if name == "pin_memory" or kwargs.pop("pin_memory", False):
            self.calls.append("pin_memory" if name == "pin_memory" else "pinned buffer")
        if name == "pin_memory":
            return args[0]
        if kwargs.get("non_blocking") and is_there:
            self.calls.append("asynchronous copy")
        if is_there:
            self._refuse(name, given)
        found = func(*map(_on_host, args), **{key: _on_host(value) for key, value in kwargs.items()})
        if name in ("to", "cpu"):  # never the same memory as before
            moved = self._is_there(args[0]) != (is_there and name == "to" and not any(map(_is_host, given)))
            found, is_there = (found.clone() if moved else found), moved != self._is_there(args[0])
        if is_there and (not name.endswith("_") or name.endswith("__")):  # in place, what is changed stays where it is
            self._note_there(found)
        return found

    def _note_there(self, found: Any) -> None:
        for one in found if isinstance(found, list | tuple) else [found]:
            if isinstance(one, torch.Tensor) and (address := _address(one)):
                self._there[address] = one.detach()

    def _refuse(self, name: str, given: list[Any]) -> None:
        """What a GPU refuses to do with a tensor that is there; one without axes or numbers may be anywhere."""
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert a tensor on cuda to numpy: copy it to host memory first")
        if name not in _JOINING or torch._C._current_graph_task_id() != -1:
            return
        with torch._C.DisableTorchFunction():
            tensors = [one for one in given if isinstance(one, torch.Tensor) and one.ndim and one.numel()]
            left = [tuple(one.shape) for one in tensors if not self._is_there(one)]
        if left:
            raise RuntimeError(f"expected all tensors of {name} on cuda, found some on the CPU: {left}")

    def _is_there(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and _address(value) in self._there


def _address(tensor: torch.Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return 0 if tensor.is_meta else tensor.untyped_storage().data_ptr()


def _is_gpu(value: Any) -> bool:
    return isinstance(value, str | torch.device) and str(value).partition(":")[0] == "cuda"


def _is_host(value: Any) -> bool:
    return isinstance(value, str | torch.device) and str(value) == "cpu"


def _on_host(value: Any) -> Any:
    return torch.device("cpu") if _is_gpu(value) else value


def _streams_and_graphs(calls: list[str]) -> dict[str, Any]:
    """Name in ``torch.cuda`` → a class or function that notes its calls."""

    class Event:
        """Says when it is recorded, and when it is waited for."""

        def record(self, stream: Any = None) -> None:
            calls.append("record event")

        def synchronize(self) -> None:
            calls.append("wait for event")

    class Stream:
        """One of copies, or that of the computing."""

        def __init__(self, device: torch.device | None = None) -> None:
            assert device is None or device.type == "cuda"

        def record_event(self) -> Event:
            calls.append("record event of copy")
            return Event()

        def wait_event(self, event: Event) -> None:
            assert isinstance(event, Event)
            calls.append("computing waits for copy")

        def wait_stream(self, stream: Stream) -> None:
            assert isinstance(stream, Stream)

    @contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        assert isinstance(stream, Stream)
        calls.append("copy stream begins")
        yield
        calls.append("copy stream ends")

    class Graph:
        """Of calls that are captured, and replayed as one."""

        def replay(self) -> None:
            calls.append("graph replayed")

    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        assert isinstance(graph, Graph)
        calls.append("graph begins")
        yield
        calls.append("graph ends")

    return {"Event": Event, "Stream": Stream, "stream": on_stream, "CUDAGraph": Graph, "graph": capture}


@contextmanager
def stand_in_gpu(*, gpus: int = 1, free: int = 2**34) -> Iterator[StandInGpu]:
    """A machine with so many GPUs of ``free`` bytes of free memory; calls of ``torch.cuda`` are noted."""
    mode = StandInGpu()

    def note(name: str, value: Any = None) -> Any:
        def called(*_: Any, **__: Any) -> Any:
            mode.calls.append(name)
            return value

        return called

    kinds = _streams_and_graphs(mode.calls)
    properties = types.SimpleNamespace(name="Stand-in GPU", total_memory=2 * free)
    stand_ins = {
        "is_available": lambda: True,
        "device_count": lambda: gpus,
        "current_device": lambda: 0,
        "get_device_name": note("get_device_name", properties.name),
        "get_device_properties": note("get_device_properties", properties),
        "mem_get_info": note("mem_get_info", (free, 2 * free)),
        "memory_allocated": note("memory_allocated", 100),
        "max_memory_allocated": note("max_memory_allocated", 1_100),
        "reset_peak_memory_stats": note("reset_peak_memory_stats"),
        "synchronize": note("synchronize"),
        "empty_cache": note("empty_cache"),
        "is_bf16_supported": lambda *_, **__: True,
        **kinds,
        "current_stream": note("current_stream", kinds["Stream"]()),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch.Tensor, "record_stream", note("record_stream"))
        for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # by version
            patch.setattr(torch.optim.Optimizer, check, lambda _: None, raising=False)
        with mode:
            yield mode
