"""The speed and the memory of greedy generation of several models, measured in turns.

The same machine generates faster or slower from one minute to the next, whatever else it does. So
the models take turns: each generates once in a round, and they are compared within rounds.

Importing this module does not import PyTorch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from regrow.common.memory import available_memory
from regrow.common.precision import Precision, available_device, weights_dtype
from regrow.common.progress import tell_part

if TYPE_CHECKING:
    import torch

    from regrow.checkpoint.model_directory import ModelDirectory
    from regrow.evaluation.generation import TimedText

PROMPT = "Write a short story about a river."
NEW_TOKENS, ROUNDS = 16, 10
_ALL, _TWO = 0.5, 0.9
"""The part of free memory that all models may fill together, and that two may fill."""

Loaded = tuple[Any, Any]
"""A model and its tokenizer."""

_Found = TypeVar("_Found")
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Rates = Annotated[tuple[_Positive, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Memory:
    """What a model holds in memory while it writes one text, in bytes.

    Attributes:
        weights: Of all parameters, in the type that they were loaded in.
        cache: Of the keys and values (or other states of the layers) of the whole text; None if
            they cannot be counted.
        peak: On a GPU, the most bytes of all its tensors while it writes, with the weights; None on
            a CPU, where only the memory of the whole process is known.
    """

    weights: int
    cache: int | None = None
    peak: int | None = None


@dataclass(frozen=True)
class Speed:
    """How fast one model generates, beside the first model of the same list.

    Attributes:
        tokens_per_second: New tokens per second of each round, with the time to read the prompt.
        beside: Those of the first model in the same rounds; of the first model, its own.
        first_token_seconds: From the prompt to the first new token, of each round, measured apart
            from the rest; empty in results of before this was measured.
        memory: None in results of before it was measured.
        device, dtype: Where the model generated, and the type of its weights there.
    """

    tokens_per_second: _Rates
    beside: _Rates
    first_token_seconds: tuple[_Positive, ...] = ()
    memory: Memory | None = None
    device: str = "CPU"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if len(self.tokens_per_second) != len(self.beside):
            raise ValueError("a speed needs the first model's speed of each round")

    @property
    def median(self) -> float:
        """The median over the rounds, in new tokens per second."""
        return median(self.tokens_per_second)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of the rounds, in new tokens per second.

        So half of the rounds lie within some `median` ± `spread`.
        """
        return _spread(self.tokens_per_second)

    @property
    def first_token(self) -> float | None:
        """The median of the seconds to the first token; None if they were not measured."""
        return median(self.first_token_seconds) if self.first_token_seconds else None

    @property
    def first_token_spread(self) -> float:
        """As `spread`, of the seconds to the first token."""
        return _spread(self.first_token_seconds)

    @property
    def ratio(self) -> float:
        """How many times as fast as the first model: the median of the ratios within rounds."""
        pairs = zip(self.tokens_per_second, self.beside, strict=True)
        return median(own / first for own, first in pairs)


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, _, third = quantiles(values, n=4, method="inclusive")
    return (third - first) / 2


def measure_speeds(
    models: "Sequence[ModelDirectory]",
    *,
    new_tokens: int = NEW_TOKENS,
    rounds: int = ROUNDS,
    prompt: str = PROMPT,
    precision: Precision = "auto",
) -> list[Speed]:
    """The speed of each model, in their order: on a GPU if there is one, else on the CPU.

    If all models together fit in half of the free memory, all take turns. Otherwise each takes
    turns with the first, so that never more than two are in memory. Where two do not fit, each is
    loaded anew for each turn.

    Args:
        models: At least one.
        new_tokens: Tokens of each text.
        rounds: How often each model writes a text, and then a first token alone.
        prompt: What all models read.
        precision: Of the weights on a GPU. On a CPU they are float32.

    Raises:
        UserError: a model cannot be loaded or cannot generate.
    """
    place = _place(precision)
    groups, stay = _groups(models, place)
    turns: list[list[list[_Turn]]] = []
    texts = [len(group) * (rounds + 1) for group in groups]
    first = place.loader(models[0], stay=stay)
    for number, group in enumerate(groups):

        def tell(done: int, before: int = sum(texts[:number])) -> None:
            tell_part("measuring the speed, text", before + done, sum(texts))

        loaders = [first, *(place.loader(models[each], stay=stay) for each in group[1:])]
        turns.append(
            _in_turns(loaders, lambda loaded: _turn(loaded, prompt, new_tokens), rounds, tell)
        )
        del loaders
    own = [turn for group_turns in turns for turn in group_turns[0]]
    found = [place.speed(own, own)]
    for first_turns, *others in turns:
        found += [place.speed(each, first_turns) for each in others]
    return found


@dataclass(frozen=True)
class _Turn:
    """What one model did in one round: a text, then the first token of one; and its weights."""

    text: "TimedText"
    first: "TimedText"
    weights: int

    @property
    def rate(self) -> float:
        return self.text.tokens / self.text.seconds


