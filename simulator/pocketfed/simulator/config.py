"""What the configuration of a run holds, section by section; config_file.py reads and writes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pocketfed.core.backbones import unknown_backbone
from pocketfed.core.blend import BlendRule
from pocketfed.core.formats import Format
from pocketfed.core.modality import Modality
from pocketfed.core.optimisers import OPTIMISERS, SGD
from pocketfed.core.role import Role
from pocketfed.server.aggregators import AGGREGATORS

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Unknown keys are mistakes; values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CapturesConfig(Section):
    """What phones record. Paths are folders or `.npz` files; with neither, captures that the package makes.

    `*_limit` keeps a seeded random part of the captures for training, 0 keeps all.
    """

    photos: Path | None = None
    sounds: Path | None = None
    side: Annotated[int, Field(ge=16, le=128, multiple_of=8)] = 32
    seconds: Annotated[float, Field(ge=0.25, le=10)] = 1.0
    photos_limit: Annotated[int, Field(ge=0)] = 0
    sounds_limit: Annotated[int, Field(ge=0)] = 0

    @field_validator("seconds")
    @classmethod
    def _whole_frames(cls, seconds: float) -> float:
        if abs(seconds * 100 - round(seconds * 100)) > 1e-6:
            raise ValueError("must be a multiple of 0.01")
        return seconds


class FleetConfig(Section):
    """How captures are dealt to phones, and how long these take.

    `delays` are simulated seconds that phones take over a round, dealt in turn, or one number for all; `jitter` is the
    share by which a round may be shorter or longer. Without delays no time is simulated.
    """

    phones: Annotated[int, Field(ge=1, le=100_000)] = 10
    photo_partition: Literal["dirichlet", "group"] = "dirichlet"
    sound_partition: Literal["dirichlet", "group"] = "dirichlet"
    alpha: Positive = 0.1
    photos_only: Share = 0.2
    sounds_only: Share = 0.2
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    delays: tuple[NotNegative, ...] = ()
    jitter: Share = 0.0

    @field_validator("delays", mode="before")
    @classmethod
    def _one_for_all(cls, delays: Any) -> Any:
        return (delays,) if isinstance(delays, int | float) else delays

    @field_validator("sounds_only")
    @classmethod
    def _shares(cls, sounds_only: float, info: ValidationInfo) -> float:
        if info.data.get("photos_only", 0.0) + sounds_only > 1:
            raise ValueError("photos_only and sounds_only add up to more than 1")
        return sounds_only


class AsynchronousConfig(Section):
    """Rounds that do not wait for their phones, if `enabled`; docs/asynchronous.md explains the words.

    `concurrency` phones are at work at any time, and a round is over after `buffer` updates. Updates count that are up
    to `max_staleness` rounds behind, discounted by `staleness`: (1 + rounds)^-`exponent` if polynomial, and if hinge
    from `hinge_after` rounds on by 1 / (`hinge_slope` rounds + 1). `discounts` says what is discounted, an update's
    weight in the mean or its step, which is the only way for rules that do not weigh updates so (L-DAWA and those that
    keep all updates); all steps are multiplied by `step`.
    """

    enabled: bool = False
    buffer: Count = 10
    concurrency: Count = 20
    staleness: Literal["polynomial", "constant", "hinge"] = "polynomial"
    exponent: NotNegative = 0.5
    hinge_after: Annotated[int, Field(ge=0)] = 4
    hinge_slope: Positive = 10.0
    max_staleness: Annotated[int, Field(ge=0, le=1000)] = 10
    discounts: Literal["weight", "step"] = "weight"
    step: Positive = 1.0


class LearningConfig(Section):
    """What a phone does in a round. The learning rate falls over the rounds along a half cosine if `cosine`.

    `momentum` is AdamW's first beta; `second_momentum` and `epsilon` are AdamW's alone. `blend` is what a phone begins
    a round with besides the server's weights: see docs/small-updates.md.
    """

    backbone: str = "compact"
    mode: Literal["sequential", "mixed"] = "sequential"
    batch: Annotated[int, Field(ge=4, le=256, multiple_of=2)] = 32
    photo_epochs: Count = 1
    sound_epochs: Count = 1
    optimiser: str = "sgd"
    learning_rate: Positive = Field(default_factory=lambda known: _usual_rate(known))
    cosine: bool = True
    momentum: Decay = 0.9
    weight_decay: NotNegative = 5e-4
    proximal: NotNegative = 0.0
    temperature: Positive = 0.3
    second_momentum: Decay = 0.999
    epsilon: Positive = 1e-8
    blend: BlendRule = BlendRule.NONE
    blend_tau: Annotated[float, Field(gt=0, le=1)] = 0.7
    blend_threshold: NotNegative = 0.4

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if (problem := unknown_backbone(name)) is not None:
            raise ValueError(problem)
        return name

    @field_validator("optimiser")
    @classmethod
    def _known_optimiser(cls, name: str) -> str:
        if name not in OPTIMISERS:
            raise ValueError(f"no such optimiser; choose one of: {', '.join(OPTIMISERS)}")
        return name


def _usual_rate(known: Mapping[str, Any]) -> float:
    """The optimiser's own learning rate; any rate if the optimiser is a mistake, which is reported anyway."""
    return OPTIMISERS.get(known.get("optimiser", ""), SGD).learning_rate


