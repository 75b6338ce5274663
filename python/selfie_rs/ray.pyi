from os import PathLike
from typing import Any, Mapping, Optional, Union

import pyarrow

class Interpreter:
    def __init__(
        self,
        model: Optional[Union[str, PathLike[str]]] = None,
        *,
        prompt: str = "prompt",
        open: Optional[Mapping[str, Any]] = None,
        **options: Any,
    ) -> None: ...
    def __call__(self, batch: Union[pyarrow.Table, Mapping[str, Any]]) -> pyarrow.Table: ...
