"""A recipe says what is wrong with it: file, line, key, and what would be right."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.pipeline.recipe import Stage
from regrow.pipeline.recipe_file import load_recipe, parse_recipe
from regrow.surgery.cut_spec import CutSpec
from regrow.training.settings import RecoverySettings
from tests.tiny import SCORE_NAMES

HERE = Path("recipes/r.yaml")
GOOD = """\
name: small
model: /models/tiny
seed: 7
data:
  train: train.jsonl
  heldout:
    domain: heldout.jsonl
prompts: [What is a river]
stages:
  - name: depth
    cut: {layers: 22}
    recover:
      tokens: 70_000
      learning_rate: 1e-4
  - name: width
    cut:
      ffn: 960
      by: activation
"""


def refusal(text: str) -> str:
    with pytest.raises(UserError) as error:
        parse_recipe(text, HERE)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{HERE}")
    return message.removeprefix(f"{HERE}:")


def test_a_recipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD, encoding="utf-8")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.seed, recipe.prompts) == ("small", 7, ["What is a river"])
    assert recipe.data.train_paths == [tmp_path / "train.jsonl"]
    assert recipe.data.heldout == {"domain": tmp_path / "heldout.jsonl"}
    depth, width = recipe.stages
    assert depth.cut is not None
    assert depth.cut.options == {"layers": 22}
    assert depth.recover is not None
    assert (depth.recover.tokens, depth.recover.learning_rate) == (70_000, 1e-4)
    assert width.cut is not None
    assert (width.cut.options, width.cut.by, width.recover) == ({"ffn": 960}, "activation", None)


@pytest.mark.parametrize("written", ["70_000", "70k", "7e4", "'70,000'", "0.07M", "7.0e+4"])
def test_a_number_is_written_as_in_an_option(written: str) -> None:
    recovery = parse_recipe(GOOD.replace("70_000", written), HERE).stages[0].recover
    assert recovery is not None
    assert recovery.tokens == 70_000


BOOLEAN = [
    name for name, field in RecoverySettings.model_fields.items() if "bool" in str(field.annotation)
]


@pytest.mark.parametrize("name", BOOLEAN)
@pytest.mark.parametrize("value", [True, False])
def test_what_is_true_or_false_can_be_written(name: str, value: bool) -> None:
    text = GOOD.replace("learning_rate: 1e-4", f"{name}: {str(value).lower()}")
    settings = parse_recipe(text, HERE).stages[0].recover
    assert getattr(settings, name) is value


def test_those_are() -> None:
    assert {"recompute", "compile", "shared_rows", "offload", "save_in_background"} == set(BOOLEAN)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 7", "sed: 7", "3: sed: unknown key; did you mean seed?"),
        ("train:", "trains:", "5: data.trains: unknown key; did you mean train?"),
        ("tokens:", "token:", "13: stages.0.recover.token: unknown key; did you mean tokens?"),
        ("ffn:", "fnn:", "17: stages.1.cut.fnn: unknown key; did you mean ffn?"),
        ("layers: 22", "layer: 22", "11: stages.0.cut.layer: unknown key; did you mean layers?"),
        ("    recover:", "    recovery:",
         "12: stages.0.recovery: unknown key; did you mean recover?"),
        ("seed: 7", "zzz: 7", "3: zzz: unknown key"),
        ("name: small\n", "", "1: name: missing"),
        ("  train: train.jsonl\n", "", "4: data.train: missing"),
        ("- name: depth\n    cut", "- cut", "10: stages.0.name: missing"),
        ("seed: 7", "seed: 7\nname: two", "4: name: stands twice"),
        ("ffn: 960", "ffn: 960\n      ffn: 5", "18: stages.1.cut.ffn: stands twice"),
        ("70_000", "200x", "13: stages.0.recover.tokens: a whole number is wanted, not '200x'"),
        ("70_000", "0", "13: stages.0.recover.tokens: more than 0 is wanted, not 0"),
        ("70_000", "1.5", "13: stages.0.recover.tokens: a whole number is wanted, not 1.5"),
        ("70_000", "[1]", "13: stages.0.recover.tokens: a whole number is wanted, not [1]"),
        ("70_000", "yes", "13: stages.0.recover.tokens: 'yes' is read as true or false; "
         "put it in quotes if text is meant"),
        ("1e-4", "fast", "14: stages.0.recover.learning_rate: a number is wanted, not 'fast'"),
        ("1e-4", ".nan", "14: stages.0.recover.learning_rate: a finite number is wanted, not nan"),
        ("1e-4", "1e-4\n      warmup: 2",
         "15: stages.0.recover.warmup: at most 1 is wanted, not 2"),
        ("1e-4", "1e-4\n      recompute: 1",
         "15: stages.0.recover.recompute: true or false is wanted, not 1"),
        ("1e-4", "1e-4\n      betas: [0.9]", "15: stages.0.recover.betas.1: missing"),
        ("1e-4", "1e-4\n      precision: fp8",
         "15: stages.0.recover.precision: auto, bf16 or fp32 is wanted, not 'fp8'"),
        ("activation", "foo",
         f"18: stages.1.cut.by: {SCORE_NAMES} is wanted, not 'foo'"),
        ("{layers: 22}", "{layers: many}",
         "11: stages.0.cut.layers: a whole number is wanted, not 'many'"),
        ("{layers: 22}", "{layers: -3}",
         "11: stages.0.cut.layers: more than 0 is wanted, not -3"),
        ("{layers: 22}", "{layers: {encoder: x}}",
         "11: stages.0.cut.layers.encoder: a whole number is wanted, not 'x'"),
        ("{layers: 22}", "{layers: [1, 2]}",
         "11: stages.0.cut.layers: a whole number is wanted, not [1, 2]"),
        ("{layers: 22}", "{}", "11: stages.0.cut: nothing to cut; give layers, drop_layers, "
         "hidden, ffn, heads, kv_heads, experts, vocab_size, vocab or cut"),
        ("{layers: 22}", "22", "11: stages.0.cut: keys with values are wanted, not 22"),
        ("{layers: 22}", "{layers: 3, drop_layers: 1}",
         "11: stages.0.cut: layers and drop_layers both say which layers go; give one"),
        ("{layers: 22}", "{layers: 3, cut: a.json}",
         "11: stages.0.cut: a cut file says all that is cut; leave the other options out"),
        ("name: small", "name: 5", "1: name: text is wanted, not 5"),
        ("name: small", "name: a/b",
         "1: name: 'a/b' becomes a directory; use at most 64 letters from A to Z, digits, spaces, "
         "'.', '-' and '_', and begin with a letter or a digit"),
        ("name: small", "name: 2024-13-45", "1: cannot be read as a value: month must be in 1..12; "
         "put it in quotes if text is meant"),
        ("name: width", "name: depth",
         "9: stages: the name 'depth' is taken; give each stage its own"),
        ("name: width", "name: control",
         "9: stages: the name 'control' is taken; give each stage its own"),
        ("domain: heldout.jsonl", "domain: 5", "7: data.heldout.domain: a path is wanted, not 5"),
        ("\n    domain: heldout.jsonl", " {}",
         "6: data.heldout: at least 1 is wanted, not nothing"),
        ("train: train.jsonl", "train: [a.txt, 5]", "5: data.train.1: a path is wanted, not 5"),
        ("[What is a river]", "['']",
         "8: prompts.0: a prompt without text; write one or leave it out"),
        ("[What is a river]", "Why", "8: prompts: a list is wanted, not 'Why'"),
        ("name: small", "name: [small", "2: not YAML: expected ',' or ']', but got ':'"),
        ("name: small", "name: \"sm\x07all\"", " not YAML: special characters are not allowed"),
        ("name: small", "name: !!python/object:os.system small",
         "1: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/object:os.system'"),
        ("name: small", "name: small\n? [a, b]\n: 5", "2: recipe: a key must be plain text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(old: str, new: str, message: str) -> None:
    assert GOOD.count(old) >= 1
    assert refusal(GOOD.replace(old, new, 1)) == message


@pytest.mark.parametrize("text", ["", "- a\n- b", "just text", "5"])
def test_a_recipe_has_keys(text: str) -> None:
    assert refusal(text).startswith("1: a recipe has the keys name, model, seed")


def test_expanding_aliases_end() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "too much of it" in refusal("\n".join(lines))
    assert "nested too deeply" in refusal("a: &a [*a]")
    assert "nested too deeply" in refusal("a: " + "[" * 2_000)


@pytest.mark.parametrize(("written", "read"), [("3", "3"), ("{encoder: 3}", {"encoder": "3"})])
def test_layers_to_drop_may_be_one_number(written: str, read: Any) -> None:
    recipe = parse_recipe(GOOD.replace("layers: 22", f"drop_layers: {written}"), HERE)
    cut = recipe.stages[0].cut
    assert cut is not None
    assert cut.drop_layers == read


@pytest.mark.parametrize(("written", "read"), [("true", True), ("no", False)])
def test_what_is_true_or_false_may_be_so(written: str, read: bool) -> None:
    recipe = parse_recipe(GOOD.replace("1e-4", f"1e-4\n      recompute: {written}"), HERE)
    assert recipe.stages[0].recover is not None
    assert recipe.stages[0].recover.recompute is read


def test_a_recipe_holds_no_function() -> None:
    def flat(*_: Any) -> Any:
        return [0.0] * 20

    spec = CutSpec(ffn=8, by=flat)
    with pytest.raises(ValueError, match=r"cut\.by: a function cannot be written down; a recipe"):
        Stage(name="width", cut=spec)


def test_an_alias_may_share_settings() -> None:
    text = GOOD.replace("recover:", "recover: &r", 1) + "    recover: *r\n"
    depth, width = parse_recipe(text, HERE).stages
    assert depth.recover == width.recover


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file$"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read as text: Is a directory"):
        load_recipe(tmp_path)
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        load_recipe(tmp_path / "r.yaml")


def test_paths_are_taken_from_the_directory_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "owner/here").mkdir(parents=True)

    def read(model: str) -> str:
        text = GOOD.replace("/models/tiny", model)
        return parse_recipe(text, tmp_path / "r.yaml").model

    assert read("here") == str(tmp_path / "here")
    assert read("owner/here") == str(tmp_path / "owner/here")
    assert read("owner/hub") == "owner/hub"
    assert read("owner/hub@refs/pr/1") == "owner/hub@refs/pr/1"
    # What is no hub id is a path here, never one in the working directory.
    assert read("nowhere") == str(tmp_path / "nowhere")
    assert read("quick/m.gguf") == str(tmp_path / "quick/m.gguf")
    assert read("./none") == str(tmp_path / "none")
    assert read("~/m") == "~/m"


def test_home_is_known_in_all_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/them")
    text = """
