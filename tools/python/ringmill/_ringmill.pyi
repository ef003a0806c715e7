from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

@final
class Engine:
    def __new__(
        cls,
        tree: tuple,
        *,
        capacity: int,
        max_payload: int,
        has_tickets: bool,
        passes_objects: bool,
        start_timeout: float,
        shutdown_timeout: float,
    ) -> Engine: ...
    def shutdown(self) -> None: ...
    def call(self, x: Any, /, *, timeout: float, backpressure: bool) -> Any: ...
    def stream(
        self,
        inputs: Iterable,
        /,
        *,
        return_x: bool,
        return_exceptions: bool,
        timeout: float,
        preprocessor: Callable[[Any], Any] | None,
    ) -> Stream: ...
    @property
    def backlog(self) -> int: ...
    def debug_info(self) -> dict[str, Any]: ...

@final
class Stream(Iterator[Any]):
    def __iter__(self) -> Stream: ...
    def __next__(self) -> Any: ...
    def close(self) -> None: ...

def serve() -> int: ...
