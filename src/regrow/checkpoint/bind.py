"""Bind a checkpoint, or a config alone, to the blueprint of its architecture."""

from dataclasses import replace

from regrow.architectures import Blueprint, Layout, bind, blueprint_for
from regrow.architectures.assembled import holds_assembled
from regrow.architectures.binding import parameter_names
from regrow.architectures.schema import read_field
from regrow.checkpoint.derived_blueprint import blueprint_of_class
from regrow.checkpoint.header import TensorInfo
from regrow.checkpoint.reader import Checkpoint, read_bytes
from regrow.checkpoint.vocabulary_blueprint import vocabulary_blueprint
from regrow.common.errors import UserError


def bind_checkpoint(checkpoint: Checkpoint, blueprint: Blueprint | None = None) -> Layout:
    """The layout of a checkpoint, by `blueprint` or, if None, by that of its architecture.

    An architecture without a blueprint gets one that is derived from its class, or else one that
    covers only its vocabulary, as does a file that holds the experts of a layer as one tensor.

    Raises UserError if the config ties head and embedding, but the file stores different values,
    or if a copy of the embedding that the class ignores differs from it.
    """
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    blueprint = blueprint or blueprint_for(checkpoint.config)
    if blueprint is None:
        blueprint = blueprint_of_class(checkpoint.config, shapes)
    elif holds_assembled(blueprint, shapes):
        blueprint = replace(
            vocabulary_blueprint(checkpoint.config, shapes),
            reason="the file holds the experts of a layer as one tensor; "
            "save_pretrained(..., save_original_format=True) writes them one by one",
        )
    names = parameter_names(blueprint, checkpoint.config, shapes)
    by_parameter = {names[name]: info for name, info in checkpoint.tensors.items()}
    embedding = by_parameter.get(blueprint.head.embedding)
    for name in blueprint.head.copies:
        copy = by_parameter.get(name)
        if copy is not None and embedding is not None and not _equal(copy, embedding):
            raise UserError(
                f"{copy.file}: {name} differs from {embedding.name}, which the model uses in its "
                "place; drop it"
            )
    tied = False
    if read_field(checkpoint.config, "tie_word_embeddings") is not False:
        head = by_parameter.get(blueprint.head.weight)
        if head is not None and embedding is not None:
            tied = _equal(head, embedding)
            config_ties = all(
                condition.holds(checkpoint.config) for condition in blueprint.head.tied_when
            )
            if config_ties and not tied:
                raise UserError(
                    f"{head.file}: {head.name} differs from {embedding.name}, though by "
                    "config.json it is tied; set tie_word_embeddings to false or drop the head"
                )
    return bind(blueprint, checkpoint.config, shapes, tied=tied)


def _equal(a: TensorInfo, b: TensorInfo) -> bool:
    if a.shape != b.shape:
        return False
    height = a.shape[0] if a.shape else 1
    rows = max(1, (4 << 20) // max(1, a.nbytes // max(1, height)))
    return all(
        read_bytes(a, start, min(rows, height - start))
        == read_bytes(b, start, min(rows, height - start))
        for start in range(0, height, rows)
    )


def parameters_counted_once(layout: Layout) -> int:
    """The number of parameters, with embedding and head counted as one matrix.

    They are counted as two if their shapes differ.
    """
    blueprint = layout.blueprint
    shapes = {
        tensor.dims.shape(layout.sizes)
        for tensor in layout.tensors.values()
        if tensor.parameter in (blueprint.head.weight, blueprint.head.embedding)
    }
    return replace(layout, tied=layout.tied or len(shapes) == 1).parameters()
