"""Which experts stay: bits per byte after cuts of a small mixture of experts, by score and number.

    python benchmarks/experts.py --work DIR [--steps N]

The model is a Qwen 3 with experts of 6.7M parameters: 6 layers, hidden 192, 16 experts of a width
of 96, of which 2 compute each token, and 4,096 tokens. The script first trains it on the source of
Python's library, with PyTorch alone: N steps of 4,096 tokens, and a loss for balance among experts
(--steps, 480 by default, some 10 minutes on two cores). Twelve files are held out. Cuts are then
chosen on 16,384 tokens of the others:

- activation, as by default: the weight of an expert times the norm of what it gives, as a mean over
  all tokens;
- the same as a mean over the tokens of which the expert is chosen (Lasby et al. 2025, "REAP the
  Experts: Why Pruning Prevails for One-Shot MoE Compression");
- how often an expert is chosen, and the mean of its weights;
- magnitude, and random scores with three seeds;
- activation, and then passes over the tokens in which each layer is trained alone.

Nothing else is trained. The peer is activation.
"""

import json
import random
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import Result, parser, say, show
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import regrow
from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import Checkpoint
from regrow.evaluation.heldout import heldout_loss
from regrow.scoring import activation
from regrow.scoring.calibration import Calibration
from regrow.scoring.observe import Seen, Statistic, observe

VOCABULARY, ROW, ROWS, RATE = 4_096, 256, 16, 2e-3
HELD = 12
CHARACTERS = 6_000
"""Of each file, so that the text is of many files."""
ACTIVATION = "activation"


def library() -> tuple[list[str], list[str]]:
    """The source of Python's library: files to train on, and files that are held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted([*root.glob("*.py"), *root.glob("*/*.py")])
    texts = [
        file.read_text(encoding="utf-8", errors="ignore")
        for file in files
        if not {"site-packages", "test", "tests"} & {*file.relative_to(root).parts}
    ]
    random.Random(0).shuffle(texts)
    return texts[HELD:], texts[:HELD]


def trained(texts: list[str], steps: int, out: Path) -> None:
    """Train a tokenizer and a mixture of experts on texts, and write both."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )
    ids = torch.tensor([token for text in texts for token in [*tokenizer(text)["input_ids"], 2]])
    config = transformers.Qwen3MoeConfig(
        vocab_size=VOCABULARY, hidden_size=192, moe_intermediate_size=96, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32, num_experts=16,
        num_experts_per_tok=2, norm_topk_prob=True, tie_word_embeddings=True, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, router_aux_loss_coef=0.01, output_router_logits=True,
    )  # fmt: skip
    model = transformers.Qwen3MoeForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 50) * (1 - 0.95 * step / steps)
        starts = torch.randint(len(ids) - ROW, (ROWS,)).tolist()
        batch = torch.stack([ids[start : start + ROW] for start in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 40 == 0 or step == steps - 1:
            say(f"step {step} of {steps}, loss {loss.item():.2f}")
    model.config.output_router_logits = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _is_chosen(seen: Seen) -> torch.Tensor:
    return (activation.expert(seen) > 0).float()


def _weight(seen: Seen) -> torch.Tensor:
    block: Any = seen.module
    _, weights, chosen = block.gate(seen.read)
    return torch.zeros(len(seen.read), seen.size).scatter_(1, chosen, weights.float())


def _mean_of(statistic: Statistic, of_chosen: bool = False) -> Any:
    """A score from a statistic, as a mean over all tokens or over those of an expert."""

    def score(layout: Layout, axis: str, checkpoint: Checkpoint, text: Calibration) -> Any:
        model = ModelDirectory(checkpoint.directory).load()
        found = observe(model, layout, {axis: statistic}, text)[axis]
        if not of_chosen:
            return found
        share = observe(model, layout, {axis: _is_chosen}, text)[axis]
        return found / np.maximum(share, 1e-9)

    return score


WAYS: Mapping[str, Mapping[str, Any]] = {
    ACTIVATION: dict(refit=False),
    "activation, one pass": dict(refit_passes=1),
    "activation, three passes": dict(refit_passes=3),
    "mean over the expert's tokens": dict(by=_mean_of(activation.expert, True), refit=False),
    "how often": dict(by=_mean_of(_is_chosen), refit=False),
    "mean weight": dict(by=_mean_of(_weight), refit=False),
    "magnitude": dict(by="magnitude", refit=False),
    **{f"random, seed {seed}": dict(by="random", seed=seed, refit=False) for seed in range(3)},
}


def results(model: Path, text: Path, held: list[str], work: Path) -> Iterator[Result]:
    def loss(directory: Path) -> float:
        opened = ModelDirectory(directory)
        found = heldout_loss(opened.load(), opened.tokenizer, held, precision="auto").bits_per_byte
        assert found is not None
        return found

    yield Result("16 experts, original", loss(model), "bits/byte")
    for experts in (12, 8, 4):
        best: float | None = None
        for way, options in WAYS.items():
            with tempfile.TemporaryDirectory(dir=work) as place:
                out = Path(place) / "cut"
                regrow.prune(model, out, experts=experts, calibration=text, **options)
                found = loss(out)
            name = f"{experts} experts, {way}"
            say(f"{name}: {found:.3f}")
            peer = None if best is None else ACTIVATION
            yield Result(name, found, "bits/byte", peer, best)
            best = found if best is None else best


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--work", type=Path, required=True, help="a directory for 200 MB")
    arguments.add_argument("--steps", type=int, default=480, help="of the training")
    options = arguments.parse_args()
    steps = 60 if options.quick else options.steps
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="experts-", dir=options.work) as name:
        work = Path(name)
        texts, held = library()
        trained(texts, steps, work / "model")
        lines = (json.dumps({"text": text[:CHARACTERS]}) + "\n" for text in texts)
        (work / "text.jsonl").write_text("".join(lines), encoding="utf-8")
        held = [text[:CHARACTERS] for text in held]
        show(list(results(work / "model", work / "text.jsonl", held, work)), as_json=options.json)


if __name__ == "__main__":
    main()