class ExchangeConfig(Section):
    """What travels between server and phones, by role, and how it is written; the rest stays on each phone."""

    travels: tuple[Role, ...] = tuple(Role)
    update_format: Format = Format.FLOAT32
    download_format: Format = Format.FLOAT32

    @field_validator("travels")
    @classmethod
    def _a_model(cls, travels: tuple[Role, ...]) -> tuple[Role, ...]:
        if Role.BACKBONE not in travels:
            raise ValueError("without the backbone nothing is learnt together")
        return tuple(role for role in Role if role in travels)

    @field_validator("download_format")
    @classmethod
    def _rounded_once(cls, form: Format) -> Format:
        if form is Format.INT8:
            raise ValueError("weights that phones are sent are float32 or float16")
        return form


class DeploymentConfig(Section):
    """When a round of a deployed server begins and ends, which phones it asks, and what it believes them.

    `minimum` phones must be there for a round to begin, for which the server waits `patience` seconds; it asks
    `over_selection` (a share) more than it wants, gives them `deadline` seconds, and begins the round anew, up to
    `attempts` times, if fewer than the share `quorum` of the wanted updates came. `late` answers are refused, or count
    in the round after theirs. Phones are chosen that hold captures of `modalities`, have `free_memory_mb`, are
    `charging`, and run at least `app_version`. An update may claim `most_examples` and move the weights by `furthest`
    times their norm. `edges` says whose folds of updates count: of servers that were `enrolled` as edges, or of `any` node
    that says it is one; a fold may hold `most_phones` updates. The last `keep_checkpoints` stay on disk.
    """

    minimum: Count = 1
    over_selection: Annotated[float, Field(ge=0, le=10)] = 0.3
    deadline: Positive = 600.0
    quorum: Share = 0.5
    attempts: Count = 10
    patience: Positive = 86_400.0
    late: Literal["refuse", "count"] = "refuse"
    modalities: tuple[Modality, ...] = ()
    free_memory_mb: Annotated[int, Field(ge=0)] = 0
    charging: bool = False
    app_version: Annotated[str, Field(max_length=40)] = ""
    most_examples: Count = 100_000
    furthest: Positive = 10.0
    edges: Literal["enrolled", "any"] = "enrolled"
    most_phones: Count = 10_000
    keep_checkpoints: Count = 5


