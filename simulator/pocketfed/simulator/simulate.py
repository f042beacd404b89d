"""A simulation from captures to report: the composition root, in the order in which the data flows."""

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.captures import Split, embedded_photos, embedded_sounds, load_photos, load_sounds
from pocketfed.core.embedding_map import EmbeddingMap, map_embeddings
from pocketfed.core.errors import CaptureError, ConfigError, RunFolderError
from pocketfed.core.evaluation import clip_labels, embed, evaluate, is_labelled
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Plan
from pocketfed.core.randomness import generator
from pocketfed.server.aggregators import GlobalModel, build_aggregator
from pocketfed.server.app import build_server_app
from pocketfed.server.checkpoint import Checkpoint, save_checkpoint
from pocketfed.server.guard import Guard
from pocketfed.server.outcome import Outcome, RoundWatcher
from pocketfed.server.roster import Roster
from pocketfed.server.share import share_of
from pocketfed.server.terms import Rounds, Terms
from pocketfed.simulator import run_folder
from pocketfed.simulator.best import keep_best
from pocketfed.simulator.config import Config
from pocketfed.simulator.engines import build_engine
from pocketfed.simulator.fleet import Fleet, deal, save_fleet
from pocketfed.simulator.metrics_file import MetricsFile
from pocketfed.simulator.plans import buffered_of, epochs_of, plan_of, travel_of
from pocketfed.simulator.private import check_privacy, last_round, protect
from pocketfed.simulator.program import save_program, task_of
from pocketfed.simulator.report import write_report
from pocketfed.simulator.run_folder import Record, RunFolder
from pocketfed.simulator.simulated_time import Delays, SimulatedClock, SimulatedGrid

EMBEDDED = 1200
"""Captures of each modality in a run without captures of its own."""


class Watcher(Protocol):
    """Whoever watches a run: a progress bar, or nobody."""

    def phase(self, text: str) -> None:
        """Something that takes a while has begun."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should still see when the run is over."""
        ...

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """A phone's answer has been folded or refused."""
        ...

    def finished(self, record: Record) -> None:
        """A round is finished and safe."""
        ...


def simulate(config: Config, out: Path, watcher: Watcher, resume: bool = False) -> RunFolder:
    """Run, or go on with, a simulation.

    Args:
        config: of a new run; ignored when resuming, the run folder has its own.
        out: the run folder: a new one, or the one to go on with.
        watcher: is told of progress.
        resume: go on with the run in `out`.

    Raises:
        UserError: captures, configuration or run folder cannot be used; nothing has been written over.
    """
    last: Checkpoint | None = None
    if resume:
        folder, config, last = run_folder.reopen(out, watcher.note, going_on=True)
        for litter in out.glob(".work-*"):  # of a run that was killed
            shutil.rmtree(litter, ignore_errors=True)
    behind = last.round if last else 0
    check_privacy(config, out, behind, deployed=False)
    engine = build_engine(config)
    watcher.phase("reading captures")
    splits = load_captures(config)
    task = task_of(config, list(splits))
    fleet = deal({modality: split.train for modality, split in splits.items()}, config.fleet, config.seed)
    rounds = rounds_of(config, task, fleet, lambda number: plan_of(config, number, run))
    if not resume:
        folder = run_folder.create(out, config)
    run = run_folder.read_id(folder)

    final = last_round(config, folder.path, behind)
    journal = Journal(folder, config, task, splits, watcher, final)
    model = journal.open(last)
    if behind < config.rounds:
        work = Path(tempfile.mkdtemp(prefix=".work-", dir=folder.path))
        try:
            if config.runtime == "executorch":
                watcher.phase("exporting the learning step (kept for the next run)")
            for line in save_program(work, config, task):
                watcher.note(f"slow kernel: {line}")
            save_fleet(work, fleet, {modality: split.train for modality, split in splits.items()})
            roster, clock = Roster(status_age=math.inf, rests=False), journal.clock
            delays = Delays(config.fleet.delays or (1.0,), config.fleet.jitter, config.seed)
            in_simulated_time = bool(config.fleet.delays) or config.asynchronous.enabled
            private, numbers, listener = protect(
                config, folder.path, rounds, range(behind + 1, config.rounds + 1), journal, watcher.note
            )
            watcher.phase("starting phones")
            server = build_server_app(
                private,
                model,
                numbers,
                roster,
                listener,
                phones=config.fleet.phones,
                through=lambda grid: (
                    SimulatedGrid(grid, clock, delays, lambda node: roster.statuses[node].number)
                    if in_simulated_time
                    else grid
                ),
            )
            engine(server, work.resolve(), folder.phones.resolve())
        finally:
            shutil.rmtree(work, ignore_errors=True)
    watcher.phase("writing the report")
    journal.report()
    return folder


