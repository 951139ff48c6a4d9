"""Bind a checkpoint, or a config alone, to the blueprint of its architecture."""

from dataclasses import replace

from regrow.architectures import Blueprint, Layout, bind, blueprint_for
from regrow.architectures.schema import read_field
from regrow.checkpoint.header import TensorInfo
from regrow.checkpoint.reader import Checkpoint, read_bytes
from regrow.checkpoint.vocabulary_blueprint import vocabulary_blueprint
from regrow.common.errors import UserError


def bind_checkpoint(checkpoint: Checkpoint, blueprint: Blueprint | None = None) -> Layout:
    """The layout of a checkpoint, by its own blueprint unless one is given.

    Where none is written, it is of the vocabulary alone.

    Raises UserError where a stored head differs from the embedding that the config ties it to.
    """
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    blueprint = (
        blueprint
        or blueprint_for(checkpoint.config)
        or vocabulary_blueprint(checkpoint.config, shapes)
    )
    flag = read_field(checkpoint.config, "tie_word_embeddings")
    tied = False
    if flag is not False:
        by_parameter = {
            blueprint.renames.get(name, name): info for name, info in checkpoint.tensors.items()
        }
        head = by_parameter.get(blueprint.head.weight)
        embedding = by_parameter.get(blueprint.head.embedding)
        if head is not None and embedding is not None:
            tied = head.shape == embedding.shape and _same_bytes(head, embedding)
            said = all(condition.holds(checkpoint.config) for condition in blueprint.head.tied_when)
            if said and not tied:
                raise UserError(
                    f"{head.file}: {head.name} differs from {embedding.name}, though by "
                    "config.json it is tied; set tie_word_embeddings to false or drop the head"
                )
    return bind(blueprint, checkpoint.config, shapes, tied=tied)


def _same_bytes(a: TensorInfo, b: TensorInfo) -> bool:
    rows = max(1, (4 << 20) // max(1, a.nbytes // a.shape[0]))
    return all(
        read_bytes(a, start, min(rows, a.shape[0] - start))
        == read_bytes(b, start, min(rows, a.shape[0] - start))
        for start in range(0, a.shape[0], rows)
    )


def parameters_counted_once(layout: Layout) -> int:
    """Parameters with one matrix for embedding and head; all, where they differ in shape."""
    blueprint = layout.blueprint
    shapes = {
        tensor.dims.shape(layout.sizes)
        for tensor in layout.tensors.values()
        if tensor.parameter in (blueprint.head.weight, blueprint.head.embedding)
    }
    return replace(layout, tied=layout.tied or len(shapes) == 1).parameters()