class PrivacyConfig(Section):
    """Central differential privacy, see docs/privacy.md. What decides how much is protected has no default.

    The change of each update is clipped to the norm `clip`, and noise of `noise_multiplier` times that norm is added to
    their sum, which is divided by `updates`, the number that a round is expected to fold. Rounds end before all of them
    together cost more than `epsilon` at `delta`. With `adaptive` the norm follows the `quantile` of the updates' norms
    by steps of `clip_rate`; `count_noise` is the standard deviation of the noise on the count of updates within the norm,
    a twentieth of `updates` if it is not given. `population`, in a simulation alone, counts on each round's cohort
    being a secret sample of the whole fleet of that many phones.
    """

    noise_multiplier: Positive
    clip: Positive
    updates: Count
    epsilon: Positive
    delta: Annotated[float, Field(gt=0, lt=1)]
    population: Annotated[int, Field(ge=0)] = 0
    adaptive: bool = False
    quantile: Share = 0.5
    clip_rate: Positive = 0.2
    count_noise: Positive = Field(
        default_factory=lambda known: known.get("updates", 1) / 20, validate_default=True
    )

    @field_validator("population")
    @classmethod
    def _rare(cls, population: int, info: ValidationInfo) -> int:
        if population * info.data.get("delta", 0.0) >= 1:
            raise ValueError("delta must be less than 1 / population, or one phone may be laid open")
        return population

    @field_validator("count_noise")
    @classmethod
    def _hides_the_count(cls, count_noise: float, info: ValidationInfo) -> float:
        least = info.data.get("noise_multiplier", 0.0) / 2
        if info.data.get("adaptive") and count_noise <= least:
            raise ValueError(f"must be more than half the noise multiplier, {least:g}")
        return count_noise


class Config(Section):
    """A run. `format` is the version of this very schema; a run folder of another one is refused.

    `aggregation` holds settings of the aggregator, which differ from rule to rule; see docs/aggregation.md.
    `plugins` are Python files that register backbones or aggregators; every process of the run imports them.
    `allow_portable` accepts a network of which some operators run as slow portable kernels.
    """

    format: Literal[1] = 1
    rounds: Count = 10
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    aggregator: str = "fedavg"
    aggregation: dict[str, Any] = Field(default_factory=dict)
    runtime: Literal["executorch", "torch"] = "executorch"
    engine: Literal["inprocess", "ray"] = "inprocess"
    ray_address: str | None = None
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    evaluate_every: Annotated[int, Field(ge=0)] = 5
    patience: Positive = 86_400.0
    plugins: tuple[Path, ...] = ()
    allow_portable: bool = False
    captures: CapturesConfig = CapturesConfig()
    fleet: FleetConfig = FleetConfig()
    learning: LearningConfig = LearningConfig()
    asynchronous: AsynchronousConfig = AsynchronousConfig()
    exchange: ExchangeConfig = ExchangeConfig()
    deployment: DeploymentConfig = DeploymentConfig()
    privacy: PrivacyConfig | None = None

    @field_validator("aggregator")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in AGGREGATORS:
            raise ValueError(f"no such aggregator; choose one of: {', '.join(sorted(AGGREGATORS))}")
        return name

    @field_validator("ray_address")
    @classmethod
    def _on_ray(cls, ray_address: str | None, info: ValidationInfo) -> str | None:
        if ray_address is not None and info.data.get("engine") == "inprocess":
            raise ValueError('only the ray engine joins a cluster; add engine = "ray" (--engine ray)')
        return ray_address

    @field_validator("exchange")
    @classmethod
    def _projector_to_choose(cls, exchange: ExchangeConfig, info: ValidationInfo) -> ExchangeConfig:
        learning = info.data.get("learning")
        if learning and learning.blend is BlendRule.FEDU and Role.PROJECTOR not in exchange.travels:
            raise ValueError(
                'learning.blend "fedu" chooses between two projectors, so travels must have "projector"'
            )
        return exchange
