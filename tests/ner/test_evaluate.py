"""Right answers score 100, wrong ones do not, and sentences are divided where they must be."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress
from regrow.ner import forced_decoding, free_decoding
from regrow.ner.evaluate import EvaluationSettings, evaluate_entities
from regrow.ner.forced_decoding import Blank
from regrow.ner.prompts import evaluation_question
from regrow.ner.sentences import Sentence, Span, entity_set
from regrow.ner.spelling import Spelling
from regrow.objectives.prompt_form import prompt_form
from tests.tiny import write_model, write_seq2seq

SET = entity_set(
    "set",
    [
        Sentence(("the", "river", "Po", "is", "long", "."), (Span(1, 3, "water"),)),
        Sentence(("Ann", "Lee", "met", "Bo"), (Span(0, 2, "person"), Span(3, 4, "person"))),
        Sentence(("no", "one"), ()),
    ],
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    place = tmp_path_factory.mktemp("model") / "model"
    return ModelDirectory(write_model(place, max_position_embeddings=1_024))


@pytest.fixture
def right_answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the model by one that knows the right answers; the sizes of its batches."""
    sizes: list[int] = []
    known = {_sentence_in(evaluation_question(s, SET, 0).prompt): s for s in SET.sentences}

    def tags(model: Any, form: Any, blanks: Sequence[Blank]) -> list[list[str]]:
        sizes.append(len(blanks))
        by_text = {text: evaluation_question(s, SET, 0).tags for text, s in known.items()}
        prompts = [form.tokenizer.decode(blank.source) for blank in blanks]
        return [by_text[_sentence_in(prompt)] for prompt in prompts]

    def write(model: Any, form: Any, sources: Sequence[Sequence[int]], most: int) -> list[str]:
        sizes.append(len(sources))
        texts = [_sentence_in(form.tokenizer.decode(source)) for source in sources]
        return [evaluation_question(known[text], SET, 0).answer for text in texts]

    monkeypatch.setattr(forced_decoding, "choose_tags", tags)
    monkeypatch.setattr(free_decoding, "write_answers", write)
    return sizes


def _sentence_in(prompt: str) -> str:
    return prompt.rpartition("Sentence: ")[2].strip()


@pytest.mark.parametrize("constrained", [True, False])
def test_right_answers_score_100(
    model: ModelDirectory, right_answers: list[int], constrained: bool
) -> None:
    done: list[tuple[int, int]] = []
    settings = EvaluationSettings(constrained=constrained, batch_size=2)
    found = evaluate_entities(
        model, [SET], settings, progress=Progress(advance=lambda *each: done.append(each))
    )
    (each,) = found.sets
    assert (each.f1, each.precision, each.recall, each.report_f1) == (1, 1, 1, 1)
    assert (found.f1, found.report_f1) == (1, 1)
    assert (each.sentences, each.entities, each.unaligned, each.missing) == (3, 3, 0, 0)
    assert each.f1_by_type == {"person": 1, "water": 1}
    assert right_answers == [2, 1]
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_seconds_are_without_loading_the_model(
    model: ModelDirectory, right_answers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def load(*_: Any, **__: Any) -> Any:
        nonlocal now
        now += 1_000
        model = torch.nn.Identity()
        model.generation_config = GenerationConfig()
        return model

    monkeypatch.setattr(ModelDirectory, "load", load)
    monkeypatch.setattr("regrow.ner.evaluate.time.perf_counter", lambda: now)
    assert evaluate_entities(model, [SET], EvaluationSettings()).sets[0].seconds == 0


def test_settings_of_generation_do_not_change_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "m", max_position_embeddings=1_024)
    settings = {"no_repeat_ngram_size": 3, "repetition_penalty": 1.5, "eos_token_id": 2}
    (path / "generation_config.json").write_text(json.dumps(settings))
    seen: list[Any] = []

    def write(model: Any, form: Any, sources: Sequence[Sequence[int]], most: int) -> list[str]:
        seen.append(model.generation_config)
        return [""] * len(sources)

    monkeypatch.setattr(free_decoding, "write_answers", write)
    evaluate_entities(ModelDirectory(path), [SET], EvaluationSettings())
    assert seen[0].eos_token_id == 2
    assert (seen[0].no_repeat_ngram_size, seen[0].repetition_penalty) in ((None, None), (0, 1.0))


def test_the_limit_is_of_each_set(model: ModelDirectory, right_answers: list[int]) -> None:
    found = evaluate_entities(model, [SET], EvaluationSettings(limit=1))
    assert (found.sets[0].sentences, found.sets[0].entities) == (1, 1)


@pytest.mark.parametrize("constrained", [True, False])
def test_a_long_sentence_is_divided(model: ModelDirectory, constrained: bool) -> None:
    words = ("the river is long . " * 20).split()
    long = entity_set("long", [Sentence(tuple(words), (Span(1, 2, "x"),))])
    settings = EvaluationSettings(constrained=constrained, row_length=600)
    found = evaluate_entities(model, [long], settings)
    assert found.sets[0].divided == 1
    if constrained:
        assert found.sets[0].missing == 0


def test_prompts_and_answers_that_do_not_fit_together_are_read_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that does not stop must not go beyond its positions."""
    few = Sentence(("no", "one"), ())
    many = Sentence(
        ("a", "b", "c", "d", "e", "f", "g", "h"),
        tuple(Span(n, n + 1, "x") for n in range(8)),
    )
    both = entity_set("both", [many, few])
    path = write_model(tmp_path / "m", max_position_embeddings=1_024)
    model = ModelDirectory(path)
    form, spelling = prompt_form(model.tokenizer, model.config), Spelling(model.tokenizer)
    asked = [evaluation_question(each, both, 0) for each in both.sentences]
    needs = [
        len(form.source(each.prompt)) + len(form.answer_end) + spelling.answer_sizes(each)[1]
        for each in asked
    ]
    config = json.loads((path / "config.json").read_text())
    positions = max(needs)
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
    written: list[tuple[int, int]] = []

    def write(model: Any, form: Any, sources: Sequence[Sequence[int]], most: int) -> list[str]:
        written.append((max(map(len, sources)), most))
        return [""] * len(sources)

    monkeypatch.setattr(free_decoding, "write_answers", write)
    evaluate_entities(ModelDirectory(path), [both], EvaluationSettings(constrained=False))
    assert all(prompt + new <= positions for prompt, new in written)
    longest = spelling.answer_sizes(asked[0])[1]
    assert max(new for _, new in written) >= longest


def test_an_encoder_decoder_answers(tmp_path: Path) -> None:
    source = ModelDirectory(write_seq2seq(tmp_path / "model", T5))
    for constrained in (True, False):
        found = evaluate_entities(
            source, [SET], EvaluationSettings(constrained=constrained, limit=1)
        )
        assert found.sets[0].sentences == 1


def test_a_prompt_that_does_not_fit_is_refused_before_the_model_is_loaded(
    model: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelDirectory, "load", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(UserError, match="a prompt with 2 types and one word does not fit"):
        evaluate_entities(model, [SET], EvaluationSettings(row_length=50))