name: a
model: ~nobody-at-all/m
data: {train: [~/a.txt, {name: b, path: [~/b.txt, c.txt, ~nobody-at-all/d]}], heldout: {t: ~/t.txt}}
stages:
  - {name: one, cut: {cut: ~/plan.json}}
  - {name: two, cut: {vocab: {plan: ~/vocab.json}}}
"""
    recipe = parse_recipe(text, tmp_path / "r.yaml")
    home = Path("/home/them")
    paths = [path for source in recipe.data.sources for path in source.paths]
    nobody = tmp_path / "~nobody-at-all"
    assert paths == [home / "a.txt", home / "b.txt", tmp_path / "c.txt", nobody / "d"]
    assert recipe.model == str(nobody / "m")
    assert recipe.data.heldout == {"t": home / "t.txt"}
    first, second = (stage.cut for stage in recipe.stages)
    assert first is not None
    assert first.cut == home / "plan.json"
    assert second is not None
    assert second.vocab is not None
    assert second.vocab.paths == {"plan": home / "vocab.json"}


@pytest.mark.parametrize("value", [True, "many", 0])
def test_specs_from_python_are_checked_too(value: Any) -> None:
    with pytest.raises(ValueError, match="layers"):
        CutSpec(layers=value)


# Nothing but a UserError of one line, whatever is written


def is_recipe_or_refused(text: str) -> None:
    try:
        said = "" if parse_recipe(text, HERE) else "never"
    except UserError as error:
        said = str(error)
    assert said == "" or said.startswith(str(HERE))
    assert "\n" not in said
    said.encode()


_SNIPPETS = st.sampled_from(
    ["name: a\n", "stages:\n", "  - ", "cut: ", "{layers: ", "}", "[", "]", ": ", "\n", "&a ", "*a",
     "!!int ", "!!timestamp ", "!!binary ", "!!bool ", "!!float ", "? ", "<<: ", "2024-13-01",
     "0b_", "0x_", "-", "'", '"', "\\ud800", "%YAML 1.3", "---\n", "...\n", "\t", "#", "|", ">",
     "9" * 5_000, ".inf", "190:20:30", "é", "\x00", "~", "null", "="]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@example("%YAML " + "9" * 5_000)
@given(st.text() | st.lists(_SNIPPETS | st.text(max_size=4), max_size=12).map("".join))
def test_random_text_is_refused_in_words(text: str) -> None:
    is_recipe_or_refused(text)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*at, key))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8)
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.integers() | st.none(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_recipes_are_read_or_refused_in_words(data: st.DataObject) -> None:
    recipe = copy.deepcopy(yaml.safe_load(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(list(_places(recipe))[1:]))
        owner = recipe
        for part in place[:-1]:
            owner = owner[part]
        change = data.draw(st.sampled_from(["value", "drop", "key"]))
        if change == "value":
            owner[place[-1]] = data.draw(_VALUES)
        elif change == "drop":
            del owner[place[-1]]
        elif isinstance(owner, dict):
            owner[data.draw(st.text(max_size=6))] = data.draw(_VALUES)
    is_recipe_or_refused(yaml.safe_dump(recipe, allow_unicode=data.draw(st.booleans())))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_mistyped_recipes_are_read_or_refused_in_words(seed: int, changes: int) -> None:
    rng = random.Random(seed)
    text = GOOD
    for _ in range(changes):
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(["", " ", ":", "\n", "x", "[", "'", "0"]) + text[at + 1 :]
    is_recipe_or_refused(text)


def test_a_huge_recipe_is_refused_early(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: " + "x" * (1 << 20))
    with pytest.raises(UserError, match=r"r\.yaml: larger than 1 MB"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("".join(f"k{number}: 1\n" for number in range(20_000)), "too much of it for a recipe"),
        ("name: " + ":".join(["59"] * 5_000), "not a number of thousands of digits"),
        ("name: x\n" + "k" * 900 + ": 1", "r.yaml:2: kkk"),
        (":" * 50_000, "not YAML"),
    ],
)
def test_what_is_huge_gives_a_short_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_recipe(text, Path("r.yaml"))
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["/models/tiny", "train.jsonl", "heldout.jsonl"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 256, "is no name of a file"),
        ("x/" * 2_000, "is too long for a path"),
        (r"a\0b", "is no name of a file"),
        (r"a\ud800", "nicode text"),
    ],
)
def test_what_no_file_is_called_is_refused(value: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_recipe(GOOD.replace(value, f'"{name}"'), HERE)
    assert len(str(caught.value)) < 300
