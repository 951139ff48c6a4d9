"""The first steps of a run: facts about its inputs, and text that the original writes."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint.companions import SOURCE_FILE
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.files import read_json_object, remove
from regrow.common.numbers import things
from regrow.corpus.sources import Corpus, Source
from regrow.evaluation.answer_loss import LONGEST
from regrow.objectives.conversations import left_out_words, prepare_conversations
from regrow.pipeline.ledger import Ledger
from regrow.pipeline.run_plan import RunPlan
from regrow.pipeline.step_recorder import StepRecorder
from regrow.pipeline.steps import WRITE, WRITTEN_FILE

if TYPE_CHECKING:
    from regrow.writing.text_writer import WritingSettings

_WRITING_SECONDS = 1.0
"""Time between two reports of how far a text is written."""


def record_inputs(plan: RunPlan, recorder: StepRecorder) -> None:
    """Record the facts about the original, the recipe and the texts, and write texts."""
    original, once = plan.original, recorder.once
    once(plan.steps["original"], "", lambda: {**original.facts(), "source": _source(original)})
    once(plan.steps["recipe"], "", lambda: {"text": plan.recipe_text})
    _put_text_aside(plan, recorder)
    _write_text(plan, recorder)
    once(plan.steps["texts"], "", lambda: {"texts": _text_facts(plan, recorder)})


def _put_text_aside(plan: RunPlan, recorder: StepRecorder) -> None:
    """Write the held-out texts that are a part of the training text."""
    for aside in plan.put_aside.values():
        aside.write()
        of = "" if aside.stage is None else f"{aside.stage}: "
        recorder.progress.say(
            f"{of}held out, since no held-out text is named: {aside.part.words()}"
        )


def writing_settings(source: Source, seed: int) -> "WritingSettings":
    """How the original writes the text of a source."""
    from regrow.writing.text_writer import WritingSettings

    return WritingSettings(
        source.tokens or 0, source.prompts, seed, source.temperature, languages=source.languages
    )


def _write_text(plan: RunPlan, recorder: StepRecorder) -> None:
    """Let the original write its part of the training text."""
    from regrow.writing.text_writer import write_text, written_files

    step, source, out = plan.steps.get(WRITE), plan.recipe.data.written, plan.out / WRITTEN_FILE
    if step is None or source is None:
        return
    told = (time.monotonic(), 0)

    def advance(done: int, total: int) -> None:
        nonlocal told
        now, (before, tokens) = time.monotonic(), told
        if now - before >= _WRITING_SECONDS or done == total:
            # The first report also counts the tokens of an earlier process.
            seconds = now - before if tokens else None
            recorder.clock.done(WRITE, done - tokens, seconds)
            told = (now, done)
            # The last texts run on to their ends, beyond the tokens that are wanted.
            which = "the last texts" if done >= total else f"{done:,} of {total:,} tokens"
            recorder.report(step.stage, f"writing text, {which}")

    def write() -> Mapping[str, Any]:
        # Left by a run that was killed before it recorded the step.
        remove(*written_files(out))
        settings = writing_settings(source, plan.recipe.seed)
        try:
            written = write_text(plan.original, out, settings, progress=advance)
        except UserError as error:
            raise error.within(f"data.train: {source.name}.") from None
        return {
            "documents": written.documents, "tokens": written.tokens,
            "dropped": dict(written.dropped), "sha256": written.sha256,
            "seconds": {"write": written.seconds},
        }  # fmt: skip

    entry = recorder.once(step, "writing text", write)
    if entry is not None:
        tokens, seconds = entry.outputs["tokens"], entry.outputs["seconds"]["write"]
        recorder.progress.say(f"{step.stage}: wrote {tokens:,} tokens in {seconds:.0f} s")
    _check_written(recorder.ledger, out)


def _check_written(ledger: Ledger, out: Path) -> None:
    """Raise UserError if the text that the original wrote is missing or has changed."""
    wanted = ledger.entries[WRITE].outputs["sha256"]
    if not out.is_file() or hashlib.sha256(out.read_bytes()).hexdigest() != wanted:
        raise UserError(
            f"{out}: gone or changed, though the ledger says that {WRITE} is done; restore it, "
            f"or remove {ledger.directory} and start again"
        )


def _source(original: ModelDirectory) -> dict[str, Any] | None:
    """The facts about the file that the original was converted from; None if it was not."""
    path = original.path / SOURCE_FILE
    found: dict[str, Any] | None = read_json_object(path) if path.is_file() else None
    return found


def _text_facts(plan: RunPlan, recorder: StepRecorder) -> list[dict[str, Any]]:
    """Documents, tokens and hash of each text."""
    texts = [("train", "train", plan.corpus, plan.corpus.identity)]
    texts += [
        (name, "train", stage.corpus, stage.corpus.identity)
        for name, stage in plan.stages.items()
        if stage.spec.data is not None
    ]
    texts += [
        (
            name, "heldout",
            Corpus((Source(name=name, path=text.path),), reading=text.reading),
            plan.heldout_hashes[name],
        )
        for name, text in plan.recipe.heldout.items()
    ]  # fmt: skip
    facts = []
    for name, role, text, sha256 in texts:
        documents, tokens, left_out = _counts(plan, text, is_heldout=role == "heldout")
        found = {
            "name": name, "role": role, "documents": documents, "tokens": tokens,
            "sha256": sha256,
        }  # fmt: skip
        if left_out:
            found["left_out"] = left_out
            recorder.progress.say(f"{name}: of {things(documents, 'conversation')}, {left_out}")
        if role == "heldout" and name in plan.put_aside:
            found["put_aside"] = plan.put_aside[name].part.words()
        facts.append(found)
    return facts


def _counts(plan: RunPlan, text: Corpus, *, is_heldout: bool) -> tuple[int, int, str]:
    """Documents and tokens of a text, and which conversations are left out, in words."""
    original = plan.original
    if not text.reading.conversations:
        return *text.counts(original.tokenizer), ""
    lengths = [
        stage.recovery.row_length
        for stage in plan.stages.values()
        if stage.spec.learns_answers and stage.corpus is text
    ]
    longest = LONGEST if is_heldout else max(lengths)
    found = prepare_conversations(
        text.read(text.paths), original.tokenizer, original.config, longest
    )
    return found.conversations, found.tokens, left_out_words(found.left_out)
