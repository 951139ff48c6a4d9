"""regrow's models for lm-eval, registered there as `regrow`.

`python -m regrow.evaluation.harness` is lm-eval's own command line with this model.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.resolve import resolve_model
from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.common.precision import Precision, resolve_precision
from regrow.evaluation.harness.decoder_scores import decoder_scores, shares_contexts
from regrow.evaluation.harness.encoding import Encoding, Pair
from regrow.evaluation.harness.responses import Responses, request_key
from regrow.evaluation.harness.scores import Computing, Score
from regrow.evaluation.harness.seq2seq_scores import seq2seq_scores
from regrow.evaluation.harness.text_generation import Prompt, draws, generated_texts
from regrow.evaluation.tasks.forms import PromptForm
from regrow.objectives.losses.head import check_head
from regrow.objectives.losses.shared_row_attention import supports_shared_rows
from regrow.tokenizers.chat_rendering import render_chat

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True)
class Advance:
    """How far the requests of one kind are.

    Attributes:
        done, total: Requests that are answered, and all of them.
        share: The fraction of the work that is done, by tokens, from 0 to 1.
        seconds: The time since the first of them was computed.
        seconds_left: An estimate of the time that the rest takes.
    """

    done: int
    total: int
    share: float
    seconds: float
    seconds_left: float


_Arguments = Mapping[str, tuple[Any, ...]]
"""The arguments of requests by their key."""
_Answers = dict[str, Any]
"""Answers as JSON by the key of their request."""
_OPENBA_FORM = 2
"""The version of OpenBA's prompts. In the first, a prompt that is too long lost its mode token."""
_SPARE = 8
"""Upper bound on the special tokens around a prompt."""


def _ignore(_: Advance) -> None:
    pass


