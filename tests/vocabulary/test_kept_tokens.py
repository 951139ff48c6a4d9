"""A vocabulary as planned or counted: alone, with other cuts, and as a stage of a recipe."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import regrow
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.corpus.named_files import named_files
from regrow.corpus.parallel import Workers
from regrow.cuts.cut import AxisCut, Cut
from regrow.models.loading import load_model, load_tokenizer
from regrow.pipeline.recipe_file import load_recipe
from regrow.pipeline.stage_layouts import layouts_by_stage
from regrow.pipeline.steps import TextHashes, plan_steps
from regrow.surgery.result_files import VOCABULARY_FILE
from regrow.vocabulary import token_counting
from regrow.vocabulary.kept_tokens import check_vocabulary
from regrow.vocabulary.token_counting import plan_counts, write_counts
from regrow.vocabulary.token_counts import TokenCounts
from regrow.vocabulary.vocabulary_spec import VocabularySpec
from tests.tiny import sentences, write_model, write_text

TEXT = sentences(80)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model `m`, `text.jsonl`, its `counts`, and a `plan.json`."""
    home = tmp_path_factory.mktemp("cutting")
    write_model(home / "m")
    write_text(home / "text.jsonl", TEXT)
    files = named_files([str(home / "text.jsonl")], "corpus")
    job, _ = plan_counts(home / "m", home / "counts", files, [])
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as executor:
        patch.setattr(
            token_counting,
            "_worker",
            (token_counting.make_counter(job.model), job.ids),
            raising=False,
        )
        write_counts(job, home / "counts", files, Workers(executor, ahead=1))
    regrow.plan_vocabulary(
        home / "m", home / "counts", coverage=0.98, keep=["Ġ", "b"], out=home / "plan.json"
    )
    return home


def lines_in(path: Path) -> list[list[Any]]:
    """Id, text, count and reason of each token."""
    lines: list[list[Any]] = json.loads(path.read_text(encoding="utf-8"))["tokens"]
    return lines


def planned(home: Path) -> dict[int, str]:
    return {token[0]: token[3] for token in lines_in(home / "plan.json")}


def reasons_in(out: Path) -> dict[int, str]:
    return {token[0]: token[3] for token in lines_in(out / VOCABULARY_FILE)}


def test_a_plan_is_applied_alone_and_with_other_cuts(home: Path, tmp_path: Path) -> None:
    plan = planned(home)
    regrow.prune(home / "m", tmp_path / "alone", vocab={"plan": home / "plan.json"})
    regrow.prune(home / "m", tmp_path / "both", vocab={"plan": home / "plan.json"}, drop_layers="1")
    for out in (tmp_path / "alone", tmp_path / "both"):
        assert lines_in(out / VOCABULARY_FILE) == lines_in(home / "plan.json")
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
    lines = lines_in(home / "plan.json")
    assert lines_in(tmp_path / "out" / VOCABULARY_FILE) == lines
    before = load_tokenizer(home / "m")
    counts = TokenCounts.load(home / "counts").total
    assert [line[:3] for line in lines] == [
        [i, before.convert_ids_to_tokens(i), counts[i]] for i in sorted(planned(home))
    ]
    # From a cut file, which says neither how often nor why.
    regrow.prune(home / "m", tmp_path / "again", cut=tmp_path / "out/regrow_cut.json")
    assert lines_in(tmp_path / "again" / VOCABULARY_FILE) == [
        [*line[:2], None, None] for line in lines
    ]


