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
from storage.checkpoint import prune_checkpoints, write_checkpoint
from storage.errors import ParameterError
from storage.events import Emit
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
    Best,
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
from tasks.lora.stopping import StopRequest
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
        self,
        run: Path,
        place: Path,
        balanced: Path,
        data_digest: str,
        recipe: Recipe,
        emit: Emit,
        ranks: Ranks,
    ) -> None:
        self.folder, self.balanced, self.recipe = run, balanced, recipe
        self.ranks = ranks
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
        self._require_same_start()
        self.progress = Progress(place, recipe, emit, self.state.step, self.state.tokens)
        self._introduce(resumed)
        if self.ranks.leads:
            self._record()

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

    def _record(self) -> None:
        record = run_record(self.recipe, self.base, self.balanced, self.state, self.data, self.adapter)
        write_json(self.folder / RUN, record)

    def work(self, stop: StopRequest) -> dict[str, Any]:
        """Do the steps that are left."""
        model, recipe = self.base.model, self.recipe
        step = TrainingStep(model, self.optimizer, recipe, self.ranks)
        plan = BatchPlan.of(recipe, self.ranks.size)
        stream = BatchStream(self.data.train, plan, self.ranks.rank, self.ranks.size)
        if self.state.step == 0:
            first = self._validate()
            self.state = self.state.model_copy(update={"valid_before": None if first is None else first.fields()})
        before = self.state.seconds
        last: Validation | None = None
        model.train()
        while self.state.step < recipe.max_steps:
            tokens = self._do_step(step, stream, stop)
            if tokens is None:
                self._read_window(step)
                self._save(before)
                raise SystemExit(stop.exit_status)
            self.progress.count(tokens)
            last = self._after_step(step, before)
            if self._hopeless(last):
                self._read_window(step)
                self._note_best(last)
                self._save(before)
                break
        return self._finish(last if last is not None else self._validate())

    def _do_step(self, step: TrainingStep, stream: BatchStream, stop: StopRequest) -> int | None:
        """Do one step and return its tokens; none, and no step, if the process was asked to stop."""
        number, cursor = self.state.step, self.state.cursor
        mx.random.seed((self.recipe.seed << 32) | number)
        tokens = 0
        for _ in range(self.recipe.grad_accum):
            if self.ranks.count(int(stop.signal is not None)):
                step.discard()
                return None
            self.adapter.set_dropout_keys(self.recipe.seed, cursor * self.ranks.size + self.ranks.rank)
            batch = stream.batch(cursor)
            step.accumulate(batch)
            tokens += batch.real_tokens
            cursor += 1
            if self.recipe.thermal_throttle:
                time.sleep(self.recipe.thermal_throttle)
        tokens = self.ranks.count(tokens)
        done = step.update(learning_rate_at(self.recipe, number))
        changes = {"step": number + 1, "cursor": cursor, "tokens": self.state.tokens + tokens}
        self.state = self.state.model_copy(update=changes | self._skips(done))
        return tokens

    def _skips(self, done: bool) -> dict[str, int]:
        """Count a step that changed nothing because its loss or gradient was not finite."""
        if done:
            return {"skipped_in_a_row": 0}
        in_a_row, rate = self.state.skipped_in_a_row + 1, learning_rate_at(self.recipe, self.state.step)
        self.progress.say(f"Step {self.state.step + 1} skipped: its loss or gradient is not finite")
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise ParameterError(
                f"{in_a_row} steps in a row had a loss or gradient that is not finite, the last one step "
                f"{self.state.step + 1} (learning rate {rate:g}); the last checkpoint is kept: start again with a "
                f"lower learning_rate, for example {rate / 4:.1g}, in a new run"
            )
        return {"skipped": self.state.skipped + 1, "skipped_in_a_row": in_a_row}

    def _after_step(self, step: TrainingStep, seconds_before: float) -> Validation | None:
        number, recipe = self.state.step, self.recipe
        last = number == recipe.max_steps
        validating = last or number % recipe.eval_every == 0
        # A run whose steps fail must not push its last good checkpoints out.
        saving = last or (number % recipe.save_every == 0 and not self.state.skipped_in_a_row)
        if validating or saving or number % recipe.report_every == 0:
            self._read_window(step)
        began = time.perf_counter()
        result = self._validate() if validating else None
        if saving:
            self._note_best(result)
            self._save(seconds_before)
        self.progress.pause_clock(time.perf_counter() - began)
        return result

    def _hopeless(self, result: Validation | None) -> bool:
        """Count validations that brought no lower objective, and tell whether there were too many in a row."""
        if result is None or not self.recipe.early_stop:
            return False
        lowest = self.state.lowest_objective
        if lowest is None or result.objective < lowest:
            self.state = self.state.model_copy(update={"lowest_objective": result.objective, "no_better": 0})
        else:
            self.state = self.state.model_copy(update={"no_better": self.state.no_better + 1})
        if self.state.no_better < self.recipe.early_stop:
            return False
        self.progress.say(f"Stopping early: {self.state.no_better} validations in a row without a lower objective")
        return True

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
        result = validate(self.base.model, self.data.valid, self.recipe, self.ranks)
        mx.clear_cache()
        if result is not None:
            self.progress.validation(self.state.step, result)
        return result

    def _note_best(self, result: Validation | None) -> None:
        best = self.state.best
        if result is None or (best is not None and best.valid_objective <= result.objective):
            return
        best = Best(step=self.state.step, valid_objective=result.objective, valid_ce=result.ce)
        self.state = self.state.model_copy(update={"best": best})

    def _save(self, seconds_before: float) -> None:
        self.state = self.state.model_copy(update={"seconds": seconds_before + self.progress.seconds})
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
        result = run_result(self.recipe, self.base, self.state, self.data, self.adapter, last)
        if self.ranks.leads:
            write_json(self.folder / RESULT, result)
        self.progress.say("Training complete!")
        return result
