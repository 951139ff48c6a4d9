"""A plan says what each size does to a corpus; the numbers are those of the text."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.corpus.named_files import NamedFile, named_files
from regrow.corpus.parallel import Workers
from regrow.report.vocabulary_page import render_vocabulary
from regrow.tokenizers.encoding import count_tokens, open_tokenizer
from regrow.tokenizers.tokenizer_files import plan_tokenizer
from regrow.vocabulary import text_samples, token_counting
from regrow.vocabulary.plan_file import load_plan, save_plan
from regrow.vocabulary.plan_tables import language_rows, percent, size_rows, suggestion
from regrow.vocabulary.sizing import VocabularyPlan, plan_vocabulary, vocabulary_curve
from regrow.vocabulary.token_counting import plan_counts, write_counts
from regrow.vocabulary.vocabulary_spec import VocabularySpec
from tests.tiny import sentences, write_model, write_text

ENGLISH = sentences(120)
OTHER = [text.upper() for text in sentences(12, seed=5)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("planning") / "model")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[NamedFile]:
    place = tmp_path_factory.mktemp("text")
    en, up = write_text(place / "en.jsonl", ENGLISH), write_text(place / "up.jsonl", OTHER)
    return named_files([str(en), str(up)], "corpus")


@pytest.fixture(scope="module")
def counts(model: Path, files: list[NamedFile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return count(model, files, tmp_path_factory.mktemp("counts") / "counts")


def count(model: Path, files: list[NamedFile], out: Path) -> Path:
    job, _ = plan_counts(model, out, files, [])
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as executor:
        patch.setattr(
            token_counting, "_worker", (token_counting.make_counter(model), job.ids), raising=False
        )
        write_counts(job, out, files, Workers(executor, ahead=1))
    return out


@pytest.fixture(scope="module")
def plan(model: Path, counts: Path) -> VocabularyPlan:
    return plan_vocabulary(
        ModelDirectory(model), counts, VocabularySpec(coverage=0.97, counts=counts)
    )


def test_numbers_are_those_of_the_text(model: Path, plan: VocabularyPlan) -> None:
    en, up = count_tokens(model, ENGLISH), count_tokens(model, OTHER)
    assert plan.tokens == (en + up).sum()
    assert plan.characters == len("".join(ENGLISH + OTHER))
    assert plan.shares == {"en": en.sum() / plan.tokens, "up": up.sum() / plan.tokens}
    row = plan.at(plan.chosen)
    kept = plan.choice.kept
    assert row.coverage == pytest.approx((en + up)[kept].sum() / plan.tokens)
    assert row.coverage >= 0.97
    assert row.languages["up"] == pytest.approx(up[kept].sum() / up.sum())
    contents = plan_tokenizer(model, plan.choice)["tokenizer.json"].decode()
    pruned = Tokenizer.from_str(contents)
    for name, texts in (("en", ENGLISH), ("up", OTHER)):
        tokens = sum(len(pruned.encode(text).ids) for text in texts)
        assert row.per_character[name] == pytest.approx(tokens / len("".join(texts)))
        whole = sum(len(open_tokenizer(model).encode(text).ids) for text in texts)
        assert plan.longer(plan.chosen, name) == pytest.approx(tokens / whole)
        assert row.unknown[name] == 0
    # 32 channels in the embedding, which is the head too.
    assert plan.sizes[0].parameters - row.parameters == 32 * (320 - plan.chosen)


def test_a_sample_tells_how_much_longer_and_the_counts_how_long(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the beginning of a file, which is the sample, is another kind of text."""
    texts = ENGLISH[:4] + OTHER * 4
    files = named_files([str(write_text(tmp_path / "mix.jsonl", texts))], "corpus")
    counts = count(model, files, tmp_path / "counts")
    monkeypatch.setattr(text_samples, "_CHARACTERS", len("".join(ENGLISH[:4])))
    spec = VocabularySpec(size=290, counts=counts)
    plan = plan_vocabulary(ModelDirectory(model), counts, spec)
    whole = count_tokens(model, texts).sum() / len("".join(texts))
    begins = count_tokens(model, ENGLISH[:4]).sum() / len("".join(ENGLISH[:4]))
    assert whole > 1.2 * begins
    (name,) = plan.sampled
    assert plan.sizes[0].per_character[name] == pytest.approx(whole)
    asked = plan_vocabulary(ModelDirectory(model), counts, spec, files)
    assert asked.sizes[0].per_character[name] == pytest.approx(begins)
    for row, other in zip(plan.sizes, asked.sizes, strict=True):
        longer = other.per_character[name] / begins
        assert row.per_character[name] == pytest.approx(whole * longer)
        assert plan.longer(row.size) == pytest.approx(longer)
    assert plan.longer(290) != 1