def rounds_of(config: Config, task: LearningTask, fleet: Fleet, plan: Callable[[int], Plan]) -> Rounds:
    """What the server of a simulation decides, with the plan of each round.

    Raises:
        ConfigError: the rule cannot take the updates that a round will have.
    """
    rounds = Rounds(
        layout=task.layout,
        aggregator=build_aggregator(config.aggregator, config.aggregation),
        plan=plan,
        seed=config.seed,
        terms=Terms(participation=config.fleet.participation, deadline=config.patience),
        guard=Guard(most_examples=most_examples(config, fleet)),
        buffered=buffered_of(config),
        travel=travel_of(config),
    )
    asked = share_of(config.fleet.phones, config.fleet.participation)
    rounds.room.check(min(config.fleet.phones, rounds.buffered.updates) if rounds.buffered else asked)
    return rounds.fitted()


def load_captures(config: Config) -> dict[Modality, Split]:
    """The captures of a configuration, or embedded ones if it names none.

    Raises:
        CaptureError: captures that cannot be read.
        ConfigError: fewer captures than a batch.
    """
    wanted, splits = config.captures, {}
    if wanted.photos is None and wanted.sounds is None:
        splits[Modality.PHOTO] = embedded_photos(EMBEDDED, wanted.side, config.seed)
        splits[Modality.SOUND] = embedded_sounds(EMBEDDED, wanted.seconds, config.seed)
    problems = []
    for modality, path in ((Modality.PHOTO, wanted.photos), (Modality.SOUND, wanted.sounds)):
        try:
            if path is not None and modality is Modality.PHOTO:
                splits[modality] = load_photos(path, wanted.side, config.seed)
            elif path is not None:
                splits[modality] = load_sounds(path, wanted.seconds, config.seed)
        except CaptureError as error:
            problems.append(str(error))
    if problems:
        raise CaptureError("\n".join(problems))
    limits = {Modality.PHOTO: wanted.photos_limit, Modality.SOUND: wanted.sounds_limit}
    for modality, split in splits.items():
        splits[modality] = split = _limited(split, limits[modality], config.seed)
        if len(split.train) < config.learning.batch:
            problems.append(
                f"{len(split.train)} {modality}s to train on are fewer than a batch of {config.learning.batch}; "
                "give more captures or a smaller learning.batch"
            )
    if problems:
        raise ConfigError(problems)
    return splits


def most_examples(config: Config, fleet: Fleet) -> int:
    """What the busiest phone can honestly have processed in a round; a mixed batch may round up by one."""
    epochs = epochs_of(config)
    asked = [
        sum(
            len(parts[phone]) * epochs[modality]
            for modality, parts in fleet.holdings.items()
            if phone in parts
        )
        for phone in range(fleet.phones)
    ]
    return max(asked) + config.learning.batch


def _limited(split: Split, limit: int, seed: int) -> Split:
    if limit == 0 or limit >= len(split.train):
        return split
    chosen = generator(seed, "limit").choice(len(split.train), size=limit, replace=False)
    return dataclasses.replace(split, train=split.train.take(np.sort(chosen)))