def _turn(loaded: Loaded, prompt: str, new_tokens: int) -> _Turn:
    from regrow.evaluation import generation

    model, tokenizer = loaded
    return _Turn(
        text=generation.timed_text(model, tokenizer, prompt, new_tokens),
        first=generation.timed_text(model, tokenizer, prompt, 1),
        weights=sum(weight.nbytes for weight in model.parameters()),
    )


@dataclass(frozen=True)
class _Place:
    """Where models generate, and the type of their weights there."""

    device: "torch.device"
    dtype: "torch.dtype"

    @property
    def name(self) -> str:
        """The name of the GPU; of a CPU, with the threads that are used."""
        import torch

        from regrow.common.environment import machine

        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        facts = machine()
        threads = facts["threads"]
        return f"{facts['cpu'] or 'CPU'}, {threads} {'thread' if threads == 1 else 'threads'}"

    def free_memory(self) -> int:
        """Bytes that models can fill."""
        import torch

        if self.device.type != "cuda":
            return available_memory()
        torch.cuda.empty_cache()  # what an evaluation before has freed
        return torch.cuda.mem_get_info(self.device)[0]

    def loader(self, model: "ModelDirectory", *, stay: bool) -> Callable[[], Loaded]:
        """A function that gives a model and its tokenizer; `stay`: it is loaded only once."""
        if stay:
            loaded = self._load(model)
            return lambda: loaded
        return lambda: self._load(model)

    def _load(self, model: "ModelDirectory") -> Loaded:
        from regrow.models.loading import library_errors

        loaded = model.load(dtype=self.dtype)
        with library_errors(f"{model.path}: cannot be moved to {self.device}"):
            return loaded.to(self.device), model.tokenizer

    def speed(self, turns: Sequence[_Turn], beside: Sequence[_Turn]) -> Speed:
        """The speed of a model, and of the first one in the same rounds."""
        last, peaks = turns[-1], [turn.text.peak_bytes for turn in turns]
        known = [peak for peak in peaks if peak is not None]
        peak = last.weights + max(known) if known else None
        return Speed(
            tokens_per_second=tuple(turn.rate for turn in turns),
            beside=tuple(turn.rate for turn in beside),
            first_token_seconds=tuple(turn.first.seconds for turn in turns),
            memory=Memory(last.weights, last.text.cache_bytes, peak),
            device=self.name,
            dtype=str(self.dtype).removeprefix("torch."),
        )


def _place(precision: Precision) -> _Place:
    """A GPU if there is one, in the type that it multiplies; else the CPU, in float32."""
    import torch

    device = available_device()
    is_gpu = device.type == "cuda"
    return _Place(device, weights_dtype(precision, device) if is_gpu else torch.float32)


def _groups(models: "Sequence[ModelDirectory]", place: _Place) -> tuple[list[list[int]], bool]:
    """Which models take turns, each group with the first; and whether they stay in memory."""
    sizes = [place.dtype.itemsize * model.layout.parameters() for model in models]
    free = place.free_memory()
    everything = list(range(len(models)))
    if sum(sizes) <= _ALL * free or len(models) == 1:
        return [everything], True
    pairs = [[0, other] for other in everything[1:]]
    return pairs, sizes[0] + max(sizes[1:]) <= _TWO * free


def loaded_once(model: "ModelDirectory") -> Callable[[], Loaded]:
    """A function that gives a model, which is loaded now, and its tokenizer."""
    loaded = model.load(), model.tokenizer
    return lambda: loaded


def seconds_in_turns(
    models: Sequence[Callable[[], Loaded]],
    prompt: str,
    *,
    new_tokens: int,
    rounds: int,
    tell: Callable[[int], None] = lambda _: None,
) -> list[list[float]]:
    """Seconds per new token of some models: for each model, of each round.

    One sequence is generated greedily, with the time to read the prompt. A first round warms up and
    is not returned. Every second round goes backwards, so that no model always follows another.
    End tokens are suppressed, so that each model writes exactly ``new_tokens`` tokens.

    `models`: functions that give a model and its tokenizer. `tell`: takes how many sequences were
    generated.
    """
    from regrow.evaluation.generation import seconds_per_token

    return _in_turns(
        models, lambda loaded: seconds_per_token(*loaded, prompt, new_tokens), rounds, tell
    )


def _in_turns(
    models: Sequence[Callable[[], Loaded]],
    measure: Callable[[Loaded], _Found],
    rounds: int,
    tell: Callable[[int], None],
) -> list[list[_Found]]:
    """What is measured of each model in each round but the first, see `seconds_in_turns`."""
    found: list[list[_Found]] = [[] for _ in models]
    order, done = list(range(len(models))), 0
    for _ in range(rounds + 1):
        for number in order:
            tell(done)
            # Nothing here holds on to the model, so that the next can have its memory.
            found[number].append(measure(models[number]()))
            done += 1
        order.reverse()
    tell(done)
    return [each[1:] for each in found]
