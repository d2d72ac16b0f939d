"""How the options of a flow are shown: the essential ones first, every other one in a group with a name.

The form in the UI, ``--help`` and the recipes that runs write follow the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import BaseModel

ESSENTIALS = "Essentials"
MOST_ESSENTIALS = 8

ESSENTIAL: dict[str, str] = {
    "download-corpus": "sources max_samples path source_type list_catalogue dry_run recipe store",
    "score-corpus": "sources explain signal scoring recipe store",
    "rebalance-corpus": "mixture train_size val_size sources scale accept_imbalance recipe store",
    "train-adapter": "model mixture run max_steps alpha plan recipe store",
    "evaluate-adapter": "run suites others gate recipe store",
    "export-model": "run export quantize gguf ollama lm_studio_folder recipe store",
    "corpus-to-model": "model max_steps path sources max_samples run recipe store",
    "compare-recipes": "run mixture models objectives alphas max_steps recipe store",
    "check-setup": "load_model fix recipe store",
    "prune-store": "dry_run keep_checkpoints keep_exports keep_days recipe store",
}
"""At most `MOST_ESSENTIALS` fields of each flow, in the order in which a person decides."""

GROUPS: dict[str, str] = {
    "Your own documents": "path source_type name text_column",
    "Download": "sources max_samples catalogue subjects bulk refresh retry_failed concurrency rate_limit "
    "patience_hours list_catalogue dry_run",
    "Scores": "explain run_year scoring coordination max_conflict_share signal signal_mode",
    "Mixture": "mixture train_size val_size scale accept_imbalance min_low_authority jsonl",
    "Chance": "seed",
    "What goes into the mixture": "filter_source min_authority max_authority first_year last_year near_duplicates "
    "clean_pages min_ocr_quality",
    "How samples are made": "prompts lessons_share piece_chars max_pieces",
    "Training: model and length": "run model models quantize_base max_steps epochs early_stop resume_from replace_run",
    "Training: objective": "objective objectives alpha alphas lambda_weight tau weight_cap sampling preference_weight "
    "preference_rows consistency_weight consistency_rows anchor_weight mask_prompt",
    "Training: adapter": "lora_type lora_rank lora_alpha lora_layers lora_dropout target_modules",
    "Training: optimiser": "learning_rate lr_schedule warmup_share optimizer weight_decay clip_norm",
    "Training: memory and heat": "batch_size grad_accum batch_tokens max_seq_length grad_checkpoint plan_memory "
    "thermal_throttle plan memory_gb",
    "Training: checkpoints and reports": "save_every keep_last eval_every val_batches report_every report_to",
    "Evaluation": "suites eval_limit repetition_facts max_new_tokens perplexity_samples eval_seq_length "
    "eval_batch_size questions question_norm lm_eval_tasks lm_eval_limit others gate",
    "Export": "export quantize gguf ollama peft dequantize group_size minimum_top1_agreement "
    "minimum_top1_agreement_quantised",
    "Where an export goes": "lm_studio_folder lm_studio_publisher hub_repository hub_dry_run approve",
    "What is checked": "load_model fix silent_minutes",
    "What is kept": "keep_checkpoints keep_exports keep_days leftover_hours",
    "Where the work runs": "runner workers dask_address store recipe",
}


def grouped(flow: str, fields: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Sort the fields of a flow into groups, the essential ones first; a field is in one group only."""
    left = list(fields)
    for group, names in {ESSENTIALS: ESSENTIAL.get(flow, ""), **GROUPS}.items():
        if found := [name for name in names.split() if name in left]:
            yield group, found
            left = [name for name in left if name not in found]
    if left:
        yield "Others", left


def titles(flow: str, model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Return the title of each field in a form: its own, behind the name of its group unless it is essential."""
    for group, names in grouped(flow, model.model_fields):
        for name in names:
            title = model.model_fields[name].title or name
            yield name, title if group == ESSENTIALS else f"{group} \N{BULLET} {title}"


def in_order(flow: str, fields: Iterable[str]) -> list[str]:
    """Return the fields of a flow in the order in which they are shown."""
    return [name for _, names in grouped(flow, fields) for name in names]
