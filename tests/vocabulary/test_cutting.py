"""A vocabulary as planned or counted: alone, with other cuts, and as a stage of a recipe."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import regrow
from regrow.checkpoint.reader import open_checkpoint
from regrow.corpus.sources import named_files
from regrow.errors import UserError
from regrow.loading import load_model, load_tokenizer
from regrow.prechecks import layouts_by_stage
from regrow.pruning import VOCABULARY_FILE, bind_checkpoint
from regrow.recipe import load_recipe
from regrow.steps import plan_steps
from regrow.vocabulary import counting
from regrow.vocabulary.counting import plan_count, write_counts
from regrow.vocabulary.counts import TokenCounts
from tests.tiny import sentences, write_model, write_text

TEXT = sentences(80)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model `m`, `text.jsonl`, its `counts`, and a `plan.json`."""
    home = tmp_path_factory.mktemp("cutting")
    write_model(home / "m")
    write_text(home / "text.jsonl", TEXT)
    files = named_files([str(home / "text.jsonl")], "--corpus")
    job, _ = plan_count(home / "m", home / "counts", files, [])
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as executor:
        patch.setattr(counting, "_worker", (counting.counter(job.model), job.ids), raising=False)
        write_counts(job, home / "counts", files, executor, ahead=1)
    regrow.plan_vocabulary(
        home / "m", home / "counts", coverage=0.98, keep=["Ġ", "b"], out=home / "plan.json"
    )
    return home


def planned(home: Path) -> dict[int, str]:
    tokens = json.loads((home / "plan.json").read_text(encoding="utf-8"))["tokens"]
    return {token[0]: token[3] for token in tokens}


def reasons_in(out: Path) -> dict[int, str]:
    kept = json.loads((out / VOCABULARY_FILE).read_text())["kept"]
    return {int(token): reason for token, reason in kept.items()}


def test_a_plan_is_applied_alone_and_with_other_cuts(home: Path, tmp_path: Path) -> None:
    plan = planned(home)
    regrow.prune(home / "m", tmp_path / "alone", vocab={"plan": home / "plan.json"})
    regrow.prune(home / "m", tmp_path / "both", vocab={"plan": home / "plan.json"}, drop_layers="1")
    for out in (tmp_path / "alone", tmp_path / "both"):
        assert reasons_in(out) == plan
    model, old = load_model(tmp_path / "alone"), load_model(home / "m")
    tokenizer, before = load_tokenizer(tmp_path / "alone"), load_tokenizer(home / "m")
    kept = sorted(plan)
    assert torch.equal(model.get_input_embeddings().weight, old.get_input_embeddings().weight[kept])
    known = 0
    for text in TEXT:
        ids = before(text)["input_ids"]
        if set(ids) <= plan.keys():
            known += 1
            new = tokenizer(text)["input_ids"]
            assert [kept[token] for token in new] == ids
            with torch.no_grad():
                logits = old(torch.tensor([ids])).logits[..., kept]
                torch.testing.assert_close(
                    model(torch.tensor([new])).logits, logits, atol=1e-5, rtol=0
                )
    assert known > 5
    assert load_model(tmp_path / "both").config.num_hidden_layers == 3


def test_counts_choose_as_a_plan_does(home: Path, tmp_path: Path) -> None:
    vocab = {"counts": home / "counts", "coverage": 0.98, "keep": ["Ġ", "b"]}
    regrow.prune(home / "m", tmp_path / "out", vocab=vocab)
    assert reasons_in(tmp_path / "out") == planned(home)


