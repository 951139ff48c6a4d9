"""Runs whose training text the original writes itself."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import regrow
from regrow.architectures.t5 import T5
from regrow.cli.corpus import write
from regrow.common.errors import UserError
from regrow.common.progress import Progress, Update
from regrow.common.publishing import unfinished_place
from regrow.corpus.sources import Source
from regrow.corpus.text import document_hash, read_documents
from regrow.cuts.cut import Cut
from regrow.pipeline import recipe as recipes
from regrow.pipeline.ledger import differences
from regrow.pipeline.steps import WRITE, WRITTEN_FILE, written_inputs
from regrow.writing import text_writer
from tests.pipeline.runs import (
    Recipe,
    StoppedError,
    assert_same_result,
    entries,
    go,
    recover,
    weights,
)
from tests.tiny import sentences, write_model, write_seq2seq, write_text

STAGES = [
    {"name": "a", "cut": {"layers": 3, "calibration_tokens": 64}, "recover": recover(128)},
    {"name": "b", "cut": {"vocab_size": 300}, "recover": recover(128)},
]


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_writer, "_MOST_ROWS", 4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("written")
    write_model(home / "m", max_position_embeddings=64)
    write_seq2seq(home / "t5", T5)
    write_text(home / "train.jsonl", sentences(30))
    write_text(home / "heldout.jsonl", sentences(4, seed=2))
    return home


def recipe(home: Path, train: Any, model: str = "m", seed: int = 3) -> Recipe:
    return {
        "name": "tiny", "model": str(home / model), "seed": seed, "threads": 1,
        "data": {"train": train, "heldout": {"domain": str(home / "heldout.jsonl")}},
        "stages": STAGES,
    }  # fmt: skip


WRITTEN = {"model": "original", "tokens": 600}


def stopping(at: int) -> Progress:
    """Stops a run at this report of the writing."""

    def watch(update: Update) -> None:
        nonlocal at
        at -= update.doing.startswith("writing text,")
        if at < 0:
            raise StoppedError

    return Progress(update=watch)


def test_a_run_writes_once_and_may_be_stopped_anywhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.pipeline.run_inputs._WRITING_SECONDS", 0.0)
    other = {"path": str(home / "train.jsonl"), "weight": 3}
    mixed = recipe(home, [WRITTEN | {"weight": 1}, other]) | {"stages": STAGES[:1]}
    updates: list[Update] = []
    go(mixed, tmp_path / "whole", progress=Progress(update=updates.append))
    done = entries(tmp_path / "whole")
    assert list(done)[:4] == ["original", "recipe", WRITE, "texts"]
    text = tmp_path / "whole" / WRITTEN_FILE
    assert done[WRITE].outputs["tokens"] >= 600
    assert done["texts"].outputs["texts"][0]["documents"] == 30 + done[WRITE].outputs["documents"]
    doings = [update.doing for update in updates if update.doing.startswith("writing text")]
    assert any(doing.endswith(" of 600 tokens") for doing in doings)
    assert doings[-1] == "writing text, the last texts"

    for steps in (0, 60):
        with pytest.raises(StoppedError):
            go(mixed, tmp_path / "stopped", progress=stopping(steps))
        assert not (tmp_path / "stopped" / WRITTEN_FILE).exists()
    go(mixed, tmp_path / "stopped")
    assert (tmp_path / "stopped" / WRITTEN_FILE).read_bytes() == text.read_bytes()
    assert_same_result(tmp_path / "stopped", tmp_path / "whole")

    # Killed between the rename of the file and the entry of the ledger.
    ledger = tmp_path / "stopped/ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:2]))
    go(mixed, tmp_path / "stopped")
    assert_same_result(tmp_path / "stopped", tmp_path / "whole")


def test_a_text_that_was_begun_otherwise_is_written_anew_if_asked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.pipeline.run_inputs._WRITING_SECONDS", 0.0)
    out, one = tmp_path / "out", {"stages": STAGES[:1]}
    left = unfinished_place(out / WRITTEN_FILE)

    def stop(update: Update) -> None:
        if (left / "rounds.jsonl").exists():
            raise StoppedError

    with pytest.raises(StoppedError):  # before there is anything to go on from
        go(recipe(home, WRITTEN | {"temperature": 2.0}) | one, out, progress=stopping(0))
    with pytest.raises(StoppedError):
        go(recipe(home, WRITTEN) | one, out, progress=Progress(update=stop))
    other = recipe(home, WRITTEN | {"temperature": 0.5}) | one
    with pytest.raises(UserError, match=r"begun with other temperature; set `redo`"):
        go(other, out)
    with pytest.raises(StoppedError):  # with the settings of before it goes on
        go(recipe(home, WRITTEN) | one, out, redo=True, progress=Progress(update=stop))
    assert left.exists()
    said: list[str] = []
    go(other, out, redo=True, progress=Progress(say=said.append))
    assert "writing the text of original anew, since its temperature changed" in said
    assert not left.exists()
    assert json.loads((out / "written.json").read_text())["temperature"] == 0.5


def test_scores_and_rows_are_those_of_the_same_text_from_a_file(home: Path, tmp_path: Path) -> None:
    one = {"stages": STAGES[:1]}
    go(recipe(home, WRITTEN) | one, tmp_path / "written")
    go(recipe(home, str(tmp_path / "written" / WRITTEN_FILE)) | one, tmp_path / "file")
    assert weights(tmp_path / "written") == weights(tmp_path / "file") != {}


def test_a_vocabulary_is_chosen_by_the_text_of_a_path(home: Path, tmp_path: Path) -> None:
    cut = {"stages": [{"name": "a", "cut": {"vocab_size": 280}}]}
    given, own = home / "train.jsonl", WRITTEN | {"tokens": 2_100}
    go(recipe(home, [{"path": str(given)}, own]) | cut, tmp_path / "run")
    go(recipe(home, own) | cut, tmp_path / "alone")
    written = tmp_path / "run" / WRITTEN_FILE
    assert written.read_bytes() == (tmp_path / "alone" / WRITTEN_FILE).read_bytes()
    texts = {"given": [*read_documents(given)], "own": [*read_documents(written)]}
    texts["both"] = texts["given"] + texts["own"]
    texts["half"] = [text for text in texts["own"] if document_hash(text)[0] % 2 == 0]
    kept = {}
    for name, documents in texts.items():
        text = write_text(tmp_path / f"{name}.jsonl", documents)
        cut_alone = regrow.prune(home / "m", tmp_path / name, vocab_size=280, calibration=text)
        kept[name] = cut_alone.cut.axes["vocab"].keep.tolist()

    def of_run(name: str) -> list[int]:
        outputs = entries(tmp_path / name)["a/carve"].outputs
        found: list[int] = Cut.from_json(outputs["cut"], name).axes["vocab"].keep.tolist()
        return found

    assert of_run("run") == kept["given"] != kept["both"]
    assert of_run("alone") == kept["half"] != kept["own"]


def test_a_carved_model_that_is_gone_is_made_again_from_the_counted_text(
    home: Path, tmp_path: Path
) -> None:
    mixed = recipe(home, [{"path": str(home / "train.jsonl")}, WRITTEN | {"tokens": 2_100}])

    def of(tokens: int) -> Recipe:
        cut = {"vocab_size": 280}
        return mixed | {"stages": [{"name": "b", "cut": cut, "recover": recover(tokens)}]}

    go(of(128), tmp_path / "run")
    assert not (tmp_path / "run/stages/b/carved").exists()
    go(of(192), tmp_path / "run", redo=True)
    go(of(192), tmp_path / "new")
    assert_same_result(tmp_path / "run", tmp_path / "new")


@pytest.mark.parametrize(
    ("given", "own", "said"),
    [
        (0, 600, "600 tokens are too few to choose a vocabulary, since half .* at least 2,048"),
        (
            10,
            600,
            "[0-9]+ tokens are too few .*, and what the original writes is not counted",
        ),
        (10, 0, "[0-9]+ tokens are too few to choose a vocabulary; give at least 512, or counts"),
    ],
)
def test_too_little_text_to_choose_a_vocabulary_is_refused_before_any_is_written(
    home: Path, tmp_path: Path, given: int, own: int, said: str
) -> None:
    text = {"path": str(write_text(tmp_path / "few.jsonl", sentences(max(given, 1))))}
    train = [*([text] if given else []), *([WRITTEN | {"tokens": own}] if own else [])]
    with pytest.raises(UserError, match=said) as raised:
        go(recipe(home, train), tmp_path / "run")
    assert raised.value.key == "data.train"
    assert not (tmp_path / "run" / WRITTEN_FILE).exists()


def test_written_text_that_changes_is_told(home: Path, tmp_path: Path) -> None:
    one = {"stages": STAGES[:1]}
    go(recipe(home, WRITTEN) | one, tmp_path / "written")
    said: list[str] = []
    go(recipe(home, WRITTEN) | one, tmp_path / "written", progress=Progress(say=said.append))
    assert [line.partition(":")[0] for line in said] == ["finished already"]
    before = (tmp_path / "written" / WRITTEN_FILE).read_bytes()
    more = recipe(home, WRITTEN | {"tokens": 640}) | one
    with pytest.raises(UserError, match=r"data.train.original.tokens: 600 -> 640"):
        go(more, tmp_path / "written")
    go(more, tmp_path / "written", redo=True)
    after = (tmp_path / "written" / WRITTEN_FILE).read_bytes()
    assert before != after
    assert json.loads((tmp_path / "written/written.json").read_text())["tokens"] == 640

    (tmp_path / "written" / WRITTEN_FILE).write_bytes(before)
    with pytest.raises(UserError, match=r"written.jsonl: gone or changed"):
        go(more, tmp_path / "written")


REFUSED = {
    "no tokens": ({"model": "original"}, "tokens: missing; say how many"),
    "another model": ({"model": "gpt2", "tokens": 9}, "model: .*original"),
    "two texts": ({**WRITTEN, "path": "train.jsonl"}, "path and model both give the text"),
    "twice": ([WRITTEN, WRITTEN | {"name": "again"}], "two sources are written by the original"),
    "a share by tokens": (
        [WRITTEN, {"path": "train.jsonl", "tokens": 300}],
        "the tokens of a model are what it writes, not its share",
    ),
    "a share of one": (
        [WRITTEN, {"path": "train.jsonl", "weight": 1}], "give all sources a weight"
    ),
    "prompts for a file": (
        {"path": "train.jsonl", "prompts": "train.jsonl"}, "prompts: says how a model writes"
    ),
    "a temperature of a file": (
        {"path": "train.jsonl", "temperature": 1.0}, "temperature: says how a model writes"
    ),
    "languages of a file": (
        {"path": "train.jsonl", "languages": ["en"]}, "languages: says how a model writes"
    ),
    "an unknown language": (
        {**WRITTEN, "languages": ["en", "xx"]}, r"data\.train: original\.languages: xx: no language"
    ),
    "no temperature": ({**WRITTEN, "temperature": 0}, "temperature: more than 0 is wanted"),
    "short": ({**WRITTEN, "tokens": 31}, "31 tokens, less than one row of 32"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_is_refused_before_anything_is_written(
    home: Path, tmp_path: Path, name: str
) -> None:
    train, message = REFUSED[name]
    write_text(tmp_path / "train.jsonl", ["The river."])
    with pytest.raises(UserError, match=message) as caught:
        go(recipe(home, train), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/ledger.jsonl").exists()


def test_models_that_cannot_write_are_refused(home: Path, tmp_path: Path) -> None:
    stages = {"stages": [{"name": "a", "recover": recover(64)}]}
    with pytest.raises(UserError, match=r"data.train: original: .*an encoder-decoder"):
        go(recipe(home, WRITTEN, "t5") | stages, tmp_path / "t5")
    path = tmp_path / "scratch.yaml"
    path.write_text(json.dumps(recipe(home, WRITTEN) | stages))
    with pytest.raises(UserError, match="original: random weights cannot write a text"):
        regrow.train(path, tmp_path / "scratch", from_scratch=True)


INSTRUCTIONS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<bos>[Q] {{ m['content'] }} [A]"
    "{% else %} {{ m['content'] }}<eos>{% endif %}{% endfor %}"
)
"""A template in which no special token follows the words of a user, as that of Llama 2."""


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model that cannot write questions, and a recipe directory with some."""
    home = tmp_path_factory.mktemp("asking")
    write_model(home / "m", max_position_embeddings=64)
    (home / "m/chat_template.jinja").write_text(INSTRUCTIONS)
    # So many that the answers of a random model end.
    ends = {"eos_token_id": [2, *range(100, 115)]}
    (home / "m/generation_config.json").write_text(json.dumps(ends))
    write_text(home / "heldout.jsonl", sentences(4, seed=2))
    (home / "asked.txt").write_text("The river\n\n The stone \n")
    return home


