"""The speed of greedy generation of several models, measured in turns.

The same machine generates faster or slower from one minute to the next, whatever else it does. So
the models take turns: each generates once in a round, and they are compared within rounds.

Importing this module does not import PyTorch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from regrow.common.memory import available_memory
from regrow.common.progress import tell_part

if TYPE_CHECKING:
    from regrow.checkpoint.model_directory import ModelDirectory

PROMPT = "Write a short story about a river."
NEW_TOKENS, ROUNDS = 16, 10
_ALL, _TWO = 0.5, 0.9
"""The part of free memory that all models may fill together, and that two may fill."""

Loaded = tuple[Any, Any]
"""A model and its tokenizer."""

_Rates = Annotated[
    tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)
]


@dataclass(frozen=True)
class Speed:
    """How fast one model generates, beside the first model of the same list.

    Attributes:
        tokens_per_second: New tokens per second of each round, with the time to read the prompt.
        beside: Those of the first model in the same rounds; of the first model, its own.
    """

    tokens_per_second: _Rates
    beside: _Rates

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
        if len(self.tokens_per_second) < 2:
            return 0.0
        first, _, third = quantiles(self.tokens_per_second, n=4, method="inclusive")
        return (third - first) / 2

    @property
    def ratio(self) -> float:
        """How many times as fast as the first model: the median of the ratios within rounds."""
        pairs = zip(self.tokens_per_second, self.beside, strict=True)
        return median(own / first for own, first in pairs)


def measure_speeds(
    models: "Sequence[ModelDirectory]",
    *,
    new_tokens: int = NEW_TOKENS,
    rounds: int = ROUNDS,
    prompt: str = PROMPT,
) -> list[Speed]:
    """The speed of each model, in their order; in float32.

    If all models together fit in half of the free memory, all take turns. Otherwise each takes
    turns with the first, so that never more than two are in memory. Where two do not fit, each is
    loaded anew for each turn.

    Raises UserError if a model cannot be loaded or cannot generate.
    """
    groups, stay = _groups(models)
    rates: list[list[tuple[float, ...]]] = []
    texts = [len(group) * (rounds + 1) for group in groups]
    first = _loader(models[0], stay=stay)
    for number, group in enumerate(groups):

        def tell(done: int, before: int = sum(texts[:number])) -> None:
            tell_part("measuring the speed, text", before + done, sum(texts))

        loaders = [first, *(_loader(models[each], stay=stay) for each in group[1:])]
        seconds = seconds_in_turns(loaders, prompt, new_tokens=new_tokens, rounds=rounds, tell=tell)
        del loaders
        rates.append([tuple(1 / each for each in times) for times in seconds])
    own = tuple(rate for group_rates in rates for rate in group_rates[0])
    found = [Speed(own, own)]
    for first_rates, *others in rates:
        found += [Speed(each, first_rates) for each in others]
    return found


def _groups(models: "Sequence[ModelDirectory]") -> tuple[list[list[int]], bool]:
    """Which models take turns, each group with the first; and whether they stay in memory."""
    sizes = [4 * model.layout.parameters() for model in models]
    free = available_memory()
    everything = list(range(len(models)))
    if sum(sizes) <= _ALL * free or len(models) == 1:
        return [everything], True
    pairs = [[0, other] for other in everything[1:]]
    return pairs, sizes[0] + max(sizes[1:]) <= _TWO * free


def loaded_once(model: "ModelDirectory") -> Callable[[], Loaded]:
    """A function that gives a model, which is loaded now, and its tokenizer."""
    loaded = model.load(), model.tokenizer
    return lambda: loaded


def _loader(model: "ModelDirectory", *, stay: bool) -> Callable[[], Loaded]:
    return loaded_once(model) if stay else lambda: (model.load(), model.tokenizer)


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

    seconds: list[list[float]] = [[] for _ in models]
    order, done = list(range(len(models))), 0
    for _ in range(rounds + 1):
        for number in order:
            tell(done)
            model, tokenizer = models[number]()
            seconds[number].append(seconds_per_token(model, tokenizer, prompt, new_tokens))
            del model
            done += 1
        order.reverse()
    tell(done)
    return [times[1:] for times in seconds]
