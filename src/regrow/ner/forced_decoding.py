"""Let a model choose only the tags of a sentence; the words are given, in their order.

At each place where tags differ, the most probable token among those of the allowed tags is taken:
the greedy answer under the constraint, as `generate(prefix_allowed_tokens_fn=...)` of transformers
gives it. `I` is allowed only after `B` or `I` of the same type. All tokens between two such places
are read in one forward pass, with several sentences in a batch.

Sentences of a batch have different numbers of tokens between two places. Rows are padded on the
left of what they read, and a mask hides the padding, where the network takes the positions of its
tokens. T5 and BART compute positions from places in the row, and a sliding window counts places. So
there, in each pass, all rows read as many tokens as the row with the fewest has ready; with a
sliding window, only if the padded rows get longer than the window.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from regrow.models.decoding import CACHE_ARGUMENT
from regrow.ner.tags import split_tag
from regrow.objectives.prompt_form import PromptForm

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Blank:
    """A sentence whose tags are to be chosen.

    Attributes:
        source: The tokens of the prompt.
        words: The tokens of each word.
        tags: The tokens of each tag, by tag; none is the beginning of another.
        goes_on: Whether the first word may go on with an entity of the piece before.
    """

    source: Sequence[int]
    words: Sequence[Tokens]
    tags: Mapping[str, Tokens]
    goes_on: bool = False


def choose_tags(model: Any, form: PromptForm, blanks: Sequence[Blank]) -> list[list[str]]:
    """The tags that the model chooses for the words of each sentence.

    Args:
        model: Of transformers, in evaluation mode.
        form: How it reads a prompt.
        blanks: The sentences of one batch.
    """
    if _takes_positions(model):
        found = _choose_all(model, form, blanks, pads=True)
        if found is not None:
            return found
    found = _choose_all(model, form, blanks, pads=False)
    assert found is not None
    return found


def _choose_all(
    model: Any, form: PromptForm, blanks: Sequence[Blank], *, pads: bool
) -> list[list[str]] | None:
    """The tags; None if rows that are padded got longer than the model's sliding window."""
    window = getattr(model.config.get_text_config(decoder=True), "sliding_window", None)
    rows = [_Row(blank, _first_tokens(form, blank)) for blank in blanks]
    # One without types has no choice.
    active = [row for row in rows if not row.is_done]
    sources = [b.source for b, row in zip(blanks, rows, strict=True) if not row.is_done]
    reader = _Reader(model, form, sources, pads) if active else None
    while active and reader is not None:
        logits = reader.read([row.pending for row in active])
        if pads and window is not None and reader.columns > window:
            return None
        _choose(logits, active)
        kept = [place for place, row in enumerate(active) if not row.is_done]
        if len(kept) < len(active):
            active = [active[place] for place in kept]
            if active:
                reader.keep(kept)
    return [row.chosen for row in rows]


def _first_tokens(form: PromptForm, blank: Blank) -> list[int]:
    """What the decoder reads before the first word."""
    start = blank.source if form.decoder_start is None else [form.decoder_start]
    return [*start, *form.answer_start]


def _choose(logits: Tensor, rows: Sequence["_Row"]) -> None:
    """Take the most probable option of each row that has read all it had."""
    waiting = [place for place, row in enumerate(rows) if not row.pending]
    if not waiting:
        return
    options = [rows[place].options for place in waiting]
    width = max(map(len, options))
    index = torch.tensor([[*each, *[each[0]] * (width - len(each))] for each in options])
    places = torch.tensor(waiting, device=logits.device)
    found = logits[places].gather(1, index.to(logits.device)).argmax(1).tolist()
    for place, each, best in zip(waiting, options, found, strict=True):
        rows[place].take(each[best])


