"""The model class tells which tensors lie along the vocabulary; doubtful cases are refused."""

from typing import Any

import pytest

from regrow.architectures import bind
from regrow.architectures.llama import LLAMA
from regrow.checkpoint import meta_check
from regrow.checkpoint.meta_check import ClassTensors, vocabulary_tensors
from regrow.checkpoint.vocabulary_blueprint import vocabulary_blueprint
from regrow.common.errors import UserError
from regrow.models.networks import model_class
from tests.cuts.random_cuts import TINY
from tests.tiny import tiny_shapes

CONFIG: dict[str, Any] = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 61,
    "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": False,
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (61, 24),
    "model.norm.weight": (24,),
    "lm_head.weight": (61, 24),
    "a_scalar": (),
}


def test_a_blueprint_of_the_vocabulary_alone() -> None:
    blueprint = vocabulary_blueprint(CONFIG, SHAPES)
    assert blueprint.vocabulary_only
    assert blueprint.tensors == {
        "model.embed_tokens.weight": "vocab, 24", "model.norm.weight": "24",
        "lm_head.weight": "vocab, 24", "a_scalar": "",
    }  # fmt: skip
    layout = bind(blueprint, CONFIG, SHAPES, tied=False)
    assert layout.parameters() == 2 * 61 * 24 + 24 + 1
    assert layout.parameters_by_part({"vocab": 7}) == {
        "embedding": 7 * 24, "head": 7 * 24, "other": 25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("blueprint", "number"), TINY, ids=lambda v: getattr(v, "model_type", str(v))
)
def test_the_class_says_what_the_blueprints_say(blueprint: Any, number: int) -> None:
    """For every family with a blueprint, the same tensors along the vocabulary are found."""
    tiny = blueprint.tiny[number]
    shapes = tiny_shapes(blueprint, tiny)
    known, found = (
        bind(which, tiny, shapes) for which in (blueprint, vocabulary_blueprint(tiny, shapes))
    )
    for name in shapes:
        along = ["vocab" in d.names for d in known.tensors[name].dims.dimensions]
        assert [bool(d.names) for d in found.tensors[name].dims.dimensions] == along
    assert found.sizes["vocab"] == known.sizes["vocab"]
    assert found.parameters({"vocab": 50}) == known.parameters({"vocab": 50})


RENAMED: dict[str, str] = {
    "language_model.model.embed_tokens.weight": "model.embed_tokens.weight",
    "embed_tokens.weight": "model.embed_tokens.weight",
}


@pytest.mark.parametrize(("stored", "own"), RENAMED.items())
def test_a_file_may_have_another_prefix(stored: str, own: str) -> None:
    shapes = {stored if name == own else name: shape for name, shape in SHAPES.items()}
    blueprint = vocabulary_blueprint(CONFIG, shapes)
    assert blueprint.renames == {stored: own}
    assert bind(blueprint, CONFIG, shapes, tied=False).tensors[stored].parameter == own