@pytest.mark.parametrize(
    ("vocab", "said"),
    [
        ({"plan": "other-plan.json"}, "planned for another tokenizer than that of"),
        ({"counts": "other-counts", "size": 300}, "counted with another tokenizer than that of"),
        ({"counts": "counts", "size": 100}, "the least is 259, since these must stay:"),
        ({"counts": "counts"}, "vocab: the number of tokens to keep is missing; give size"),
        ({"coverage": 0.9}, "vocab: coverage goes by counts; give what regrow vocab count"),
        ({"plan": "plan.json", "size": 300}, "vocab: a plan says which tokens remain"),
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


def test_a_plan_that_lacks_what_must_stay_is_refused_before_any_work(
    home: Path, tmp_path: Path
) -> None:
    """It was edited, or is for a model with the same tokenizer and no chat template."""
    model, path = tmp_path / "m", tmp_path / "plan.json"
    shutil.copytree(home / "m", model)
    plan = json.loads((home / "plan.json").read_text(encoding="utf-8"))
    byte = next(line for line in plan["tokens"] if line[3] == "byte")
    plan["tokens"].remove(byte)
    path.write_text(json.dumps({**plan, "size": len(plan["tokens"])}), encoding="utf-8")
    spec = VocabularySpec(plan=path)
    source = ModelDirectory(model)
    with pytest.raises(UserError, match=rf"plan.json: .* \(id {byte[0]}\) is not among .*\(byte\)"):
        check_vocabulary(model, source.layout, spec)
    regrow.plan_vocabulary(home / "m", home / "counts", size=262, out=tmp_path / "small.json")
    small = VocabularySpec(plan=tmp_path / "small.json")
    assert check_vocabulary(model, source.layout, small) == 262
    (model / "chat_template.jinja").write_text("The river {{ messages[0].content }}")
    with pytest.raises(UserError, match=r"small.json: .* must stay \(.*\); plan again for "):
        check_vocabulary(model, source.layout, small)


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
        steps = plan_steps(loaded, {}, TextHashes("", {}), "")
        keys.append(steps["s0/carve"].key)
    assert keys[0] != keys[1]


def test_the_size_of_each_stage_is_known_before(home: Path) -> None:
    def sizes(*cuts: dict[str, Any]) -> list[int]:
        loaded = load_recipe(recipe(home, *cuts, name="sizes.yaml"))
        layouts = layouts_by_stage(loaded.stages, ModelDirectory(home / "m"))
        return [each.after.sizes["vocab"] for each in layouts.values()]

    size = len(planned(home))
    covered = {"counts": "counts", "coverage": 0.98, "keep": ["Ġ", "b"]}
    assert sizes({"vocab": {"plan": "plan.json"}}, {"layers": 3}) == [size, size]
    assert sizes({"layers": 3}, {"vocab": covered}) == [320, size]
    assert sizes({"vocab_size": 310}, {"vocab": {"size": 300}}) == [310, 300]
    with pytest.raises(UserError, match=r"stages: s1: cut\.vocab\.plan: made for the tokenizer of"):
        sizes({"vocab_size": 310}, {"vocab": {"plan": "plan.json"}})
    with pytest.raises(UserError, match=r"stages: s0: vocabulary size 9 is too small"):
        sizes({"vocab": {"size": 9, "characters": False}})
    assert sizes({"vocab": {"plan": f"../{home.name}/plan.json"}}) == [size]
    with pytest.raises(UserError, match=r"vocab.sise: unknown key; did you mean size\?"):
        sizes({"vocab": {"sise": 300}})
    with pytest.raises(UserError, match=r"vocab_size and vocab both say"):
        sizes({"vocab_size": 300, "vocab": {"size": 300}})


def test_ids_in_both_configs_follow(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "m"
    shutil.copytree(home / "m", source)
    for name in ("config.json", "generation_config.json"):
        config = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps({**config, "eos_token_id": [2, 319]}))
    regrow.prune(source, tmp_path / "out", vocab={"counts": home / "counts", "size": 300})
    kept = [line[0] for line in lines_in(tmp_path / "out" / VOCABULARY_FILE)]
    assert reasons_in(tmp_path / "out")[319] == "config"
    assert kept.index(319) == 299
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["eos_token_id"] == [2, 299]


# Padding


def test_padded_rows_are_suppressed_and_all_else_is_as_without(home: Path, tmp_path: Path) -> None:
    size = len(planned(home))
    rows = 16 * -(-size // 16)
    assert rows > size
    for name, more in (("plain", {}), ("padded", {"pad_to": 16})):
        done = regrow.prune(home / "m", tmp_path / name, vocab={"plan": home / "plan.json", **more})
    assert done.cut.sizes["vocab"] == rows == load_model(tmp_path / "padded").config.vocab_size
    assert done.cut.words() == f"vocabulary 320 -> {rows} ({rows - size} of them padding)"
    assert f"ids {size} to {rows - 1} have no token" in done.notes[0]
    assert Cut.load(tmp_path / "padded/regrow_cut.json") == done.cut
    plain, padded = (load_file(tmp_path / n / "model.safetensors") for n in ("plain", "padded"))
    for name, tensor in plain.items():
        assert torch.equal(padded[name][: len(tensor)], tensor)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        same = [(tmp_path / each / name).read_bytes() for each in ("plain", "padded")]
        assert same[0] == same[1]
    told = json.loads((tmp_path / "padded" / VOCABULARY_FILE).read_text(encoding="utf-8"))
    assert (told["size"], told["padding"], len(told["tokens"])) == (size, rows - size, size)
    assert regrow.verify(tmp_path / "padded").ok


def test_no_padded_id_is_generated(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "m"
    shutil.copytree(home / "m", source)
    (source / "generation_config.json").unlink()  # transformers takes the ids of config.json then
    model = load_model(source)
    kept = planned(home)
    last = max(set(range(320)) - kept.keys())
    with torch.no_grad():  # a dropped token that would always win
        model.get_input_embeddings().weight[last] = 30 * model.model.norm.weight.sign()
    model.save_pretrained(source)
    (source / "generation_config.json").unlink()
    regrow.prune(source, tmp_path / "out", vocab={"plan": home / "plan.json", "pad_to": 64})
    found: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert found.generation_config.eos_token_id == 2
    size, rows = len(kept), found.config.vocab_size
    assert found.generation_config.suppress_tokens == list(range(size, rows))
    ids = found.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=8, do_sample=False)
    assert ids.max() < size
    found.generation_config.suppress_tokens = None
    assert (
        found.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=8, do_sample=False).max() >= size
    )


def test_settings_of_generation_in_the_config_are_as_without_padding(
    home: Path, tmp_path: Path
) -> None:
    """Those of generation_config.json would stand above them."""
    source = tmp_path / "m"
    shutil.copytree(home / "m", source)
    (source / "generation_config.json").unlink()
    kept = sorted(planned(home))
    own = {
        "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "forced_eos_token_id": 2,
        "bad_words_ids": [[kept[40]]], "suppress_tokens": [kept[50]],
    }  # fmt: skip
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **own}))
    for name, more in (("plain", {}), ("padded", {"pad_to": 64})):
        regrow.prune(source, tmp_path / name, vocab={"plan": home / "plan.json", **more})
    assert not (tmp_path / "plain/generation_config.json").exists()
    plain, padded = (
        load_model(tmp_path / name).generation_config.to_diff_dict() for name in ("plain", "padded")
    )
    rows = load_model(tmp_path / "padded").config.vocab_size
    assert plain["bad_words_ids"] == [[40]]
    assert padded.pop("suppress_tokens") == [50, *range(len(kept), rows)]
    assert plain.pop("suppress_tokens") == [50]
    ignored = {"_from_model_config", "transformers_version"}
    assert {**padded, **dict.fromkeys(ignored)} == {**plain, **dict.fromkeys(ignored)}


