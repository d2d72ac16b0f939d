"""The training loop: from a mixture and a recipe to an adapter, resumable to the bit."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from storage.atomic import remove_temporaries, write_json
from storage.checkpoint import prune_checkpoints, set_later_aside, write_checkpoint
from storage.errors import ParameterError
from storage.events import Emit
from storage.layout import checkpoint_folder
from storage.training_result import RESULT, RUN
from tasks.lora.adapter import Adapter, attach_adapter, checkpoint_activations, save_adapter
from tasks.lora.base_model import resolve_base
from tasks.lora.batches import BatchPlan, BatchStream
from tasks.lora.data import TrainingData, load_training_data
from tasks.lora.loaded_base import LoadedBase, load_base
from tasks.lora.machine import describe_device, limit_memory
from tasks.lora.progress import Progress
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import Recipe
from tasks.lora.record import run_record, run_result
from tasks.lora.resume import (
    RunState,
    check_same_run,
    find_checkpoint,
    finished_result,
    read_run_state,
    restore_tensors,
    save_optimizer,
)
from tasks.lora.schedule import learning_rate_at
from tasks.lora.step import TrainingStep, make_optimizer
from tasks.lora.stopping import StopAsked, StopRequest
from tasks.lora.tracking import open_tracker
from tasks.lora.validation import Validation, validate

MAX_SKIPPED_IN_A_ROW = 10
"""Steps without a finite gradient after which going on is hopeless."""


def train(run: Path, balanced: Path, mixture_digest: str, recipe: Recipe, emit: Emit) -> dict[str, Any]:
    """Train an adapter, or continue where an earlier process stopped, or return what it finished.

    Args:
        run: The run's folder; checkpoints, log and metrics go there.
        balanced: The mixture's folder.
        mixture_digest: The mixture's digest; a checkpoint continues on the same mixture only.
        recipe: The recipe.
        emit: Receives ``log``, ``progress``, ``validation`` and ``checkpoint`` events.

    Returns:
        The run's result; ``adapter`` is the final checkpoint's folder, relative to `run`.

    Raises:
        UserError: Something that a person can mend; the last checkpoint stays.
        SystemExit: The process was asked to stop; a checkpoint was saved.
    """
    if finished := finished_result(run, recipe, mixture_digest):
        emit("log", message=f"{run} is finished already: {finished['steps']} steps, {finished['adapter']}")
        return finished
    run.mkdir(parents=True, exist_ok=True)
    remove_temporaries(run)
    ranks = Ranks.join()
    with ranks.voice(run, emit) as (place, emit):
        work = _Run(run, place, balanced, mixture_digest, recipe, emit, ranks)
        with StopRequest() as stop:  # not before: there is nothing to save while the model loads
            return work.work(stop)


class _Run:
    """One process's share of a run."""

    def __init__(
        self, run: Path, place: Path, balanced: Path, data_digest: str, recipe: Recipe, emit: Emit, ranks: Ranks
    ) -> None:
        self.folder, self.recipe, self.ranks = run, recipe, ranks
        emit("log", message=f"Loading model: {recipe.model}")
        path = resolve_base(recipe.model, quantise=recipe.quantize_base, log=lambda line: emit("log", message=line))
        limit_memory()
        self.base: LoadedBase = load_base(path)
        self.adapter: Adapter = attach_adapter(self.base.model, recipe)
        if recipe.grad_checkpoint:
            checkpoint_activations(self.base.model)
        self.optimizer: optim.Optimizer = make_optimizer(recipe)
        self.optimizer.init(self.base.model.trainable_parameters())
        self.data: TrainingData = load_training_data(balanced, self.base.encode, self.base.end_token, recipe)
        self.recipe = recipe = recipe.for_sequences(-(-len(self.data.train) // self.ranks.size))
        self.state = RunState(
            Z=self.data.normaliser,
            recipe=recipe.identity(),
            recipe_digest=recipe.digest,
            data_digest=data_digest,
            base=self.base.digest,
            device=describe_device(),
            processes=self.ranks.size,
            resumed_from=recipe.resume_from,
        )
        resumed = self._resume(lambda line: emit("log", message=line))
        self._seconds_before = self.state.seconds
        self._require_same_start()
        tracker = open_tracker(recipe, run) if self.ranks.leads else None
        self.progress = Progress(place, recipe, emit, self.state.step, self.state.tokens, tracker)
        self._introduce(resumed)
        if self.ranks.leads:  # the others have read their checkpoint by now
            self._set_later_aside()
            write_json(run / RUN, run_record(recipe, self.base, balanced, self.state, self.data, self.adapter))

    def _require_same_start(self) -> None:
        state = self.state
        digests = {"base model": state.base, "mixture": state.data_digest, "recipe": state.recipe_digest}
        numbers = {name: zlib.crc32(digest.encode()) for name, digest in digests.items()}
        self.ranks.require_same({"checkpoint": state.step, **numbers})

    def _resume(self, say: Callable[[str], None]) -> Path | None:
        checkpoint = find_checkpoint(self.folder, self.recipe, say)
        if checkpoint is None:
            return None
        saved = read_run_state(checkpoint)
        check_same_run(saved, self.state, checkpoint, self.recipe.max_steps)
        restore_tensors(checkpoint, self.base.model, self.optimizer)
        self._other_device = saved.device != self.state.device
        self.state = saved.model_copy(update={"device": self.state.device, "resumed_from": self.recipe.resume_from})
        return checkpoint

    def _introduce(self, resumed: Path | None) -> None:
        say = self.progress.say
        say(f"Model ready for training with LoRA rank={self.recipe.lora_rank}")
        say(self.adapter.summary)
        counts = self.data.counts
        say(f"Loaded {counts['train_samples']} training samples as {counts['train_sequences']} sequences")
        say(f"Loaded {counts['valid_samples']} validation samples")
        for warning in self.data.warnings():
            say(warning)
        if resumed is not None:
            say(f"Resuming from {resumed} at step {self.state.step}")
            if self._other_device:
                say(
                    "The checkpoint comes from another device or library version: the run continues, but not to the bit"
                )
        say(f"Starting training for {self.recipe.max_steps - self.state.step} iterations...")

    def _set_later_aside(self) -> None:
        if aside := set_later_aside(self.folder, self.state.step):
            self.progress.say(f"Checkpoints beyond step {self.state.step} are of another course; they lie in {aside}")

    def work(self, stop: StopRequest) -> dict[str, Any]:
        """Do the steps that are left; asked to stop, save what is done and leave."""
        self._stop = stop
        step = TrainingStep(self.base.model, self.optimizer, self.recipe, self.ranks)
        try:
            last = self._train(step)
            return self._finish(last if last is not None else self._validate())
        except StopAsked:
            self._read_window(step)
            if self.state.step:
                self._save()
            raise SystemExit(stop.exit_status) from None

    def _heed_stop(self) -> None:
        """Raise `StopAsked` if a process was asked to stop; those that train together ask this at the same moments."""
        if self.ranks.count(int(self._stop.signal is not None)):
            raise StopAsked

    def _train(self, step: TrainingStep) -> Validation | None:
        """Do the steps that are left; return the validation after the last of them, if one was due."""
        plan = BatchPlan.of(self.recipe, self.ranks.size)
        stream = BatchStream(self.data.train, plan, self.ranks.rank, self.ranks.size)
        if self.state.step == 0:
            first = self._validate()
            self.state = self.state.model_copy(update={"valid_before": None if first is None else first.fields()})
        self.base.model.train()
        last = self._conclude() if self.state.validation_pending else None
        while self.state.step < self.recipe.max_steps and not self._hopeless():
            self.progress.count(self._do_step(step, stream))
            last = self._after_step(step)
        if self.state.step < self.recipe.max_steps:
            self.progress.say(f"Stopping early: {self.state.no_better} validations in a row without a lower objective")
        return last

    def _do_step(self, step: TrainingStep, stream: BatchStream) -> int:
        """Do one step and return its tokens.

        Raises:
            StopAsked: The process was asked to stop; the step is not done.
        """
        number, cursor = self.state.step, self.state.cursor
        mx.random.seed((self.recipe.seed << 32) | number)
        tokens = 0
        for _ in range(self.recipe.grad_accum):
            self._heed_stop()
            self.adapter.set_dropout_keys(self.recipe.seed, cursor * self.ranks.size + self.ranks.rank)
            batch = stream.batch(cursor)
            step.accumulate(batch)
            tokens += batch.real_tokens
            cursor += 1
            if self.recipe.thermal_throttle:
                time.sleep(self.recipe.thermal_throttle)
        tokens = self.ranks.count(tokens)
        rate = learning_rate_at(self.recipe, number)
        done = step.update(rate)
        self.state = self.state.after_step(done, cursor, tokens)
        if not done:
            self._heed_skip(rate)
        return tokens

    def _heed_skip(self, rate: float) -> None:
        """Tell of a step that changed nothing because its loss or gradient was not finite; give up after many."""
        number, in_a_row = self.state.step, self.state.skipped_in_a_row
        self.progress.say(f"Step {number} skipped: its loss or gradient is not finite")
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise ParameterError(
                f"{in_a_row} steps in a row had a loss or gradient that is not finite, the last one step "
                f"{number} (learning rate {rate:g}); the last checkpoint is kept: start again with a "
                f"lower learning_rate, for example {rate / 4:.1g}, in a new run"
            )

    def _after_step(self, step: TrainingStep) -> Validation | None:
        number, recipe = self.state.step, self.recipe
        validating = number == recipe.max_steps or number % recipe.eval_every == 0
        if validating or self._saves_here() or number % recipe.report_every == 0:
            self._read_window(step)
        self.state = self.state.model_copy(update={"validation_pending": validating})
        return self._conclude()

    def _conclude(self) -> Validation | None:
        """Validate and save where that is due after a step, in this order: a checkpoint knows its own verdict."""
        began = time.perf_counter()
        result = None
        if self.state.validation_pending:
            result = self._validate()
            self.state = self.state.after_validation(result)
        if self._saves_here() or self._hopeless():
            self.state = self.state.with_best(result)
            self._save()
        self.progress.pause_clock(time.perf_counter() - began)
        return result

    def _saves_here(self) -> bool:
        number, recipe = self.state.step, self.recipe
        # A run whose steps fail must not push its last good checkpoints out.
        return number == recipe.max_steps or (number % recipe.save_every == 0 and not self.state.skipped_in_a_row)

    def _hopeless(self) -> bool:
        """Tell whether there were too many validations in a row that brought no lower objective."""
        return 0 < self.recipe.early_stop <= self.state.no_better

    def _read_window(self, step: TrainingStep) -> None:
        if step.window_steps == 0:
            return
        number = self.state.step
        rate = learning_rate_at(self.recipe, number - 1)
        means = step.read_window()
        if means.steps == 0:
            return  # all were skipped; there is no mean to report
        self.progress.report(number, means, rate)
        self.state = self.state.model_copy(update={"train_ce": means.ce})

    def _validate(self) -> Validation | None:
        if self.data.valid is None:
            return None
        result = validate(self.base.model, self.data.valid, self.recipe, self.ranks, self._heed_stop)
        mx.clear_cache()
        if result is not None:
            self.progress.validation(self.state.step, result)
        return result

    def _save(self) -> None:
        self.state = self.state.model_copy(update={"seconds": self._seconds_before + self.progress.seconds})
        if not self.ranks.leads:
            return

        def write_files(folder: Path) -> None:
            save_adapter(folder, self.base.model, self.adapter, self.recipe)
            save_optimizer(folder, self.optimizer)

        folder = write_checkpoint(self.folder, self.state.step, write_files, self.state.model_dump(mode="json"))
        self.progress.checkpoint(self.state.step, folder)
        keep = frozenset({self.state.best.step}) if self.state.best else frozenset()
        prune_checkpoints(self.folder, self.recipe.keep_last, keep)

    def _finish(self, last: Validation | None) -> dict[str, Any]:
        if not checkpoint_folder(self.folder, self.state.step).is_dir():
            self._save()  # there was no step to do after a checkpoint that lies elsewhere
        result = run_result(self.recipe, self.base, self.state, self.data, self.adapter, last)
        if self.ranks.leads:
            write_json(self.folder / RESULT, result)
        self.progress.say("Training complete!")
        return result