FSMT = {
    "langs": ["en", "de"], "src_vocab_size": 61, "tgt_vocab_size": 67, "d_model": 8,
    "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
}  # fmt: skip

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no class": ({"architectures": None}, {}, r"architectures: \[\]: the name of the model's cl"),
    "no name of a class": (
        {"architectures": ["a\nb"]}, {}, r"architectures: \['a\\nb'\]: the name of the model's cl",
    ),
    "no type": ({"model_type": None}, {}, "model_type: None: a name is wanted"),
    "unknown class": (
        {"architectures": ["Qwen3ForNothing"]}, {},
        "Qwen3ForNothing refuses it: transformers has no model class 'Qwen3ForNothing'",
    ),
    "no class of a model": ({"architectures": ["pipeline"]}, {}, "no model class 'pipeline'"),
    "unknown type": (
        {"model_type": "nothing"}, {},
        "Qwen3ForCausalLM refuses it: transformers has no model type 'nothing'",
    ),
    "no vocabulary": (
        {"model_type": "vit", "architectures": ["ViTModel"], "vocab_size": None}, {},
        "ViTModel refuses it: its config has no vocab_size",
    ),
    "no table": (
        {"model_type": "beit", "architectures": ["BeitModel"], "vocab_size": 8_192}, {},
        "BeitModel has no tensor with a row for each token",
    ),
    "compiled": (
        {}, {"_orig_mod.model.norm.weight": (24,)},
        r"_orig_mod\.model\.norm\.weight: .* so that it is called model\.norm\.weight",
    ),
    "missing": (
        {}, {"lm_head.weight": None},
        r"lm_head\.weight: missing, though Qwen3ForCausalLM has it",
    ),
    "another size": (
        {}, {"model.embed_tokens.weight": (60, 24)},
        r"model\.embed_tokens\.weight: shape \[60, 24\], but config.json gives \[61, 24\]",
    ),
    "who knows": (
        {}, {"model.token_weights": (61,)},
        r"model\.token_weights: shape \[61\]: as many rows as there are tokens, but "
        "Qwen3ForCausalLM has no tensor of this name",
    ),
    "a table of another number": (
        {"model_type": "fsmt", "architectures": ["FSMTForConditionalGeneration"], **FSMT}, {},
        r"model\.encoder\.embed_tokens\.weight: .* sizes it by src_vocab_size and not by",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "edits", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_doubt_is_refused(changes: dict[str, Any], edits: dict[str, Any], message: str) -> None:
    shapes = {n: s for n, s in {**SHAPES, **edits}.items() if s is not None}
    with pytest.raises(UserError, match=message) as error:
        vocabulary_blueprint({**CONFIG, **changes}, shapes)
    assert "\n" not in str(error.value)


def test_rows_that_are_rounded_up_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(config: Any, architecture: str) -> ClassTensors:
        rows = -(-config["vocab_size"] // 8) * 8
        return ClassTensors({"embed.weight": (rows, 24)}, set(), set(), [], "embed.weight", None)

    monkeypatch.setattr(meta_check, "class_tensors", rounded)
    found = vocabulary_tensors({**CONFIG, "vocab_size": 64}, "Qwen3ForCausalLM")
    assert found["refusal"].startswith(
        "embed.weight: Qwen3ForCausalLM gives it [64, 24] at 64 tokens and [72, 24] at 65"
    )


def test_a_class_with_other_tensors_for_more_tokens_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def split(config: Any, architecture: str) -> ClassTensors:
        parts = range(1 + config["vocab_size"] // 62)
        return ClassTensors({f"embed.{i}": (61, 24) for i in parts}, set(), set(), [], None, None)

    monkeypatch.setattr(meta_check, "class_tensors", split)
    found = vocabulary_tensors(CONFIG, "Qwen3ForCausalLM")
    assert found == {"refusal": "Qwen3ForCausalLM has other tensors at 62 tokens than at 61"}


def test_a_key_that_repeats_the_size_follows() -> None:
    config = {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "vocab_size": 61, "text_config": {**CONFIG, "model_type": "gemma3_text"},
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
            "vocab_size": 7,
        },
        "mm_tokens_per_image": 4,
    }  # fmt: skip
    found = vocabulary_tensors(config, "Gemma3ForConditionalGeneration")
    assert found["fields"] == ["text_config.vocab_size", "vocab_size"]


def test_llama_of_another_class_is_one_without_a_blueprint() -> None:
    tiny = {**LLAMA.tiny[0], "architectures": ["LlamaModel"]}
    shapes = {
        name.removeprefix("model."): shape
        for name, shape in tiny_shapes(LLAMA, LLAMA.tiny[0]).items()
        if name != "lm_head.weight"
    }
    blueprint = vocabulary_blueprint(tiny, shapes)
    assert [n for n, dims in blueprint.tensors.items() if "vocab" in dims] == [
        "embed_tokens.weight"
    ]


def test_a_size_that_another_dimension_has_is_no_matter() -> None:
    """A vocabulary of 24 tokens and a hidden size of 24: the class is read and cut all the same."""
    config = {**CONFIG, "vocab_size": 24}
    shapes = {
        "model.embed_tokens.weight": (24, 24), "model.norm.weight": (24,),
        "lm_head.weight": (24, 24),
    }  # fmt: skip
    assert vocabulary_blueprint(config, shapes).tensors == {
        "model.embed_tokens.weight": "vocab, 24", "model.norm.weight": "24",
        "lm_head.weight": "vocab, 24",
    }  # fmt: skip


def test_an_infinity_in_a_file_is_one() -> None:
    config = {
        "model_type": "mamba2", "vocab_size": 61, "hidden_size": 16, "num_heads": 4, "head_dim": 8,
        "state_size": 4, "num_hidden_layers": 1, "n_groups": 1, "expand": 2,
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
    }  # fmt: skip
    found = vocabulary_tensors(config, "Mamba2ForCausalLM")
    assert found["size"] == 61


def test_what_the_class_does_not_read_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example DeepSeek V3's layers for multi-token prediction, which have embeddings too."""
    cls = model_class("Qwen3ForCausalLM")
    monkeypatch.setattr(cls, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.2\..*"])
    unread = {
        "model.layers.2.embed_tokens.weight": (61, 24), "model.layers.2.head.weight": (61, 24),
    }  # fmt: skip
    blueprint = vocabulary_blueprint(CONFIG, {**SHAPES, **unread})
    assert not blueprint.renames
    assert {blueprint.tensors[name] for name in unread} == {"61, 24"}