@pytest.mark.parametrize(
    ("vocab", "said"),
    [
        ({"plan": "other-plan.json"}, "planned for another tokenizer than that of"),
        ({"counts": "other-counts", "size": 300}, "counted with another tokenizer than that of"),
        ({"counts": "counts", "size": 100}, "the least is 259, since these must stay:"),
        ({"counts": "counts"}, "--vocab: how many tokens remain is not said; give size"),
        ({"coverage": 0.9}, "--vocab: coverage goes by counts; give what regrow vocab count"),
        ({"plan": "plan.json", "size": 300}, "--vocab: a plan says which tokens remain"),
        ({"counts": "counts", "size": 300, "keep": "none.txt"}, "none.txt: no such file"),
        ({"counts": "counts", "size": 300, "drop": ["<eos>"]}, "'<eos>' must stay (special)"),
        ({"size": 300}, "token counts need a text"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    home: Path, tmp_path: Path, vocab: dict[str, Any], said: str
) -> None:
    given = {key: home / value if isinstance(value, str) else value for key, value in vocab.items()}
    counts = TokenCounts.load(home / "counts")
    other = TokenCounts("0" * 64, counts.groups, counts.counts, counts.files)
    other.save(home / "other-counts")
    text = (home / "plan.json").read_text(encoding="utf-8")
    wrong = re.sub('"tokenizer_sha256": "..', '"tokenizer_sha256": "zz', text)
    (home / "other-plan.json").write_text(wrong, encoding="utf-8")
    with pytest.raises(UserError) as error:
        regrow.prune(home / "m", tmp_path / "out", vocab=given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_does_not_match_the_embedding(home: Path, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", vocab_size=310)
    with pytest.raises(UserError, match="do not match: the tokenizer has ids up to 319, the emb"):
        regrow.prune(directory, tmp_path / "out", vocab={"plan": home / "plan.json"})
    assert not (tmp_path / "out").exists()


# Recipes


def recipe(home: Path, *cuts: dict[str, Any], name: str = "recipe.yaml") -> Path:
    stages = [{"name": f"s{number}", "cut": cut} for number, cut in enumerate(cuts)]
    written = {
        "name": "tiny", "model": "m", "threads": 1, "stages": stages,
        "data": {"train": "text.jsonl", "heldout": {"same": "text.jsonl"}},
    }  # fmt: skip
    path = home / name
    path.write_text(yaml.safe_dump(written))
    return path


def test_a_recipe_cuts_as_planned_and_again_the_same(home: Path, tmp_path: Path) -> None:
    path = recipe(home, {"drop_layers": "1", "vocab": {"plan": "plan.json"}})
    result = regrow.run(path, tmp_path / "run")
    assert reasons_in(result.model) == planned(home)
    assert load_model(result.model).config.num_hidden_layers == 3
    # Another plan is another recipe.
    other = home / "plan2.json"
    regrow.plan_vocabulary(home / "m", home / "counts", coverage=0.95, out=other)
    keys = []
    for name in ("plan.json", "plan2.json"):
        loaded = load_recipe(recipe(home, {"vocab": {"plan": name}}, name="other.yaml"))
        steps = plan_steps(loaded, {}, "", {}, "")
        keys.append(steps["s0/carve"].key)
    assert keys[0] != keys[1]


def test_the_size_of_each_stage_is_known_before(home: Path) -> None:
    checkpoint = open_checkpoint(home / "m")
    layout = bind_checkpoint(checkpoint)

    def sizes(*cuts: dict[str, Any]) -> list[int]:
        loaded = load_recipe(recipe(home, *cuts, name="sizes.yaml"))
        layouts = layouts_by_stage(loaded, checkpoint, layout)
        return [each.sizes["vocab"] for each in layouts.values()]

    size = len(planned(home))
    covered = {"counts": "counts", "coverage": 0.98, "keep": ["Ġ", "b"]}
    assert sizes({"vocab": {"plan": "plan.json"}}, {"layers": 3}) == [size, size]
    assert sizes({"layers": 3}, {"vocab": covered}) == [320, size]
    assert sizes({"vocab_size": 310}, {"vocab": {"size": 300}}) == [310, 300]
    with pytest.raises(UserError, match=r"stages: s1: cut\.vocab\.plan: made for the tokenizer of"):
        sizes({"vocab_size": 310}, {"vocab": {"plan": "plan.json"}})
    with pytest.raises(UserError, match=r"stages: s0: vocabulary size 9 is too small"):
        sizes({"vocab": {"size": 9, "characters": False}})
    with pytest.raises(UserError, match=r"vocab: .*leaves the directory of the recipe"):
        sizes({"vocab": {"plan": "../plan.json"}})
    with pytest.raises(UserError, match=r"vocab.sise: unknown key; did you mean size\?"):
        sizes({"vocab": {"sise": 300}})
    with pytest.raises(UserError, match=r"vocab_size and vocab both say"):
        sizes({"vocab_size": 300, "vocab": {"size": 300}})