def asked(home: Path, **more: Any) -> Recipe:
    return recipe(home, {**WRITTEN, "tokens": 300, **more}) | {
        "stages": [{"name": "a", "recover": recover(64)}]
    }


def test_a_model_that_cannot_write_questions_is_given_some(asking: Path) -> None:
    with pytest.raises(UserError) as caught:
        go(asked(asking), asking / "none")
    assert str(caught.value) == (
        f"data.train: original: {asking / 'm'}: the chat template ends the words of a user with no "
        "special token, so the model cannot write questions; give `prompts`, a file of them"
    )
    prompts = {"prompts": "asked.txt"}  # relative to the recipe
    go(asked(asking, **prompts), asking / "out")
    documents = [*read_documents(asking / "out" / WRITTEN_FILE)]
    assert {text[:17] for text in documents} == {"<bos>[Q] The rive", "<bos>[Q] The ston"}
    before = entries(asking / "out")[WRITE]
    assert before.inputs["train"]["original"].keys() == {"tokens", "prompts"}

    with pytest.raises(UserError, match=r"data\.train\.original\.temperature: nothing -> 0\.5;"):
        go(asked(asking, **prompts, temperature=0.5), asking / "out")
    go(asked(asking, **prompts, temperature=0.5), asking / "out", redo=True)
    assert entries(asking / "out")[WRITE].outputs["sha256"] != before.outputs["sha256"]
    (asking / "asked.txt").write_text("The bird\n")
    with pytest.raises(UserError, match=r"data\.train\.original\.prompts: changed"):
        go(asked(asking, **prompts, temperature=0.5), asking / "out")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.txt", None, r"none\.txt: no such file"),
        ("empty.txt", " \n", r"empty\.txt: the file holds no text"),
        ("long.txt", "short\n" + "The river " * 80, r"prompt 2 has [\d,]+ tokens; give at most 60"),
    ],
)
def test_prompts_are_checked_before_anything_is_written(
    asking: Path, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        go(asked(asking, prompts=str(tmp_path / name)), tmp_path / "out")
    assert str(caught.value).startswith("data.train: original.prompts: ")
    assert not (tmp_path / "out/ledger.jsonl").exists()


def test_a_text_that_is_written_as_before_keeps_its_key() -> None:
    plain = {"tokens": 600}
    found = recipes.Recipe.model_validate(recipe(Path("/"), {**WRITTEN, "temperature": 1.0}))
    assert written_inputs(found) == {"train": {"original": plain}, "seed": 3}


def test_a_source_is_written_as_a_command_writes_by_default() -> None:
    source = Source(name="own", model="original", tokens=9)
    settings = text_writer.WritingSettings(9)
    default = signature(write).parameters["temperature"].default
    assert source.temperature == settings.temperature == default


def test_languages_decide_the_text_in_any_order() -> None:
    for languages in (["en", "zh"], ["zh", "en", "zh"]):
        found = recipes.Recipe.model_validate(
            recipe(Path("/"), {**WRITTEN, "languages": languages})
        )
        facts = written_inputs(found)["train"]["original"]
        assert facts == {"tokens": 600, "languages": ["en", "zh"]}
    plain = {"tokens": 600}
    assert differences({"original": plain}, {"original": facts}) == [
        'original.languages: nothing -> ["en", "zh"]'
    ]


def test_the_keys_of_a_source_reach_the_writer(
    asking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[text_writer.WritingSettings] = []

    def write(_: Any, __: Path, settings: text_writer.WritingSettings, **___: Any) -> None:
        given.append(settings)
        raise StoppedError

    monkeypatch.setattr(text_writer, "write_text", write)
    prompts = asking / "asked.txt"
    keys = {"prompts": str(prompts), "temperature": 0.5, "languages": ["en"]}
    with pytest.raises(StoppedError):
        go(asked(asking, **keys), tmp_path / "out")
    assert given == [
        text_writer.WritingSettings(300, prompts, seed=3, temperature=0.5, languages=("en",))
    ]


def test_a_preview_says_what_is_written_first(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe(home, WRITTEN)))
    assert regrow.preview(path).written == 600
