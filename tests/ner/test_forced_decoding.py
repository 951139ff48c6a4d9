"""Forced decoding gives the tags of transformers' greedy search among all valid answers."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from regrow.architectures import Blueprint
from regrow.architectures.bart import BART
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.llama import LLAMA
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.models.loading import load_model
from regrow.ner import forced_decoding
from regrow.ner.forced_decoding import Blank, choose_tags
from regrow.objectives.prompt_form import PromptForm
from tests.tiny import write_tiny

TAGS = {"O": (5, 6), "B-x": (5, 7, 8), "I-x": (5, 9, 8), "B-y": (5, 7, 10, 8), "I-y": (5, 9, 10, 8)}
BLANKS = [
    Blank([20, 21, 22, 23, 24], [(30,), (31, 32, 33), (34,), (35, 36)], TAGS),
    Blank([25, 26], [(37, 38), (), (31,)], TAGS),
    Blank([27, 28, 29], [(33,)], TAGS, goes_on=True),
    Blank([31, 22, 39, 25], [(21, 28), (27, 24, 11), (12, 15, 16), (29,), (13,)], TAGS),
    Blank([36, 18, 17], [(26,), (19, 20), (38,)], TAGS, goes_on=True),
]
ALL = (LLAMA, GPT_NEOX, GEMMA2, OPENBA, T5, BART, T5GEMMA)


def _form(is_encoder_decoder: bool) -> PromptForm:
    start = 3 if is_encoder_decoder else None
    answer = (4,) if is_encoder_decoder else ()
    return PromptForm(None, is_encoder_decoder, False, (), (), answer, (2,), start, 0)


def _model(tmp_path: Path, blueprint: Blueprint) -> Any:
    """A random model that does not prefer the same tag everywhere.

    The head's rows of the tokens of tags are made orthogonal to its mean input.
    """
    path = tmp_path / "model"
    write_tiny(blueprint, path, vocab_size=40, pad_token_id=0, eos_token_id=2)
    model = load_model(path)
    head, inputs = model.get_output_embeddings(), []
    hook = head.register_forward_pre_hook(lambda _, given: inputs.append(given[0].flatten(0, -2)))
    choose_tags(model, _form(model.config.is_encoder_decoder), BLANKS)
    hook.remove()
    mean = torch.cat(inputs).mean(0)
    options = sorted({token for tokens in TAGS.values() for token in tokens})
    with torch.no_grad():
        rows = head.weight[options]
        head.weight[options] = rows - torch.outer(rows @ mean / (mean @ mean), mean)
        for name, values in (*model.named_parameters(), *model.named_buffers()):
            if name in ("lm_head.bias", "final_logits_bias"):
                values.zero_()
    return model


def _valid(blank: Blank) -> list[tuple[list[str], list[int]]]:
    """All answers of the right form, as tags and as tokens."""
    found = []
    for tags in product(TAGS, repeat=len(blank.words)):
        pairs = zip(["O", *tags], tags, strict=False)
        wrong = [b for a, b in pairs if b[0] == "I" and b[2:] != a[2:]]
        if not wrong or (blank.goes_on and tags[0][0] == "I" and wrong == [tags[0]]):
            ids = [
                t for word, tag in zip(blank.words, tags, strict=True) for t in (*word, *TAGS[tag])
            ]
            found.append((list(tags), ids))
    return found


def _greedy(model: Any, form: PromptForm, blank: Blank) -> list[str]:
    """The greedy answer of transformers among the valid answers, one sentence at a time."""
    valid = _valid(blank)
    begun = list(blank.source) if form.decoder_start is None else [form.decoder_start]
    begun += form.answer_start

    def allowed(_: int, ids: torch.Tensor) -> Sequence[int]:
        written = ids.tolist()[len(begun) :]
        fitting = [each for _, each in valid if each[: len(written)] == written]
        return sorted({each[len(written)] for each in fitting if len(each) > len(written)}) or [2]

    given = {"input_ids": torch.tensor([list(blank.source)])}
    if form.is_encoder_decoder:
        given["decoder_input_ids"] = torch.tensor([begun])
        model.generation_config.decoder_start_token_id = form.decoder_start
    output = model.generate(
        **given, attention_mask=torch.ones_like(given["input_ids"]), do_sample=False, num_beams=1,
        max_new_tokens=40, eos_token_id=2, pad_token_id=0, prefix_allowed_tokens_fn=allowed,
        forced_bos_token_id=None, forced_eos_token_id=None,
    )[0].tolist()  # fmt: skip
    written = output[len(begun) :]
    return next(tags for tags, ids in valid if written[: len(ids)] == ids)


@pytest.mark.parametrize("blueprint", ALL, ids=lambda each: each.model_type)
def test_the_tags_are_those_of_transformers(tmp_path: Path, blueprint: Blueprint) -> None:
    model = _model(tmp_path, blueprint)
    form = _form(model.config.is_encoder_decoder)
    expected = [_greedy(model, form, blank) for blank in BLANKS]
    assert choose_tags(model, form, BLANKS) == expected
    assert len({tag for tags in expected for tag in tags}) > 1


def test_a_sentence_without_types_has_no_choice(tmp_path: Path) -> None:
    model, form = _model(tmp_path, LLAMA), _form(False)
    only = Blank([20, 21], [(30,), (31,)], {"O": TAGS["O"]})
    expected = choose_tags(model, form, BLANKS[:2])
    assert choose_tags(model, form, [BLANKS[0], only, BLANKS[1]]) == [
        expected[0], ["O", "O"], expected[1],
    ]  # fmt: skip
    assert choose_tags(model, form, [only]) == [["O", "O"]]


@pytest.mark.parametrize("blueprint", [LLAMA, OPENBA, T5], ids=lambda each: each.model_type)
def test_a_batch_gives_the_tags_of_each_sentence_alone(
    tmp_path: Path, blueprint: Blueprint
) -> None:
    model = _model(tmp_path, blueprint)
    form = _form(model.config.is_encoder_decoder)
    alone = [choose_tags(model, form, [blank])[0] for blank in BLANKS]
    assert choose_tags(model, form, BLANKS) == alone


def test_rows_without_padding_give_the_same_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, form = _model(tmp_path, LLAMA), _form(False)
    padded = choose_tags(model, form, BLANKS)
    never: Callable[..., bool] = lambda *_: False  # noqa: E731
    monkeypatch.setattr(forced_decoding, "_takes_positions", never)
    assert choose_tags(model, form, BLANKS) == padded


@pytest.mark.parametrize(
    ("blueprint", "ways"),
    [(LLAMA, [True]), (OPENBA, [True]), (T5, [False]), (BART, [False]), (GEMMA2, [True, False])],
    ids=lambda each: getattr(each, "model_type", ""),
)
def test_rows_are_padded_where_it_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blueprint: Blueprint, ways: list[bool]
) -> None:
    model = _model(tmp_path, blueprint)
    tried: list[bool] = []
    choose_all = forced_decoding._choose_all

    def note(*given: Any, pads: bool) -> list[list[str]] | None:
        tried.append(pads)
        return choose_all(*given, pads=pads)

    monkeypatch.setattr(forced_decoding, "_choose_all", note)
    choose_tags(model, _form(model.config.is_encoder_decoder), BLANKS)
    assert tried == ways  # the window of this Gemma 2 is shorter than the rows


@pytest.mark.parametrize("blueprint", [LLAMA, GPT_NEOX, OPENBA], ids=lambda each: each.model_type)
def test_padded_rows_have_the_logits_of_plain_rows(tmp_path: Path, blueprint: Blueprint) -> None:
    model = _model(tmp_path, blueprint)
    form = _form(model.config.is_encoder_decoder)
    sources = [[20, 21, 22, 23], [25], [27, 28]]
    rows = [[30, 31, 32, 33, 34, 35], [36, 37, 38, 39, 11, 12, 13, 14], [15, 16]]
    steps = [[2, 5, 1], [3, 1, 1]]
    reader = forced_decoding._Reader(model, form, sources, pads=True)
    read = [0, 0, 0]
    for step in steps:
        pending = [row[a : a + n] for row, a, n in zip(rows, read, step, strict=True)]
        read = [a + n for a, n in zip(read, step, strict=True)]
        logits = reader.read(pending)
        for row, source, count, found in zip(rows, sources, read, logits, strict=True):
            given = {"input_ids": torch.tensor([row[:count]])}
            if form.is_encoder_decoder:
                given = {
                    "decoder_input_ids": given["input_ids"],
                    "input_ids": torch.tensor([source]),
                }
            with torch.no_grad():
                expected = model(**given, use_cache=False).logits[0, -1]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_fewer_passes_than_tokens(tmp_path: Path) -> None:
    model, form = _model(tmp_path, OPENBA), _form(True)
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    model.get_decoder().register_forward_hook(count)
    (tags,) = choose_tags(model, form, BLANKS[:1])
    choices = sum(1 + (tag[0] != "O") + (tag[0] != "O" and tag[0] == "B") for tag in tags)
    assert passes <= choices
