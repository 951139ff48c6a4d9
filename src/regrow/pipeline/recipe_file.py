"""Read a recipe from YAML; an error is one line with file, line and key."""

from collections.abc import Callable
from pathlib import Path

from regrow.common.files import from_home
from regrow.common.yaml_file import check_path, map_paths, parse_yaml, read_yaml_text
from regrow.pipeline.recipe import EvaluateSpec, Recipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Relative paths in it are relative to its directory.

    Raises UserError, with file, line and key, at the first mistake.
    """
    return parse_recipe(read_yaml_text(path, "recipe"), path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """Parse the text of a recipe; `path` is its file. Raises as `load_recipe`."""
    recipe, source = parse_yaml(text, path, Recipe, "recipe")
    check_path(Path(recipe.model), ("model",), source)
    return _resolve_paths(recipe, path)


def _resolve_paths(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with all paths relative to its directory resolved, and ~ expanded."""

    def resolve(written: Path) -> Path:
        return path.parent / from_home(written)

    model = recipe.model
    if not from_home(Path(model)).is_absolute() and (
        (path.parent / model).exists() or not _may_be_hub_id(model)
    ):
        model = str(path.parent / model)
    # A source without a name is called after its path as it is written, so name it before that.
    data = recipe.data.model_copy(update={"train": [*recipe.data.sources]})
    resolved = map_paths(recipe.model_copy(update={"data": data}), resolve)
    assert isinstance(resolved, Recipe)
    return resolved.model_copy(update={"model": model, "evaluate": _evaluate(resolved, resolve)})


def _evaluate(recipe: Recipe, resolve: Callable[[Path], Path]) -> EvaluateSpec | None:
    """The evaluation of a recipe, with the files of its tasks resolved."""
    if recipe.evaluate is None:
        return None
    tasks = tuple(
        str(resolve(Path(name))) if name.endswith((".yaml", ".yml")) else name
        for name in recipe.evaluate.tasks
    )
    return recipe.evaluate.model_copy(update={"tasks": tasks})


def _may_be_hub_id(model: str) -> bool:
    """Whether a model looks like `owner/name[@revision]`, not `./name` or `owner/name.gguf`."""
    owner, slash, name = model.partition("@")[0].partition("/")
    return bool(slash) and "/" not in name and owner[:1] not in ".~" and not name.endswith(".gguf")