def test_the_suggestion_covers_each_language(plan: VocabularyPlan) -> None:
    row = plan.at(plan.suggested)
    assert plan.suggested == 320  # 384 are more than there are
    assert min(row.languages.values()) >= 0.999
    assert [row.size for row in plan.sizes] == sorted({r.size for r in plan.sizes}, reverse=True)
    assert plan.sizes[0].size == 320
    for points in plan.curve.values():
        assert all(np.diff([share for _, share in points]) <= 1e-12)


def test_a_plan_is_a_file(plan: VocabularyPlan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save_plan(plan, path)
    read = load_plan(path)
    np.testing.assert_array_equal(read.choice.kept, plan.choice.kept)
    assert read.choice.reasons == plan.choice.reasons
    assert read.tokenizer_sha256 == plan.tokenizer_sha256
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["tokens"][0] == [0, "<pad>", 0, "special"]
    for spoiled in (
        {**written, "format": 2}, {**written, "tokens": []}, {**written, "tokens": [[0]]},
        {**written, "tokens": written["tokens"][::-1]}, {"tokens": written["tokens"]},
        {**written, "tokens": [[True, "", 0, "count"]]},
        {**written, "tokens": [[0, "", 0, "whim"]]},
        {**written, "tokens": [[10**30, "", 0, "byte"]]},
    ):  # fmt: skip
        path.write_text(json.dumps(spoiled))
        with pytest.raises(UserError, match="not a planned vocabulary"):
            load_plan(path)
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    with pytest.raises(UserError, match=r"not JSON.*; name a plan that regrow vocab plan wrote$"):
        load_plan(path)


def test_tables_and_page(plan: VocabularyPlan) -> None:
    rows = size_rows(plan)
    assert all(len(row) == len(rows[0]) for row in rows)
    assert [row[1] for row in rows[1:3]] == ["now", ""]
    assert {row[0] for row in language_rows(plan)[1:]} == {"en", "up"}
    assert suggestion(plan) == (
        "suggested: all 320 tokens, since no smaller multiple of 128 covers 99.9% of each "
        "language; 259 is the least"
    )
    smaller = replace(plan, suggested=plan.chosen)
    assert suggestion(smaller).startswith(
        f"suggested: {plan.chosen:,} tokens, which cover 97.2% of the text, and 96.6% of a "
    )
    short = replace(plan.at(plan.chosen), coverage=0.861, languages={"en": 0.871, "up": 0.85})
    sizes = [short if row.size == plan.chosen else row for row in plan.sizes]
    assert "tokens, which cover 86.1% of the text, and 85.0% of a language or more, " in suggestion(
        replace(smaller, sizes=tuple(sizes))
    )
    page = render_vocabulary(plan)
    assert f"{plan.chosen:,}" in page
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_names_are_escaped(model: Path, counts: Path, plan: VocabularyPlan) -> None:
    name = "<script>x"
    strange = replace(
        plan,
        shares={name: 1.0, "en": 0.1},
        curve={"all": plan.curve["all"], name: plan.curve["up"], "en": plan.curve["en"]},
        sizes=tuple(
            replace(row, languages={name: 1.0, "en": 1.0}, per_character={}, unknown={})
            for row in plan.sizes
        ),
        sampled={},
    )
    page = render_vocabulary(strange)
    assert "<script>" not in page
    assert "&lt;script&gt;x" in page


def test_a_text_that_was_not_counted_is_named(model: Path, counts: Path, tmp_path: Path) -> None:
    held, empty = write_text(tmp_path / "held.jsonl", ENGLISH), tmp_path / "up.txt"
    empty.write_text("")
    spec = VocabularySpec(counts=counts)
    for source, path, message in (
        (
            "held",
            held,
            r"text: .*held.jsonl: its source is called held, .*en, up; name it: en=.*held.jsonl$",
        ),
        ("up", empty, r"text: .*up.txt: no text of en, up"),
    ):
        with pytest.raises(UserError, match=message):
            plan_vocabulary(ModelDirectory(model), counts, spec, texts=[NamedFile(source, path)])


def test_text_of_a_language_that_does_not_decide_is_left_out(
    model: Path, counts: Path, files: list[NamedFile]
) -> None:
    spec = VocabularySpec(counts=counts, only=("en",))
    plan = plan_vocabulary(ModelDirectory(model), counts, spec, texts=files)
    assert plan.sampled.keys() == {"en"}


def test_text_that_is_gone_is_not_measured(
    model: Path, counts: Path, files: list[NamedFile], tmp_path: Path
) -> None:
    plan = plan_vocabulary(ModelDirectory(model), counts, VocabularySpec(counts=counts), texts=[])
    assert plan.sampled == {}
    assert plan.longer(plan.chosen) is None
    assert render_vocabulary(plan).count("<svg") == 1
    other = write_text(tmp_path / "new.jsonl", ["THE RIVER"])
    named = [NamedFile("up", other)]
    measured = plan_vocabulary(
        ModelDirectory(model), counts, VocabularySpec(counts=counts), texts=named
    )
    assert measured.sampled == {"up": 9}


@pytest.mark.parametrize(
    ("share", "text"),
    [(1, "100%"), (0, "0%"), (0.999, "99.90%"), (0.9, "90.0%"), (0.00012, "0.012%"),
     (0.99999, "99.9990%"), (0.5, "50.0%")],
)  # fmt: skip
def test_shares_in_words(share: float, text: str) -> None:
    assert percent(share) == text


def test_what_does_not_belong_together_is_refused(
    model: Path, counts: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", vocab_size=300)
    with pytest.raises(UserError, match="tokenizer and embedding do not match"):
        plan_vocabulary(ModelDirectory(other), counts, VocabularySpec(counts=counts))
    with pytest.raises(UserError, match=r"the least is 259, since these must stay: .*256 byte"):
        plan_vocabulary(ModelDirectory(model), counts, VocabularySpec(size=100, counts=counts))
    contents = json.loads((other / "tokenizer.json").read_text())
    contents["model"]["vocab"] = {
        token.replace("Ġ", "ġ") if len(token) > 3 else token: i
        for token, i in contents["model"]["vocab"].items()
    }
    (other / "tokenizer.json").write_text(json.dumps({**contents, "model": contents["model"]}))
    with pytest.raises(UserError):
        plan_vocabulary(ModelDirectory(other), counts, VocabularySpec(counts=counts))


def test_the_curve_of_a_text_is_that_of_a_plan(model: Path, plan: VocabularyPlan) -> None:
    curve = vocabulary_curve(ModelDirectory(model), [*ENGLISH, *OTHER])
    assert curve.tokens == plan.tokens
    assert curve.size == 320
    assert curve.used == int((plan.token_counts > 0).sum())
    assert curve.not_covered == plan.curve["all"]
    assert curve.not_covered[-1][1] == pytest.approx(0)
    with pytest.raises(UserError, match="the text has no token"):
        vocabulary_curve(ModelDirectory(model), [""])
