"""Settings of a training."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from regrow.common.errors import UserError
from regrow.common.fields import Fraction, Size
from regrow.common.precision import Precision
from regrow.corpus.shares import DENOISER, DOMAIN
from regrow.objectives.registry import OBJECTIVES, mixes_denoisers, reads_conversations
from regrow.training.distill_settings import DistillSettings
from regrow.training.lora_settings import LoraSettings
from regrow.training.mixing.mixture_settings import DENOISERS, DomainSettings, MixtureSettings
from regrow.training.tracking import Tool

EXECUTION_SETTINGS = frozenset(
    {
        "export_every", "offload", "recompute", "replicas", "save_every", "save_in_background",
        "stall", "track",
    }
)  # fmt: skip
"""Settings that change the weights at most by rounding, and never what is measured."""

TRAINED = "trained"
"""The directory of a trained model that is not kept, because it is worse than before."""
_STEPS = 48
"""Of a small budget by default.

Half of SmolLM2-135M (67.2M parameters) after 50,000 tokens in 48 steps: 1.090 bits per byte on the
domain and 1.884 on prose. In 12 steps of 4,096 tokens: 1.114 and 1.880.
"""
_LARGEST_STEP = 4_096
"""Tokens in an optimiser step by default, whatever the budget."""

if TYPE_CHECKING:
    ObjectiveName = str
else:
    # So pydantic refuses any other name, and lists these.
    ObjectiveName = Literal[tuple(OBJECTIVES)]


class RecoverySettings(BaseModel):
    """Settings of a recovery; the defaults suit some 10**5 to 10**7 tokens after one cut.

    Attributes:
        objective: What is learned (`docs/objectives.md`). None takes `causal` for a decoder and
            `span-corruption` for an encoder-decoder.
        prefix: How a decoder attends among the tokens of a prefix, which are given and not
            predicted: `causal`, as when it generates, or `bidirectional`. Only with objectives that
            have a prefix, so not with `causal` and `fill-in-the-middle`.
        shared_rows: Whether short examples of an encoder-decoder share a row (never given for a
            decoder, which always packs its rows where it can keep texts apart). The examples and
            their order stay the same, and fewer slots are empty. With `o-ul2`, a shared row holds
            separate documents; otherwise it is one text that runs across documents. None shares
            rows if the model's class can separate the examples: T5 and OpenBA can; BART cannot,
            since its positions are learned.
        distill: The teacher that is learned from beside the text; None for the text alone.
        lora: Train adapters beside frozen weights, and add them to the weights at the end; None
            trains all weights.
        denoisers: How the mixture of denoisers in `d-ul2` follows their losses; None takes the
            defaults.
        domains: How the shares of the sources in `data.train` follow their losses; None keeps the
            shares constant.
        mixture_every: Tokens between two measurements of the losses that mixtures follow. None
            takes a twentieth of the budget, but at least eight times `mixture_tokens` and at most
            a quarter of the budget.
        mixture_tokens: Tokens of held-out text to measure each denoiser, and each domain, on. By
            default so many that the standard error of a gap is about 0.03 nats or less, which
            changes a share by a tenth (docs/objectives.md).
        tokens: The budget: text tokens in the rows that are trained on. It is met to within one
            row. All steps have the same number of rows, except that the last has what remains.
        row_length: Tokens of text in a row; if rows differ in length, in the longest.
        batch_tokens: Tokens in an optimiser step; rounded down to whole rows of mean length. None
            takes a 48th of the budget, but at least a row and at most 4,096.
        micro_batch: Rows in one forward and backward pass of a process. It changes memory and
            speed, and the result only by rounding, and by dropout if the model has it.
        recompute: Save only the inputs of each layer, and compute the rest again in the backward
            pass (activation checkpointing): less memory for a third more work (Chen et al. 2016,
            "Training deep nets with sublinear memory cost").
        compile: Compile the layers with torch.compile. This takes time at the start, and changes
            the result by rounding.
        replicas: Groups of processes that each shard a whole model (hybrid sharding): less traffic
            between nodes, more memory. Only with several processes.
        offload: Keep parameters, gradients and optimiser state in the CPU's memory, and update
            them there; only what a layer's pass needs is on the GPU. Only with several processes.
        optimizer: `muon` for the matrices of the layers and AdamW for the rest, or all AdamW.
        learning_rate: The peak learning rate.
        embedding_rate: Learning rate of token embeddings and head, as a fraction of that of the
            rest, and so their weight decay too; 0 leaves them as they are.
        schedule: `cosine` decays from the end of the warm-up; `wsd` (warm-up, stable, decay; Hu et
            al. 2024, MiniCPM, section 4) stays at the peak and decays linearly at the end.
        warmup: Fraction of the steps over which the rate rises from 0 to the peak.
        decay: Fraction of the steps over which `wsd` decays.
        final_rate: Learning rate at the end, as a fraction of the peak.
        weight_decay: For matrices and embeddings; never for norms, biases and other vectors.
        betas: Coefficients of AdamW's running averages (Loshchilov and Hutter 2019).
        clip: Largest norm of the gradient of the loss per token.
        spike: A step is skipped if its loss or gradient norm is more than this times the recent
            median, or is not finite.
        skips: Number of skipped steps in a row that ends the training.
        precision: Dtype of matrix products under autocast; `auto` takes bf16 if the hardware
            multiplies it. Weights and optimiser state are always float32.
        evaluate_every: Tokens between two held-out measurements; None measures at the end only.
        save_every: Seconds between two checkpoints; 0 saves after every step.
        save_in_background: Continue training while a checkpoint is written, from a copy of weights
            and optimiser state in the CPU's memory.
        export_every: Tokens between two exports of the current model as a plain Hugging Face
            directory; None exports none before the end.
        stall: Seconds for which one of several processes may stand still; then all end, and the
            error names it. None does not watch for stalls.
        track: Tools that draw the numbers of each step; None takes TensorBoard if it is installed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: ObjectiveName | None = None
    prefix: Literal["causal", "bidirectional"] = "causal"
    shared_rows: bool | None = Field(default=None, strict=True)
    distill: DistillSettings | None = None
    lora: LoraSettings | None = None
    denoisers: MixtureSettings | None = None
    domains: DomainSettings | None = None
    mixture_every: Size | None = None
    mixture_tokens: Size = 32_768
    tokens: Size = 200_000
    row_length: Annotated[Size, Field(ge=2)] = 512
    batch_tokens: Size | None = None
    micro_batch: Size = 4
    recompute: bool = Field(default=False, strict=True)
    compile: bool = Field(default=False, strict=True)
    replicas: Size = 1
    offload: bool = Field(default=False, strict=True)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=3e-4, gt=0, allow_inf_nan=False)
    embedding_rate: Fraction = 1.0
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup: Fraction = 0.1
    decay: Fraction = 0.2
    final_rate: Fraction = 0.1
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    spike: float = Field(default=10.0, gt=1, allow_inf_nan=False)
    skips: Size = 10
    precision: Precision = "auto"
    evaluate_every: Size | None = None
    save_every: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    save_in_background: bool = Field(default=False, strict=True)
    export_every: Size | None = None
    stall: float | None = Field(default=900.0, gt=0, allow_inf_nan=False)
    track: tuple[Tool, ...] | None = None

    @property
    def step_tokens(self) -> int:
        """Tokens in an optimiser step: `batch_tokens`, or its default for this budget."""
        if self.batch_tokens is not None:
            return self.batch_tokens
        return max(self.row_length, min(self.tokens // _STEPS, _LARGEST_STEP))

    @field_validator("track", mode="before")
    @classmethod
    def _one_tool(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_tokens is not None and self.batch_tokens < self.row_length:
            raise ValueError(
                f"batch_tokens ({self.batch_tokens}) is less than one row; "
                f"give at least row_length ({self.row_length})"
            )
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup ({self.warmup:g}) and decay ({self.decay:g}) are parts of one training; "
                "together at most 1"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas}: each should be at least 0 and less than 1")
        if self.lora is not None and self.optimizer == "muon":
            raise ValueError("lora: muon updates whole matrices of a layer; give optimizer: adamw")
        if self.lora is not None and self.embedding_rate != 1:
            raise ValueError("embedding_rate: lora trains no embeddings; leave one of them out")
        self._check_mixtures()
        return self

    def _check_mixtures(self) -> None:
        if self.domains is not None and reads_conversations(self.objective):
            raise ValueError("domains: has no meaning for conversations; leave it out")
        if self.denoisers is not None:
            if not mixes_denoisers(self.objective):
                raise ValueError("denoisers: their mixture follows losses in d-ul2 alone")
            try:
                self.denoisers.check(DENOISERS)
            except ValueError as error:
                raise ValueError(f"denoisers.{error}") from None
        if self.mixture_every is not None:
            if not self.mixtures:
                raise ValueError("mixture_every: no mixture follows losses; give objective d-ul2")
            if self.mixture_every >= self.tokens:
                raise ValueError(
                    f"mixture_every ({self.mixture_every}): within {self.tokens} tokens no mixture "
                    "would change; give less"
                )

    def decisive(self, *, every_key: bool = False) -> dict[str, Any]:
        """The settings that decide the weights and the measurements, as JSON values.

        Keys with their default value are left out, so that a new key invalidates no run.
        `every_key`: include them, for display.
        """
        return self.model_dump(
            mode="json", exclude=set(EXECUTION_SETTINGS), exclude_defaults=not every_key
        )

    def check_kind(self, objective: str, *, is_encoder_decoder: bool) -> None:
        """Raise UserError if a setting means nothing for this kind of model.

        `objective`: that is learned, by name.
        """
        has_prefix = OBJECTIVES[objective].has_prefix and not is_encoder_decoder
        if self.prefix != "causal" and not has_prefix:
            named = "an encoder-decoder" if is_encoder_decoder else objective
            raise UserError(f"{named} has no prefix in its rows; leave it out", key="prefix")
        if self.shared_rows is not None and not is_encoder_decoder:
            raise UserError("is for encoder-decoders; leave it out", key="shared_rows")

    @property
    def mixtures(self) -> dict[str, MixtureSettings]:
        """The mixtures that follow losses, by kind (`regrow.corpus.shares`)."""
        found = {}
        if mixes_denoisers(self.objective):
            found[DENOISER] = self.denoisers or MixtureSettings()
        if self.domains is not None:
            found[DOMAIN] = self.domains
        return found

    @property
    def mixture_interval(self) -> int:
        """Tokens between two measurements of the losses that mixtures follow."""
        least, most = 8 * self.mixture_tokens, max(1, self.tokens // 4)
        return self.mixture_every or min(max(self.tokens // 20, least), most)
