"""The training text of a recipe: one or several sources, with shares or without."""

from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.corpus.sources import Source
from regrow.pipeline.recipe_file import parse_recipe

HERE = Path("/recipes/r.yaml")
RECIPE = """\
name: small
model: /models/tiny
data:
  train: {train}
  heldout: {{domain: heldout.jsonl}}
stages:
  - {{name: depth, cut: {{layers: 2}}}}
"""


def sources(train: str) -> list[Source]:
    return list(parse_recipe(RECIPE.format(train=train), HERE).data.sources)


def told(train: str) -> list[tuple[str, list[str], float | None, int | None]]:
    return [
        (source.name, [str(path) for path in source.paths], source.weight, source.tokens)
        for source in sources(train)
    ]


def test_paths_alone_are_one_source() -> None:
    assert told("a.jsonl") == [("train", ["/recipes/a.jsonl"], None, None)]
    assert told("[a.jsonl, /b/store]") == [
        ("train", ["/recipes/a.jsonl", "/b/store"], None, None)
    ]  # fmt: skip


def test_sources_have_names_and_shares() -> None:
    assert told("{path: web.jsonl.zst}") == [("web", ["/recipes/web.jsonl.zst"], None, None)]
    assert told("{path: wiki.en.txt}") == [("wiki.en", ["/recipes/wiki.en.txt"], None, None)]
    assert told(
        "[{path: tokens/web, weight: 3}, {name: c, path: [a.txt, b.txt], weight: 0.5}]"
    ) == [
        ("web", ["/recipes/tokens/web"], 3, None),
        ("c", ["/recipes/a.txt", "/recipes/b.txt"], 0.5, None),
    ]
    assert told("[{path: a.bin, tokens: 2_000}, {path: b.ds, tokens: 10}]") == [
        ("a", ["/recipes/a.bin"], None, 2000), ("b", ["/recipes/b.ds"], None, 10),
    ]  # fmt: skip
    assert told("[{path: a.txt}, b.txt]") == [
        ("a", ["/recipes/a.txt"], None, None), ("b", ["/recipes/b.txt"], None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("[]", "4: data.train: at least 1 is wanted, not nothing"),
        ("5", "4: data.train: a path is wanted, not 5"),
        ("[a.txt, [b.txt]]", '4: data.train.1: a path is wanted, not ["b.txt"]'),
        ("{weight: 3}", "4: data.train: path: missing"),
        ("[{weight: 3}]", "4: data.train.0: path: missing"),
        ("[{path: []}]", "4: data.train.0: no path; give at least one"),
        ("[{path: 5}]", "4: data.train.0.path: a path is wanted, not 5"),
        ("[{path: [a.txt, 5]}]", "4: data.train.0.path.1: a path is wanted, not 5"),
        ("[{path: a.txt, wieght: 3}]",
         "4: data.train.0.wieght: unknown key; did you mean weight?"),
        ("[{path: a.txt, weight: 0}]", "4: data.train.0.weight: more than 0 is wanted, not 0"),
        ("[{path: a.txt, weight: .inf}]",
         "4: data.train.0.weight: a finite number is wanted, not inf"),
        ("[{path: a.txt, weight: much}]", "4: data.train.0.weight: a number is wanted, not 'much'"),
        ("[{path: a.txt, tokens: 1.5}]",
         "4: data.train.0.tokens: a whole number is wanted, not 1.5"),
        ("[{path: a.txt, name: ''}]", "4: data.train.0.name: text is wanted, not ''"),
        ("[{path: a.txt, weight: 1, tokens: 5}]",
         "4: data.train.0: weight and tokens both say how much; give one"),
        ("[{path: a.txt, weight: 1}, b.txt]",
         "3: data: train: give all sources a weight, or all tokens, or none of them any"),
        ("[{path: a.txt, weight: 1}, {path: b.txt, tokens: 5}]",
         "3: data: train: give all sources a weight, or all tokens, or none of them any"),
        ("[{path: x/a.txt}, {path: y/a.txt}]",
         "3: data: train: two sources are called 'a'; give each a name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(train: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        sources(train)
    assert str(caught.value) == f"{HERE}:{message}"
