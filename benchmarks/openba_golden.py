"""regrow's OpenBA against logits and greedy outputs that the published network computed.

    python benchmarks/openba_golden.py DIR

DIR is an OpenBA directory with `golden.safetensors`: `input_ids`, `attention_mask` and
`decoder_input_ids`, the published network's float32 `logits` at `logits_mask`, and its `greedy`
outputs without a cache. With SDPA and with eager attention, the logits must agree to 1e-3. The
greedy outputs must be equal, with each cache and without one.
"""

from pathlib import Path
from typing import Any

import torch
from common import Goal, Result, parser, show
from safetensors.torch import load_file

from regrow.models.loading import load_config
from regrow.models.networks import model_class

CACHES: dict[str, dict[str, Any]] = {
    "dynamic cache": {},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("model", type=Path, metavar="DIR")
    options = made.parse_args()
    golden = load_file(options.model / "golden.safetensors")
    read = {name: golden[name] for name in ("input_ids", "attention_mask")}
    config = load_config(options.model)
    results = []
    for attention in ("sdpa", "eager"):
        model = model_class(config.architectures[0]).from_pretrained(
            options.model, dtype=torch.float32, attn_implementation=attention
        )
        model.eval()
        with torch.no_grad():
            logits = model(**read, decoder_input_ids=golden["decoder_input_ids"]).logits
            counted = golden["logits_mask"].bool()
            difference = (logits - golden["logits"])[counted].abs().max().item()
            results.append(
                Result(
                    f"{attention}: largest difference of logits", difference, "",
                    goal=Goal("value", "<=", 1e-3),
                )
            )  # fmt: skip
            for name, cache in CACHES.items():
                written = model.generate(
                    **read, max_new_tokens=golden["greedy"].shape[1] - 1, do_sample=False, **cache
                )
                differ = int((written != golden["greedy"]).any(dim=1).sum())
                results.append(
                    Result(
                        f"{attention}, {name}: greedy outputs that differ", differ,
                        f"of {len(written)}", goal=Goal("value", "<=", 0),
                    )
                )  # fmt: skip
    show(results, as_json=options.json)


if __name__ == "__main__":
    main()