@register_model("regrow")
class RegrowModel(LM):
    """A decoder or an encoder-decoder that answers the requests of lm-eval.

    The weights are loaded at the first request that `responses` cannot answer.

    Args:
        pretrained: A directory, a GGUF file, a hub id, or an open model directory.
        precision: Of matrix products: `auto`, `bf16` or `fp32`.
        prompt: How an encoder-decoder reads a prompt: `auto`, `plain` or `openba`.
        device: Of torch; None takes CUDA if it is there.
        batch_tokens: Upper bound on the tokens of a batch, padding included.
        max_length: The most tokens that the model reads; None takes the model's own number, as
            lm-eval finds it.
        batch_size, max_batch_size: Ignored; lm-eval passes them.
    """

    def __init__(
        self,
        pretrained: str | Path | ModelDirectory,
        precision: Precision = "auto",
        prompt: PromptForm = "auto",
        device: str | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        unknown = [name for name in unused if name not in ("batch_size", "max_batch_size")]
        if unknown:
            raise UserError(f"{unknown[0]}: regrow's model has no such argument")
        if isinstance(pretrained, ModelDirectory):
            self.directory = pretrained
        else:
            self.directory = ModelDirectory(resolve_model(str(pretrained), None))
        has_gpu = torch.cuda.is_available()
        self._device = torch.device(device or ("cuda" if has_gpu else "cpu"))
        self._precision = resolve_precision(precision, self._device)
        self._tokens = batch_tokens or _BATCH_TOKENS.get(self._device.type, 8192)
        self._max_length = max_length
        self.encoding = Encoding(self.directory.tokenizer, self.directory.config, prompt)
        self.responses: Responses | None = None
        self.advance: Callable[[Advance], None] = _ignore
        self.scores: dict[tuple[str, str], Score] = {}
        """The score of each context and continuation that was asked for."""
        self.computed = self.cached = 0
        """Answers that were computed, and those that were known."""

    @property
    def precision(self) -> str:
        """Of the matrix products: `bf16` or `fp32`."""
        return self._precision

    @cached_property
    def identity(self) -> str:
        """A hash of what decides the answers: weights, tokenizer, config, precision and form."""
        return identity_of(
            "answers",
            weights=self.directory.checkpoint.weights_sha256,
            files=self.directory.files_sha256,
            precision=self._precision,
            openba=self.encoding.has_openba_prompts and _OPENBA_FORM,
            window=self.max_length,
        )

    @cached_property
    def model(self) -> Any:
        """The network, in evaluation mode."""
        dtype = "float32" if self._precision == "fp32" else "auto"
        model = self.directory.load(dtype=dtype).to(self._device)
        check_head(model)
        return model

    @cached_property
    def shares(self) -> bool:
        """Whether the options of a question can stand in one row, so that it is read once."""
        check = supports_shared_rows if self.encoding.is_encoder_decoder else shares_contexts
        return check(self.model)

    def free(self) -> None:
        """Forget the network, so that another model has its memory."""
        self.__dict__.pop("model", None)

    @property
    def tokenizer(self) -> Any:
        return self.encoding.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return str(self.directory.path).replace("/", "__")

    @cached_property
    def max_length(self) -> int:
        """The most tokens that the model reads."""
        if self._max_length is not None:
            return int(self._max_length)
        trained = getattr(self.directory.config, "max_seq_length", None)  # OpenBA's
        return int(trained or resolve_max_length(self.directory.config, self.tokenizer))

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a conversation in the chat template of the tokenizer."""
        return str(
            render_chat(self.tokenizer, chat_history, add_generation_prompt=add_generation_prompt)
        )

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of the continuation of each request."""
        given = self._answered("loglikelihood", requests, self._likelihoods)
        found = [Score(**answer) for answer in given]
        self._check_numbers(score.loglikelihood for score in found)
        self.scores.update(zip((request.args for request in requests), found, strict=True))
        return [(score.loglikelihood, score.is_greedy) for score in found]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """The log-likelihood of each text, in windows of the model's length."""
        found = [*map(float, self._answered("rolling", requests, self._text_likelihoods))]
        self._check_numbers(found)
        return found

    def _check_numbers(self, loglikelihoods: Iterable[float]) -> None:
        """Raise UserError if one is NaN: the first option would count as the chosen one."""
        if any(map(math.isnan, loglikelihoods)):
            raise UserError(
                f"{self.directory.path}: a log-likelihood is not a number, so the answers say "
                "nothing; its weights or activations are not finite"
            )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text that follows each prompt, up to a stop sequence."""
        return [str(each) for each in self._answered("generate", requests, self._generated)]

    def _answered(
        self,
        kind: str,
        requests: Sequence[Any],
        compute: Callable[[_Arguments], Iterator[_Answers]],
    ) -> list[Any]:
        """The answer to each request, kept in `responses`.

        It is computed once for equal requests, except for those that draw tokens.
        """
        keys = [*_keys(kind, requests)]
        tasks: dict[str, set[str]] = defaultdict(set)
        for key, request in zip(keys, requests, strict=True):
            tasks[key].add(request.task_name or "")
        arguments = {key: each.args for key, each in zip(keys, requests, strict=True)}
        found: dict[str, Any] = {}
        if self.responses is not None:
            for key, names in tasks.items():
                for known in map(self.responses.of, names):
                    if key in known:
                        found[key] = known[key]
        missing = {key: each for key, each in arguments.items() if key not in found}
        self.computed += len(missing)
        self.cached += len(arguments) - len(missing)
        sizes = {key: 1 + sum(len(str(part)) for part in each) for key, each in missing.items()}
        total, done, began = sum(sizes.values()), 0, time.monotonic()
        for answers in compute(missing) if missing else ():
            self._keep(answers, tasks)
            found.update(answers)
            done += sum(sizes[key] for key in answers)
            seconds = time.monotonic() - began
            left = seconds * (total - done) / max(1, done)
            self.advance(Advance(len(found), len(arguments), done / total, seconds, left))
        return [found[key] for key in keys]

    def _keep(self, answers: _Answers, tasks: Mapping[str, set[str]]) -> None:
        if self.responses is None:
            return
        by_task: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, answer in answers.items():
            for task in tasks[key]:
                by_task[task][key] = answer
        for task, some in by_task.items():
            self.responses.add(task, some)

    def fits(self, requests: Sequence[tuple[Any, ...]]) -> bool:
        """Whether the model reads all of the prompts of requests with these arguments."""
        # A token has at least one byte, so most prompts need not be encoded.
        most = self.max_length - _SPARE
        return all(_bytes(each) <= most for each in requests) or all(self._room(requests))

    def shortened_of(self, requests: Sequence[Any]) -> int:
        """How many of these requests had a prompt that is longer than the model reads."""
        return sum(not self.fits([each.args]) for each in requests if len(each.args) > 1)

    def _room(self, requests: Sequence[tuple[Any, ...]]) -> Iterator[bool]:
        """Whether each prompt, and what follows it, has a place in the window."""
        if self.encoding.is_encoder_decoder or not isinstance(requests[0][1], str):
            contexts = self.encoding.contexts([each[0] for each in requests])
            for (_, end), tokens in zip(requests, contexts, strict=True):
                is_generated = not self.encoding.is_encoder_decoder
                after = Prompt("", (), end).new_tokens if is_generated else 0
                yield len(tokens) + after <= self.max_length
            return
        for context, end in self.encoding.pairs(requests):
            # The last token is only predicted.
            yield len(context) + len(end) <= self.max_length + 1

    def _likelihoods(self, arguments: _Arguments) -> Iterator[_Answers]:
        pairs = self.encoding.pairs([*arguments.values()])
        keys: dict[Pair, list[str]] = defaultdict(list)
        for key, pair in zip(arguments, pairs, strict=True):
            keys[pair].append(key)
        empty = [key for pair, some in keys.items() if not pair[1] for key in some]
        if empty:  # a text without tokens is certain
            yield dict.fromkeys(empty, asdict(Score(0.0, True, 0)))
        for found in self._scores([pair for pair in keys if pair[1]]):
            yield {key: asdict(score) for pair, score in found.items() for key in keys[pair]}

    def _text_likelihoods(self, arguments: _Arguments) -> Iterator[_Answers]:
        encoded = self.encoding.texts([text for (text,) in arguments.values()])
        waiting = {key: self._windows(ids) for key, ids in zip(arguments, encoded, strict=True)}
        scores: dict[Pair, Score] = {}
        for found in self._scores([pair for pairs in waiting.values() for pair in pairs]):
            scores.update(found)
            ready = [key for key, pairs in waiting.items() if all(pair in scores for pair in pairs)]
            if ready:
                yield {
                    key: sum(scores[pair].loglikelihood for pair in waiting.pop(key))
                    for key in ready
                }
        if waiting:  # empty texts, if there is no other
            yield dict.fromkeys(waiting, 0.0)

    def _generated(self, arguments: _Arguments) -> Iterator[_Answers]:
        encoded = self.encoding.contexts([text for text, _ in arguments.values()])
        groups: dict[str, list[Prompt]] = defaultdict(list)
        for (key, (_, settings)), tokens in zip(arguments.items(), encoded, strict=True):
            prompt = Prompt(key, tokens, settings)
            if not self.encoding.is_encoder_decoder and prompt.new_tokens >= self.max_length:
                raise UserError(
                    f"a task generates up to {prompt.new_tokens} tokens, but {self.directory.path} "
                    f"reads {self.max_length} at most"
                )
            groups[request_key("", (settings,))].append(prompt)
        for group in groups.values():
            for batch in generated_texts(
                self.model, self.encoding, group, window=self.max_length,
                batch_tokens=self._tokens, precision=self._precision,
            ):  # fmt: skip
                yield {prompt.key: text for prompt, text in batch}

    def _scores(self, pairs: Sequence[Pair]) -> Iterator[dict[Pair, Score]]:
        how = Computing(self.max_length, self._tokens, self._precision, self.shares)
        if self.encoding.is_encoder_decoder:
            return seq2seq_scores(self.model, pairs, self.encoding, how)
        return decoder_scores(self.model, pairs, how)

    def _windows(self, ids: list[int]) -> list[Pair]:
        """The parts of a text, each with the tokens before it that the model reads."""
        windows = get_rolling_token_windows(
            token_list=ids, prefix_token=self.encoding.first, max_seq_len=self.max_length,
            context_len=1,
        )  # fmt: skip
        return [self.encoding.text_window(*make_disjoint_window(window)) for window in windows]


def _keys(kind: str, requests: Sequence[Any]) -> Iterator[str]:
    """The key of each request.

    A task that draws tokens may ask the same several times. Such requests are told apart by how
    often the task has asked the same before, so each gets an answer of its own.
    """
    asked: Counter[tuple[str, str]] = Counter()
    for request in requests:
        if kind != "generate" or not draws(request.args[1]):
            yield request_key(kind, request.args)
            continue
        same = (request.task_name or "", request_key("drawn", request.args))
        yield request_key("drawn", (*request.args, asked[same]))
        asked[same] += 1


def _bytes(arguments: tuple[Any, ...]) -> int:
    """UTF-8 bytes of the texts of a request."""
    return sum(len(part.encode()) for part in arguments if isinstance(part, str))