class Journal(RoundWatcher):
    """Keeps a run's folder up to date: a checkpoint, then the metrics, after every round."""

    def __init__(
        self, folder: RunFolder, config: Config, task: LearningTask, splits: Mapping[Modality, Split],
        watcher: Watcher, final: int,
    ) -> None:  # fmt: skip
        self._final = final  # the round after which the encoder is judged in any case
        self._folder, self._config, self._task, self._splits = folder, config, task, splits
        self._watcher = watcher
        self._records: list[Record] = []
        self._model = GlobalModel(initial_weights(task, config.seed))
        self.clock = SimulatedClock()

    def open(self, last: Checkpoint | None) -> GlobalModel:
        """Begin at round 0, or go on after the last finished round; the model to begin with."""
        self._metrics = MetricsFile(self._folder, last.round if last else -1)
        if last is None:
            self._watcher.phase("judging the untrained encoder")
            self._keep(self._record_of(Outcome.untrained(self._model.weights)))
            return self._model
        if last.layout != self._task.layout:
            raise RunFolderError(
                f"{self._folder.path} holds weights of another network; resume it with the version that began it"
            )
        self._model = last.model
        self.clock.advance(last.record.get("simulated_seconds", 0.0))
        self._records = self._metrics.read()
        if not self._records or self._records[-1]["round"] < last.round:
            self._note(last.record)  # stopped between the checkpoint and the metrics
        else:
            self._metrics.write()
            keep_best(self._folder.checkpoints, self._records)
        return self._model

    def answered(self, round_number: int, done: int, cohort: int) -> None:
        """Move the bar."""
        self._watcher.answered(round_number, done, cohort)

    def trouble(self, text: str) -> None:
        """Say it."""
        self._watcher.note(text)

    def finished(self, outcome: Outcome) -> None:
        """Persist a round."""
        self._model = outcome.model
        self._keep(self._record_of(outcome))

    def report(self) -> None:
        """Write `report.html`, with maps of the test captures before and after."""
        before = run_folder.untrained(self._folder).weights
        config, task = self._config, self._task
        summary = {
            "phones": str(config.fleet.phones),
            "dealt by": ", ".join(f"{m}s {self._dealt(m)}" for m in self._splits),
            "captures": ", ".join(f"{len(s.train)} {m}s (+ {len(s.test)} to judge)" for m, s in self._splits.items()),
            "encoder": f"{config.learning.backbone}, {task.layout.size:,} parameters",
            "mode": config.learning.mode,
            "aggregator": config.aggregator,
            "travels": ", ".join(config.exchange.travels),
            "formats": f"{config.exchange.download_format} down, {config.exchange.update_format} up",
            "runtime": config.runtime,
            "engine": config.engine,
            "seed": str(config.seed),
        }  # fmt: skip
        if (wanted := config.privacy) is not None and (spent := self._records[-1].get("privacy")):
            summary["privacy"] = (
                f"epsilon {spent['epsilon']:.3f} of {wanted.epsilon:g} at delta {wanted.delta:g}, for "
                f"{'one phone replaced by another' if wanted.population else 'one phone left out'}; noise multiplier "
                f"{wanted.noise_multiplier:g}, clipping norm {spent['clip']:.4g}"
            )
        write_report(
            self._folder.path,
            title="pocketfed simulation",
            summary=summary,
            records=self._records,
            before=self._map(before),
            after=self._map(self._model.weights) if self._records[-1]["round"] > 0 else None,
        )

    def _dealt(self, modality: Modality) -> str:
        fleet = self._config.fleet
        by = fleet.photo_partition if modality is Modality.PHOTO else fleet.sound_partition
        return f"Dirichlet {fleet.alpha:g}" if by == "dirichlet" else "group"

    def _record_of(self, outcome: Outcome) -> Record:
        record = run_folder.record_of(outcome)
        return record | {"simulated_seconds": self.clock.seconds} if self._config.fleet.delays else record

    def _keep(self, record: Record) -> None:
        model, layout = self._model, self._task.layout
        checkpoint = Checkpoint(
            record["round"], self._config.seed, model.weights, layout, record, memory=model.memory
        )
        save_checkpoint(self._folder.checkpoints, checkpoint)
        self._note(record)

    def _note(self, record: Record) -> None:
        every = self._config.evaluate_every
        due = record["round"] in (0, self._final) or (every > 0 and record["round"] % every == 0)
        if due:
            judged = {
                modality: accuracy
                for modality, split in self._splits.items()
                if is_labelled(split) and (accuracy := evaluate(self._task, self._model.weights, split))
            }
            record = {
                **record,
                "knn": {str(modality): accuracy.knn for modality, accuracy in judged.items()},
                "probe": {str(modality): accuracy.probe for modality, accuracy in judged.items()},
            }
        self._records.append(record)
        self._metrics.add(record)
        self._metrics.write()
        keep_best(self._folder.checkpoints, self._records)
        self._watcher.finished(record)

    def _map(self, weights: NDArray[np.float32]) -> EmbeddingMap | None:
        tests = {modality: split.test for modality, split in self._splits.items() if len(split.test) > 0}
        if not tests:
            return None
        names = {
            modality: [test.classes[label] if label >= 0 else "" for label in clip_labels(test)]
            for modality, test in tests.items()
        }
        return map_embeddings({m: embed(self._task, weights, test) for m, test in tests.items()}, names, 0)