class _Row:
    """One sentence: what is to be read next, and which tags are still possible.

    Attributes:
        pending: Tokens that are known and not yet read.
        chosen: The tags chosen so far.
    """

    def __init__(self, blank: Blank, first: Sequence[int]) -> None:
        self._blank = blank
        self.pending = list(first)
        self.chosen: list[str] = []
        self._possible: dict[str, Tokens] = {}
        self._depth = 0
        self._begin_word()

    @property
    def is_done(self) -> bool:
        return len(self.chosen) == len(self._blank.words)

    @property
    def options(self) -> list[int]:
        """The tokens that may come next; several, or the row is done."""
        return sorted({tokens[self._depth] for tokens in self._possible.values()})

    def take(self, token: int) -> None:
        """Go on with one of the options."""
        self._possible = {
            tag: tokens for tag, tokens in self._possible.items() if tokens[self._depth] == token
        }
        self._follow()

    def _begin_word(self) -> None:
        place = len(self.chosen)
        self.pending += self._blank.words[place]
        before = split_tag(self.chosen[-1])[1] if self.chosen else None
        self._possible = {
            tag: tokens
            for tag, tokens in self._blank.tags.items()
            if not tag.startswith("I-") or (tag[2:] == before if place else self._blank.goes_on)
        }
        self._depth = 0
        self._follow()

    def _follow(self) -> None:
        """Add the tokens that all possible tags have next, up to a choice or the end."""
        while len(nexts := self.options) == 1:
            self.pending += nexts
            self._depth += 1
            tag, tokens = next(iter(self._possible.items()))
            if len(self._possible) == 1 and self._depth == len(tokens):
                self.chosen.append(tag)
                if not self.is_done:
                    self._begin_word()
                return


class _Reader:
    """The rows of a batch as the model has read them: its cache, and a mask of the padding."""

    def __init__(
        self, model: Any, form: PromptForm, sources: Sequence[Sequence[int]], pads: bool
    ) -> None:
        self._model = model
        self._pads = pads
        self._pad = form.pad
        self._device = next(model.parameters()).device
        self._is_pair = form.is_encoder_decoder
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        text = model.config.get_text_config(decoder=True) if self._is_pair else model.config
        cache: Any = DynamicCache(config=text)
        self._states: Any = None
        self._source_mask = torch.zeros(0)
        if self._is_pair:
            cache = EncoderDecoderCache(cache, DynamicCache())
            self._encode(sources)
        self._cache = cache
        self._mask = torch.zeros(len(sources), 0, dtype=torch.long, device=self._device)

    @property
    def columns(self) -> int:
        """What the rows hold, with the padding between their tokens."""
        return self._mask.shape[1]

    def read(self, pending: Sequence[list[int]]) -> Tensor:
        """Read what rows have pending, as far as possible; the next token's logits, [rows, vocab].

        What is read is removed from `pending`. Only the logits of rows that then have nothing
        pending are those of a token that follows all they have.
        """
        count = max(map(len, pending)) if self._pads else min(map(len, pending))
        read = [tokens[:count] for tokens in pending]
        for tokens in pending:
            del tokens[:count]
        ids = [[*[self._pad] * (count - len(tokens)), *tokens] for tokens in read]
        given = torch.tensor(ids, device=self._device)
        masks = {}
        if self._pads:
            new = torch.tensor([[0] * (count - len(t)) + [1] * len(t) for t in read])
            before = self._mask.sum(1, keepdim=True)
            self._mask = torch.cat([self._mask, new.to(self._device)], dim=1)
            own = self._mask[:, -count:]
            positions = (before + own.cumsum(1) - 1).clamp_min(0)
            names = ("attention_mask", "position_ids")
            prefix = "decoder_" if self._is_pair else ""
            masks = dict(
                zip((prefix + name for name in names), (self._mask, positions), strict=True)
            )
        return self._forward(given, masks)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, by their places."""
        index = torch.tensor(rows, device=self._device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]
        if self._states is not None:
            self._states.last_hidden_state = self._states.last_hidden_state[index]
            self._source_mask = self._source_mask[index]

    @torch.inference_mode()
    def _encode(self, sources: Sequence[Sequence[int]]) -> None:
        width = max(map(len, sources))
        ids = [[*source, *[self._pad] * (width - len(source))] for source in sources]
        mask = [[1] * len(source) + [0] * (width - len(source)) for source in sources]
        self._source_mask = torch.tensor(mask, device=self._device)
        self._states = self._model.get_encoder()(
            input_ids=torch.tensor(ids, device=self._device), attention_mask=self._source_mask
        )

    @torch.inference_mode()
    def _forward(self, ids: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        given: dict[str, Any] = {**masks, CACHE_ARGUMENT: self._cache, "use_cache": True}
        if self._keeps_logits:
            given["logits_to_keep"] = 1
        if self._is_pair:
            given |= {
                "encoder_outputs": self._states, "attention_mask": self._source_mask,
                "decoder_input_ids": ids,
            }  # fmt: skip
        else:
            given["input_ids"] = ids
        logits: Tensor = self._model(**given).logits[:, -1]
        return logits


def _takes_positions(model: Any) -> bool:
    """Whether the model takes the positions of the tokens that it writes, so rows can be padded."""
    name = "decoder_position_ids" if model.config.is_encoder_decoder else "position_ids"
    return name in inspect.signature(model.forward).parameters
