"""What one measurement does: cut, refit, and take the loss on text that was held back."""

from pathlib import Path
from typing import Any

import pytest

from regrow.architectures.bart import BART
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import QUIET
from regrow.corpus.reading import Reading
from regrow.evaluation.heldout import text_loss
from regrow.scoring.score_file import compute_scores
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.extend import add_tokens
from regrow.surgery.prune import prune_checkpoint
from regrow.surgery.result_files import VOCABULARY_FILE
from regrow.surgery.search import measure
from regrow.surgery.search.measure import CalibrationDraw, Measurement, open_measurement
from regrow.surgery.search.measured_cuts import MeasuredCuts
from regrow.surgery.search.text import read_search_text
from regrow.tokenizers.encoding import count_tokens
from tests.tiny import add_tokenizer, sentences, write_model, write_text, write_tiny


def measurement(tmp_path: Path, model: Path, added: int = 0, long: int = 6) -> Measurement:
    documents = [" ".join(sentences(long, seed=number)) for number in range(24)]
    text = read_search_text([write_text(tmp_path / "text.jsonl", documents)], 512)
    known = tmp_path / "known"
    known.mkdir()
    return Measurement(
        ModelDirectory(model), added, text, CalibrationDraw(512, 0), MeasuredCuts(known, {}), QUIET
    )


def test_the_loss_is_that_of_the_refitted_cut(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    measured = measurement(tmp_path, model)
    original, cut = measured.losses([{}, {"ffn": 24}])
    held_back = write_text(tmp_path / "held.jsonl", measured.text.held_back)
    spec = CutSpec(ffn=24, calibration_tokens=512)
    out = tmp_path / "out"
    pruned = prune_checkpoint(
        ModelDirectory(model), out, spec, documents=measured.text.documents, seed=0
    )
    assert pruned.refitted
    for directory, found in ((model, original), (out, cut)):
        opened = ModelDirectory(directory)
        loss = text_loss(opened.load(), opened.tokenizer, held_back)
        assert found.bits_per_byte == pytest.approx(loss.bits_per_byte, abs=1e-9)
    # Nothing is left of the cut.
    assert sorted(path.name for path in measured.known.directory.iterdir()) == [
        "held-back.jsonl", "measured.json", "scores.json",
    ]  # fmt: skip


def test_names_of_special_tokens_may_be_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In what is held back too, and what was measured is kept apart."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = ModelDirectory(write_model(tmp_path / "m", num_hidden_layers=1))
    documents = ["<bos>".join(sentences(6, seed=number)) for number in range(24)]
    path = write_text(tmp_path / "text.jsonl", documents)
    found = {}
    for reading in (Reading(), Reading(special_tokens=True)):
        text = read_search_text([path], 512, reading)
        held_back = write_text(tmp_path / "held.jsonl", text.held_back)
        with open_measurement(model, text, CalibrationDraw(512, 0), QUIET) as measured:
            [original] = measured.losses([{}])
            found[measured.known.directory] = original.bits_per_byte
        loss = text_loss(model.load(), model.tokenizer, held_back, reading=reading)
        assert original.bits_per_byte == pytest.approx(loss.bits_per_byte, abs=1e-9)
    assert len(found) == len(set(found.values())) == 2


def test_scores_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measurement(tmp_path, write_model(tmp_path / "m", num_hidden_layers=2))
    calls = []
    plain = compute_scores

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return plain(*args, **options)

    monkeypatch.setattr(measure, "compute_scores", counted)
    monkeypatch.setattr(Measurement, "_bits_per_byte", lambda *_: 1.0)
    measured.losses([{"ffn": 24}, {"kv_head": 1, "head": 2}])
    assert len(calls) == 1


def test_tokens_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the tokens that are kept are those that a cut of this text keeps."""
    model = write_model(tmp_path / "m", num_hidden_layers=2)
    measured = measurement(tmp_path, model)
    calls, kept = [], []
    plain = count_tokens

    def counted(*args: Any) -> Any:
        calls.append(1)
        return plain(*args)

    def noted(_: Measurement, cut: ModelDirectory) -> float:
        kept.append((cut.path / VOCABULARY_FILE).read_bytes())
        return 1.0

    monkeypatch.setattr(measure, "count_tokens", counted)
    monkeypatch.setattr(Measurement, "_bits_per_byte", noted)
    measured.losses([{"vocab": 300}, {"vocab": 290, "ffn": 24}])
    assert len(calls) == 1
    for size, found in zip((300, 290), kept, strict=True):
        out = tmp_path / str(size)
        prune_checkpoint(
            ModelDirectory(model), out, CutSpec(vocab_size=size, calibration_tokens=512),
            documents=measured.text.documents,
        )  # fmt: skip
        assert (out / VOCABULARY_FILE).read_bytes() == found


def test_a_model_that_lacks_sentinels_is_measured_with_them(tmp_path: Path) -> None:
    plain = write_tiny(BART, tmp_path / "plain", vocab_size=320, pad_token_id=0, eos_token_id=2,
                       decoder_start_token_id=2, max_position_embeddings=256)  # fmt: skip
    add_tokenizer(plain)
    source = ModelDirectory(plain)
    add_tokens(source, tmp_path / "m", [f"<extra_id_{number}>" for number in range(20)])
    measured = measurement(tmp_path, tmp_path / "m", added=20)
    [cut] = measured.losses([{"decoder.layer": 3}])
    assert 0 < cut.bits_per_byte < 20
    # The size of a vocabulary is meant without the tokens that were added.
    smaller = measured._cut({"vocab": 300}, tmp_path / "cut")
    assert smaller.layout.sizes["vocab"] == 320


def test_an_encoder_decoder_without_sentinels_is_given_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = write_tiny(BART, tmp_path / "plain", vocab_size=320, pad_token_id=0, eos_token_id=2,
                       decoder_start_token_id=2, max_position_embeddings=256)  # fmt: skip
    add_tokenizer(plain)
    text = measurement(tmp_path, plain).text
    with open_measurement(ModelDirectory(plain), text, CalibrationDraw(512, 0), QUIET) as measured:
        assert measured.added_tokens == 100
        assert measured.model.layout.sizes["vocab"] == 420


def test_an_encoder_decoder_needs_documents_to_continue(tmp_path: Path) -> None:
    plain = write_tiny(BART, tmp_path / "plain", vocab_size=340, pad_token_id=0, eos_token_id=2,
                       decoder_start_token_id=2, max_position_embeddings=256)  # fmt: skip
    add_tokenizer(plain, sentinels=20)
    measured = measurement(tmp_path, plain, long=1)
    with pytest.raises(UserError, match=r"^text: an encoder-decoder is measured on documents of m"):
        measured.losses([{}])


def test_a_speed_is_measured_beside_the_original(tmp_path: Path) -> None:
    measured = measurement(tmp_path, write_model(tmp_path / "m", num_hidden_layers=2))
    [speed] = measured.speeds([{"layer": 1}])
    assert speed.original > 0
    assert speed.cut > 0
    again = MeasuredCuts(measured.known.directory, {})
    assert again.speed({"layer": 1}, speed.machine) == speed
    assert measured.speeds([{"layer": 1}]) == [speed]
