"""For which classes of transformers a blueprint can be derived, with the default config of each.

    python benchmarks/derived_blueprints.py [--json] [MODEL_TYPE ...]

It prints a line for each class that predicts the next token: the axes that can be cut and the
seconds that it took, or why nothing could be derived. All of them take some five minutes.
"""

import argparse
import json
import time
import warnings
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from regrow.checkpoint.derivation import derive


def default_config(model_type: str, architecture: str) -> dict[str, Any]:
    """The config that a checkpoint with all defaults of its class would have."""
    values = transformers.CONFIG_MAPPING[model_type]().to_dict()
    values = {key: value for key, value in values.items() if value is not None}
    values |= {"model_type": model_type, "architectures": [architecture]}
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for labels in ("id2label", "label2id"):
        found.pop(labels, None)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("types", nargs="*", metavar="MODEL_TYPE", help="default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for model_type, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if given.types and model_type not in given.types:
            continue
        architecture = names if isinstance(names, str) else names[0]
        start = time.perf_counter()
        try:
            found = derive(default_config(model_type, architecture), architecture)
        except Exception as error:  # noqa: BLE001 - some classes refuse their own defaults
            found = {"refusal": f"no default config: {error}".splitlines()[0]}
        seconds = time.perf_counter() - start
        derived = found.get("derived", {})
        results[model_type] = {
            "axes": derived.get("axes", []), "pre_norm": derived.get("pre_norm"),
            "refusal": found.get("refusal"), "seconds": round(seconds, 1),
        }  # fmt: skip
        if not given.json:
            words = ", ".join(derived["axes"]) if derived else found["refusal"]
            print(f"{model_type:24} {seconds:5.1f} s  {words}", flush=True)
    if given.json:
        print(json.dumps(results, indent=1))
    else:
        count = sum(bool(each["axes"]) for each in results.values())
        print(f"{count} of {len(results)}")


if __name__ == "__main__":
    main()
