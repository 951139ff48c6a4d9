"""Annotated sentences become prompts and answers, on which a model is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress, Update
from regrow.common.publishing import unfinished_place
from regrow.ner.sentences import Sentence, Span, entity_set
from regrow.ner.train import EntityTraining, train_tagger
from regrow.training.fine_tuning import TuningData
from tests.tiny import write_model

SET = entity_set(
    "set",
    [
        Sentence(("river", "Po"), (Span(0, 2, "water"),)),
        Sentence(("Ann", "met", "Bo"), (Span(0, 1, "person"), Span(2, 3, "person"))),
    ],
)
SETTINGS: dict[str, Any] = {"precision": "fp32", "batch_tokens": 1_024}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    place = tmp_path_factory.mktemp("model") / "model"
    return ModelDirectory(write_model(place, max_position_embeddings=1_024, num_hidden_layers=1))


def _examples(data: TuningData, tokenizer: Any) -> list[tuple[str, str]]:
    train = data.train
    return [
        (tokenizer.decode(train.prompt(n)), tokenizer.decode(train.answer(n)))
        for n in range(len(train))
    ]


def test_the_examples(
    model: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TuningData] = []

    def stop(source: Any, place: Path, settings: Any, data: TuningData, **_: Any) -> None:
        seen.append(data)
        raise UserError("enough")

    monkeypatch.setattr("regrow.ner.train.fine_tune", stop)
    for seed in (0, 1):
        with pytest.raises(UserError, match="enough"):
            train_tagger(model, tmp_path / f"out{seed}", [SET], EntityTraining(epochs=2, seed=seed))
    first, other = (_examples(data, model.tokenizer) for data in seen)
    assert [answer for _, answer in first] == 2 * [
        "river(B-water) Po(I-water)<eos>", "Ann(B-person) met(O) Bo(B-person)<eos>",
    ]  # fmt: skip
    assert all("Sentence: river Po\n" in prompt for prompt, _ in first[::2])
    assert {"Types: water, person." in prompt for prompt, _ in [*first, *other]} == {True, False}


def test_a_model_is_trained_and_written(model: ModelDirectory, tmp_path: Path) -> None:
    updates: list[Update] = []
    result = train_tagger(
        model, tmp_path / "out", [SET], EntityTraining(epochs=3), heldout=[SET],
        settings=SETTINGS, progress=Progress(update=updates.append),
    )  # fmt: skip
    assert result.examples == 6
    assert result.model == tmp_path / "out"
    assert result.heldout is not None
    assert result.heldout > 0
    assert updates[-1].share == 1
    assert not unfinished_place(tmp_path / "out").exists()
    trained = ModelDirectory(result.model)
    assert trained.layout.parameters() == model.layout.parameters()
    assert trained.checkpoint.fingerprint != model.checkpoint.fingerprint
    card = (result.model / "README.md").read_text(encoding="utf-8")
    assert (
        f"Training: named entities of set; 2 sentences, epochs: 3; {result.tokens:,} tokens, "
        f"loss on the answers; settings: row\\_length 1024, batch\\_tokens 1024, precision fp32; "
        f"held out: {result.heldout:.4f} nats per answer token."
    ) in card
    assert "recipe" not in card
    assert "recover" not in card


def test_the_card_names_sets_without_paths_and_types_left_out(
    model: ModelDirectory, tmp_path: Path
) -> None:
    sets = [
        replace(SET, name="own/data").without(["Water", "other"]),
        replace(SET, name="pile").without(["WATER"]),
    ]
    how = EntityTraining(epochs=1, limit=1, seed=7)
    lora = {"lora": {"rank": 2}}
    result = train_tagger(model, tmp_path / "out", sets, how, settings={**SETTINGS, **lora})
    card = (result.model / "README.md").read_text(encoding="utf-8")
    assert (
        "1. Training: named entities of data, pile; 2 sentences, epochs: 1; types left out: water; "
        f"seed 7; {result.tokens:,} tokens, loss on the answers; LoRA of rank 2; settings: "
    ) in card
    assert "own/" not in card
    assert "held out" not in card


def test_a_stopped_training_goes_on_and_refuses_other_data(
    model: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill(update: Update) -> None:
        raise KilledError

    how, settings = EntityTraining(epochs=4), {**SETTINGS, "save_every": 0}
    out = tmp_path / "out"
    with pytest.raises(KilledError):
        train_tagger(model, out, [SET], how, settings=settings, progress=Progress(update=kill))
    assert not out.exists()
    with pytest.raises(UserError, match="left by a run that was stopped, with other data"):
        train_tagger(model, out, [SET], EntityTraining(epochs=3), settings=settings)
    result = train_tagger(model, out, [SET], how, settings=settings)
    whole = train_tagger(model, tmp_path / "whole", [SET], how, settings=settings)
    assert result.curve == whole.curve


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "causal"}, "settings.objective: has no meaning"),
        ({"row_length": 2_000}, "settings.row_length 2000: the model has 1024 positions"),
        ({"row_length": 40}, "a prompt with 2 types and one word does not fit"),
        ({"learning_rat": 1}, "settings.learning_rat: unknown"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    model: ModelDirectory, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        train_tagger(model, tmp_path / "out", [SET], EntityTraining(), settings=settings)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_holds_something_is_refused(model: ModelDirectory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="already holds something"):
        train_tagger(model, tmp_path, [SET], EntityTraining())
