"""How small a vocabulary can be cut, before any text is read."""

from bisect import bisect_left

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.surgery.allowed_sizes import allowed_sizes
from regrow.vocabulary.kept_tokens import check_vocabulary
from regrow.vocabulary.vocabulary_spec import VocabularySpec


def vocabulary_problem(model: ModelDirectory, size: int) -> str | None:
    """Why the vocabulary cannot be cut to a size; None if it can."""
    try:
        check_vocabulary(model.path, model.layout, VocabularySpec(size=size))
    except UserError as error:
        return str(error)
    return None


def least_vocabulary(model: ModelDirectory, notes: list[str]) -> dict[str, int]:
    """The smallest vocabulary that a search may choose, by the name of its axis.

    `notes`: receives why the vocabulary stays whole, if it must.
    """
    axis = model.layout.blueprint.axis("vocab")
    sizes = allowed_sizes(model.layout, axis)
    least = bisect_left(
        sizes, True, hi=len(sizes) - 1, key=lambda size: vocabulary_problem(model, size) is None
    )
    if least == len(sizes) - 1 > 0:
        notes.append(f"the vocabulary stays whole: {vocabulary_problem(model, sizes[-2])}")
    return {axis.name: sizes[least]}