def test_a_padded_vocabulary_is_cut_again(home: Path, tmp_path: Path) -> None:
    text = home / "text.jsonl"
    once, twice, plain, bare = (tmp_path / name for name in ("once", "twice", "plain", "bare"))
    regrow.prune(home / "m", once, vocab={"size": 306, "pad_to": 16}, calibration=text)
    layers = regrow.prune(once, tmp_path / "layers", drop_layers="1")
    assert layers.cut.axes.keys() == {"layer"}
    assert regrow.verify(tmp_path / "layers").ok
    regrow.prune(once, twice, vocab={"size": 290, "pad_to": 64}, calibration=text)
    regrow.prune(once, plain, vocab_size=290, calibration=text)
    regrow.prune(home / "m", bare, vocab_size=306, calibration=text)
    regrow.prune(bare, tmp_path / "never", vocab_size=290, calibration=text)
    generation = [
        json.loads((d / "generation_config.json").read_text()) for d in (once, twice, plain)
    ]
    assert [g.get("suppress_tokens") for g in generation] == [
        list(range(306, 320)), list(range(290, 320)), None,
    ]  # fmt: skip
    for name in ("tokenizer.json", "model.safetensors"):
        assert (plain / name).read_bytes() == (tmp_path / "never" / name).read_bytes()
    rows = [load_file(d / "model.safetensors")["model.embed_tokens.weight"] for d in (plain, twice)]
    assert torch.equal(rows[0], rows[1][:290])
    origin = Cut.load(twice / "regrow_origin.json").axes["vocab"]
    assert origin == AxisCut(320, origin.keep, padded=30)
    first = load_file(home / "m/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(first[torch.from_numpy(origin.keep.copy())], rows[1])
    # The same cut again, from its file.
    regrow.prune(once, tmp_path / "again", cut=twice / "regrow_cut.json")
    for name in ("model.safetensors", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (twice / name).read_bytes()


def test_padding_beyond_the_rows_is_refused(home: Path, tmp_path: Path) -> None:
    for vocab, said in (
        ({"plan": home / "plan.json", "pad_to": 1000}, "1,000 rows, more than the 320 there are"),
        (
            {"counts": home / "counts", "size": 300, "pad_to": 0},
            "vocab.pad_to: more than 0 is wanted",
        ),
    ):
        with pytest.raises(UserError, match=said) as error:
            regrow.prune(home / "m", tmp_path / "out", vocab=vocab)
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir())


def test_a_recipe_pads_and_knows_the_size_before(home: Path, tmp_path: Path) -> None:
    loaded = load_recipe(
        recipe(home, {"vocab": {"plan": "plan.json", "pad_to": 64}}, {"layers": 3}, name="pad.yaml")
    )
    checkpoint = open_checkpoint(home / "m")
    layouts = layouts_by_stage(loaded.stages, ModelDirectory(checkpoint.directory))
    assert [each.after.sizes["vocab"] for each in layouts.values()] == [320, 320]
    result = regrow.run(home / "pad.yaml", tmp_path / "run")
    assert load_model(result.model).config.vocab_size == 320
