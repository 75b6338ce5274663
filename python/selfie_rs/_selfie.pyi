from os import PathLike
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt
import pandas
import pyarrow

_Path = Union[str, PathLike[str]]
_Numbers = Union[None, str, int, slice, Iterable[int]]
_Chat = Sequence[Mapping[str, str]]
_Prompt = Union[str, _Chat]
_InterpretationPrompt = Union[str, Sequence[Union[str, int]], Sequence[Mapping[str, Any]], Any]
_Progress = Union[None, bool, Callable[..., Any]]

__version__: str

class Token:
    id: int
    piece: str
    text: str
    special: bool

class Text:
    text: str
    new_ids: list[int]
    logprobs: list[float]

class Trace:
    input_ids: npt.NDArray[np.uint32]
    hidden_states: npt.NDArray[np.float32]
    pre_mlp: npt.NDArray[np.float32]
    residual: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]

class Row:
    prompt: str
    interpretation: str
    layer: Optional[int]
    token: int
    token_decoded: Optional[str]
    relevancy_score: list[float]
    new_ids: list[int]
    pieces: list[str]
    inject_layer: int
    mode: str
    strength: float
    model: str
    prompt_index: Optional[int]
    key: str
    reader: Optional[str]
    map: Optional[str]
    logprobs: list[float]
    controls: dict[str, tuple[str, float]]
    def to_dict(self) -> dict[str, Any]: ...

class Rows:
    failed: list[str]
    stopped: Optional[bool]
    empty: Optional[int]
    def __iter__(self) -> RowIterator: ...
    def __len__(self) -> int: ...
    def done(self) -> list[Row]: ...
    def stop(self) -> None: ...
    def wait(self) -> None: ...
    def to_pandas(self) -> pandas.DataFrame: ...
    def to_arrow(self) -> pyarrow.Table: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_stream__(self, requested_schema: Optional[object] = None) -> object: ...

class RowIterator(Iterator[Row]):
    def __iter__(self) -> RowIterator: ...
    def __next__(self) -> Row: ...
    def __length_hint__(self) -> int: ...

class Edit:
    name: str
    layer: int
    method: str
    updates: int
    meta: dict[str, Any]
    @staticmethod
    def open(path: _Path) -> Edit: ...
    def save(self, path: _Path) -> None: ...

class Outcome:
    edit: Edit
    end: str
    updates: int
    steps: list[dict[str, Any]]

class Model:
    name: str
    n_layers: int
    d_model: int
    device: str
    dtype: str
    edits: list[str]
    @staticmethod
    def open(
        path: Optional[_Path] = None,
        *,
        device: str = "auto",
        dtype: Optional[str] = None,
        quantize: Optional[str] = None,
        kv: Optional[str] = None,
        edits: Sequence[Union[Edit, _Path]] = (),
        lora: Optional[_Path] = None,
        threads: Optional[int] = None,
        deterministic: bool = False,
        bos: str = "auto",
    ) -> Model: ...
    def render(self, messages: _Chat) -> str: ...
    def tokens(self, prompt: _Prompt) -> list[Token]: ...
    def generate(
        self,
        prompt: _Prompt,
        *,
        max_new_tokens: int = 30,
        stream: Optional[Callable[[str], Any]] = None,
        temperature: Optional[float] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        min_p: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        seed: int = 0,
    ) -> Text: ...
    def trace(self, prompt: _Prompt) -> Trace: ...
    def interpret(
        self,
        prompts: Union[_Prompt, Iterable[_Prompt]],
        *,
        cells: Optional[Sequence[Sequence[int]]] = None,
        layers: _Numbers = None,
        tokens: _Numbers = None,
        reader: Optional[Model] = None,
        progress: _Progress = None,
        interpretation_prompt: _InterpretationPrompt = "summarize",
        inject_layer: Union[int, Iterable[int]] = 1,
        mode: str = "replace",
        strength: Union[float, Iterable[float]] = 1.0,
        max_new_tokens: int = 30,
        relevancy: bool = True,
        batch_size: Optional[int] = None,
        controls: Union[str, Iterable[str]] = (),
        temperature: Optional[float] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        min_p: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        seed: int = 0,
        samples: int = 1,
        map: Optional[_Path] = None,
        placeholder: Optional[str] = None,
        stop: Optional[str] = None,
        span: int = 1,
    ) -> Rows: ...
    def interpret_vectors(
        self,
        vectors: Any,
        *,
        name: str = "vectors",
        progress: _Progress = None,
        interpretation_prompt: _InterpretationPrompt = "summarize",
        inject_layer: Union[int, Iterable[int]] = 1,
        mode: str = "replace",
        strength: Union[float, Iterable[float]] = 1.0,
        max_new_tokens: int = 30,
        relevancy: bool = True,
        batch_size: Optional[int] = None,
        controls: Union[str, Iterable[str]] = (),
        temperature: Optional[float] = None,
        top_k: Optional[int] = None,
        top_p: Optional[float] = None,
        min_p: Optional[float] = None,
        repetition_penalty: Optional[float] = None,
        seed: int = 0,
        samples: int = 1,
        map: Optional[_Path] = None,
        placeholder: Optional[str] = None,
        stop: Optional[str] = None,
        span: int = 1,
    ) -> Rows: ...
    def apply(self, edit: Union[Edit, _Path]) -> None: ...
    def revert(self, index: Optional[int] = None) -> None: ...

def supervised(
    model: Model,
    sources: Sequence[tuple[_Prompt, int]],
    layer: int,
    target: Any,
    *,
    steps: int = 12,
    lr: float = 1e-3,
    interpret: bool = False,
    interpretation: Optional[dict[str, Any]] = None,
    on_step: Optional[Callable[[dict[str, Any]], Any]] = None,
    betas: tuple[float, float] = (0.9, 0.999),
    seed: int = 0,
    stop_below: Optional[float] = None,
    patience: int = 2,
    write: str = "best",
    max_norm_change: float = 3.0,
    reference: Optional[Sequence[_Prompt]] = None,
    beta: float = 10.0,
    reference_batch: int = 256,
    max_drift: Optional[float] = None,
    watch_tokens: int = 24,
    max_surprise: float = 3.0,
    probes: Optional[Sequence[_Prompt]] = None,
    probe_tokens: int = 30,
) -> Outcome: ...
def reinforce(
    model: Model,
    sources: Sequence[tuple[_Prompt, int]],
    layer: int,
    reward: Callable[[list[dict[str, Any]]], Iterable[Optional[float]]],
    *,
    steps: int = 20,
    lr: float = 2e-3,
    interpretation: Optional[dict[str, Any]] = None,
    on_step: Optional[Callable[[dict[str, Any]], Any]] = None,
    betas: tuple[float, float] = (0.9, 0.999),
    seed: int = 0,
    stop_below: Optional[float] = None,
    stop_reward: Optional[float] = None,
    push: str = "until",
    patience: int = 2,
    write: str = "best",
    max_norm_change: float = 3.0,
    reference: Optional[Sequence[_Prompt]] = None,
    beta: float = 1.0,
    reference_batch: int = 256,
    max_drift: Optional[float] = None,
    watch_tokens: int = 24,
    max_surprise: float = 3.0,
    probes: Optional[Sequence[_Prompt]] = None,
    probe_tokens: int = 30,
) -> Outcome: ...
def page(rows: list[str], name: str) -> str: ...
def page_of_file(path: _Path) -> str: ...
