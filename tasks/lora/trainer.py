"""The training loop: from a mixture and a recipe to an adapter, resumable to the bit."""

from __future__ import annotations

import tempfile
import time
import zlib
from contextlib import ExitStack
from pathlib import Path

import mlx.core as mx

from storage.atomic import remove_temporaries
from storage.checkpoint import prune_checkpoints, set_later_aside, write_checkpoint
from storage.events import Emit
from storage.layout import checkpoint_folder
from storage.training_result import RunFacts, RunRecord, TrainingResult
from tasks.lora.adapter import attach_adapter, checkpoint_activations, save_adapter
from tasks.lora.base_model import load_base, public_name, resolve_base
from tasks.lora.batches import BatchPlan, BatchStream
from tasks.lora.data import load_training_data
from tasks.lora.lessons import LessonStream
from tasks.lora.process import StopAsked, StopRequest, describe_device, limit_memory, stop_request
from tasks.lora.ranks import Ranks
from tasks.lora.recipe import Recipe
from tasks.lora.report import RunReport, open_tracker
from tasks.lora.resume import RunState, find_checkpoint, finished_result, layout_of_run, resume, save_optimizer
from tasks.lora.step import TrainingStep, learning_rate_at, make_optimizer
from tasks.lora.terms import ask_base
from tasks.lora.validation import Validation, validate


def train(
    run: Path, balanced: Path, mixture_digest: str, recipe: Recipe, emit: Emit, ranks: Ranks | None = None
) -> TrainingResult:
    """Train an adapter, or continue where an earlier process stopped, or return what it finished.

    The result's ``adapter`` is the final checkpoint's folder, relative to the folder of the run.

    Raises:
        UserError: Something that a person can mend; the last checkpoint stays.
        SystemExit: The process was asked to stop; a checkpoint was saved.
    """
    if finished := finished_result(run, recipe, mixture_digest):
        emit("log", message=f"{run} is finished already: {finished.steps} steps, {finished.adapter}")
        return finished
    run.mkdir(parents=True, exist_ok=True)
    remove_temporaries(run)
    ranks, reports = ranks or Ranks(), run
    with ExitStack() as stack:
        if not ranks.leads:  # its reports are not read
            reports, emit = Path(stack.enter_context(tempfile.TemporaryDirectory())), lambda event, **fields: None
        training = _Training(run, reports, balanced, mixture_digest, recipe, emit, ranks)
        with stop_request() as stop:  # not before: there is nothing to save while the model loads
            return training.run(stop)


class _Training:
    """A run as one of its processes sees it: the model, the data, and how far it is."""

    def __init__(
        self, folder: Path, reports: Path, balanced: Path, digest: str, recipe: Recipe, emit: Emit, ranks: Ranks
    ) -> None:
        def log(line: str) -> None:
            emit("log", message=line)

        log(f"Loading model: {recipe.model}")
        path = resolve_base(recipe.model, quantise=recipe.quantize_base, log=log)
        limit_memory()
        self.folder, self.ranks = folder, ranks
        self.base = load_base(path)
        self.adapter = attach_adapter(self.base.model, recipe)
        if recipe.grad_checkpoint:
            checkpoint_activations(self.base.model)
        self.optimizer = make_optimizer(recipe)
        self.optimizer.init(self.base.model.trainable_parameters())
        checkpoint = find_checkpoint(folder, recipe, log)
        layout = layout_of_run(checkpoint, self.base.tokenizer, log)
        self.data = load_training_data(balanced, layout, recipe)
        self.recipe = recipe = recipe.for_sequences(-(-len(self.data.train) // ranks.size))
        fresh = RunState(
            Z=self.data.facts.Z,
            recipe=recipe.identity(),
            recipe_digest=recipe.digest,
            data_digest=digest,
            base=self.base.digest,
            layout=layout.name,
            device=describe_device(),
            processes=ranks.size,
            resumed_from=recipe.resume_from,
        )
        self.state, resumed = resume(checkpoint, recipe, fresh, self.base.model, self.optimizer)
        self.seconds_before = self.state.seconds
        digests = {"base model": fresh.base, "mixture": digest, "recipe": recipe.digest}
        numbers = {name: zlib.crc32(text.encode()) for name, text in digests.items()}
        ranks.require_same({"checkpoint": self.state.step, **numbers})
        track = open_tracker(recipe if ranks.leads else Recipe(), folder)
        self.report = RunReport(reports, recipe, emit, self.state.step, self.state.tokens, track)
        self.facts = RunFacts(
            **self.data.facts.model_dump(),
            model=public_name(recipe.model),
            model_path=str(self.base.path),
            trainable=self.adapter.trainable,
            parameters=self.adapter.parameters,
        )
        both_sides = self.data.train_lessons, self.data.valid_lessons
        self.train_lessons, self.valid_lessons = (ask_base(self.base.model, side, recipe) for side in both_sides)
        self.introduce(resumed)
        if ranks.leads:  # the others have read their checkpoint by now
            self.begin_record(balanced)

    def introduce(self, resumed: list[str]) -> None:
        """Say what is trained, on what and from where on."""
        facts = self.data.facts
        for line in (
            f"Model ready for training with LoRA rank={self.recipe.lora_rank}",
            self.adapter.summary,
            f"Loaded {facts.train_samples} training samples as {facts.train_sequences} sequences",
            f"Loaded {facts.valid_samples} validation samples",
            *(["Speaking the base model's own chat template"] if self.state.layout.startswith("template") else []),
            *self.data.describe_terms(self.recipe),
            *self.data.warnings(),
            *resumed,
            f"Starting training for {self.recipe.max_steps - self.state.step} iterations...",
        ):
            self.report.log(line)

    def begin_record(self, balanced: Path) -> None:
        """Move the checkpoints of another course away, and write the run's record."""
        if superseded := set_later_aside(self.folder, self.state.step):
            self.report.log(
                f"Checkpoints beyond step {self.state.step} belong to an earlier course of the run; "
                f"moved to {superseded}"
            )
        RunRecord(
            **self.facts.model_dump(),
            balanced=str(balanced.resolve()),
            mixture_digest=self.state.data_digest,
            recipe=self.recipe.model_dump(mode="json"),
            device=self.state.device,
            layout=self.state.layout,
        ).write(self.folder)

    def run(self, stop: StopRequest) -> TrainingResult:
        """Do the steps that are left; asked to stop, save what is done and leave."""
        self.stop = stop
        recipe, state, ranks = self.recipe, self.state, self.ranks
        step = TrainingStep(self.base.model, self.optimizer, recipe, ranks)
        stream = BatchStream(self.data.train, BatchPlan.of(recipe, ranks.size), ranks.rank, ranks.size)
        lessons = LessonStream(self.train_lessons, recipe, ranks.rank, ranks.size)
        last: Validation | None = None
        try:
            if state.step == 0 and (first := self.validate()):
                state.valid_before = first.fields()
            self.base.model.train()
            if state.validation_pending:
                last = self.validate_and_save()
            while state.step < recipe.max_steps and not self.learns_no_more:
                mx.random.seed((recipe.seed << 32) | state.step)
                tokens = 0
                for cursor in range(state.cursor, state.cursor + recipe.grad_accum):
                    self.leave_if_asked()
                    self.adapter.set_dropout_keys(recipe.seed, cursor * ranks.size + ranks.rank)
                    batch = stream.batch(cursor)
                    step.accumulate(batch)
                    tokens += batch.real_tokens
                    time.sleep(recipe.thermal_throttle)
                for lesson_batch in lessons.batches(state.step):
                    self.adapter.set_dropout_keys(recipe.seed, lesson_batch.dropout_key)
                    step.accumulate_term(lesson_batch)
                tokens = ranks.count(tokens)
                rate = learning_rate_at(recipe, state.step)
                done = step.update(rate)
                state.count_step(done, recipe.grad_accum, tokens)
                if not done:
                    self.report.skip(state.step, state.skipped_in_a_row, rate)
                self.report.count(tokens)
                state.validation_pending = state.step == recipe.max_steps or state.step % recipe.eval_every == 0
                if state.validation_pending or self.saves_here or state.step % recipe.report_every == 0:
                    self.report_steps(step)
                last = self.validate_and_save()
            if state.step < recipe.max_steps:
                self.report.log(f"Stopping early: {state.no_better} validations in a row without a lower objective")
            return self.finish(last or self.validate())
        except StopAsked:
            self.report_steps(step)
            if state.step:
                self.save()
            raise SystemExit(stop.exit_status) from None

    @property
    def saves_here(self) -> bool:
        """Whether a checkpoint is due; a run whose steps fail must not push its last good checkpoints out."""
        step, recipe = self.state.step, self.recipe
        return step == recipe.max_steps or (step % recipe.save_every == 0 and not self.state.skipped_in_a_row)

    @property
    def learns_no_more(self) -> bool:
        """Whether the recipe's number of validations in a row brought no lower objective."""
        return 0 < self.recipe.early_stop <= self.state.no_better

    def leave_if_asked(self) -> None:
        """Raise `StopAsked` if a process was asked to stop; those that train together ask this at the same moments."""
        if self.ranks.count(int(self.stop.signal is not None)):
            raise StopAsked

    def report_steps(self, step: TrainingStep) -> None:
        """Report the means since the last report; nothing if all steps were skipped, or there was none."""
        if step.window_steps and (means := step.read_window()).steps:
            number = self.state.step
            self.report.steps(number, means, learning_rate_at(self.recipe, number - 1))
            self.state.train_ce = means.ce

    def validate(self) -> Validation | None:
        """Measure and report the loss on the validation set; none if there is no such set."""
        model, valid = self.base.model, self.data.valid
        if valid is None:
            return None
        result = validate(model, valid, self.recipe, self.ranks, self.leave_if_asked, self.valid_lessons)
        mx.clear_cache()
        if result is not None:
            self.report.validation(self.state.step, result)
        return result

    def validate_and_save(self) -> Validation | None:
        """Validate and save where that is due after a step, in this order: a checkpoint knows its own verdict."""
        began = time.perf_counter()
        result = None
        if self.state.validation_pending:
            result = self.validate()
            self.state.count_validation(result)
        if self.saves_here or self.learns_no_more:
            self.state.note_best(result)
            self.save()
        self.report.pause_clock(time.perf_counter() - began)
        return result

    def save(self) -> None:
        """Write a checkpoint, and remove those that are too old."""
        self.state.seconds = self.seconds_before + self.report.seconds
        if not self.ranks.leads:
            return

        def write_files(folder: Path) -> None:
            save_adapter(folder, self.base.model, self.adapter, self.recipe)
            save_optimizer(folder, self.optimizer)

        folder = write_checkpoint(self.folder, self.state.step, write_files, self.state.model_dump(mode="json"))
        self.report.checkpoint(self.state.step, folder)
        keep = frozenset({self.state.best.step}) if self.state.best else frozenset()
        prune_checkpoints(self.folder, self.recipe.keep_last, keep)

    def finish(self, last: Validation | None) -> TrainingResult:
        """Write and return the result; `last` is the last validation."""
        state = self.state
        final = checkpoint_folder(self.folder, state.step)
        if not final.is_dir():
            self.save()  # there was no step to do after a checkpoint that is stored elsewhere
        before, after = state.valid_before or {}, last.fields() if last else {}
        measured = {f"{name}_before": value for name, value in before.items()}
        measured |= {f"{name}_after": value for name, value in after.items()}
        result = TrainingResult(
            **self.facts.model_dump(),
            steps=state.step,
            length=self.recipe.length,
            early_stop=self.recipe.early_stop,
            adapter=final.name,
            best=state.best,
            train_ce=state.train_ce,
            **measured,
            trained_tokens=state.tokens,
            skipped_steps=state.skipped,
            seconds=round(state.seconds, 3),
            recipe_digest=state.recipe_digest,
            data_digest=state.data_digest,
        )
        if self.ranks.leads:
            result.write(self.folder)
        self.report.log("Training complete!")
        return result
