"""An evaluation from top to bottom: encoder, folder, source, question, answers, verdict, report."""

from pathlib import Path

import oct_xla
from oct_launch import (
    EXIT_STOPPED,
    Launch,
    Stages,
    mistakes,
    print_table,
)
from oct_vjepa.trials.prevalence import check_prevalence

from oct_judge.asking import Stopped, ask_everyone, ask_with_few_labels
from oct_judge.beginning import in_run_folder, open_rivals, open_tested
from oct_judge.board.entry import entry_of
from oct_judge.board.tracking import send_results
from oct_judge.candidates import Cast, Embedder
from oct_judge.checking import check_training
from oct_judge.family import Family
from oct_judge.findings.further import look_further
from oct_judge.findings.origin import command_of
from oct_judge.finished.keeping import keep_model
from oct_judge.finished.predicting import predict_folder
from oct_judge.finished.spoiling import spoil
from oct_judge.masks.evaluation import run_masks
from oct_judge.masks.where import run_patches
from oct_judge.page import write_page
from oct_judge.pools import tell_kept
from oct_judge.question import PATCHES, SEGMENT, FinetuneConfig
from oct_judge.recipe import ENCODER_LEARNS
from oct_judge.results import Found, describe, table_of, write_results
from oct_judge.rivals.answers import ask_rivals, check_rivals
from oct_judge.rivals.encoders import candidate
from oct_judge.study import met_by, open_study
from oct_judge.touches import touch_tested


def run(config: FinetuneConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    if config.predict:
        return predict_folder(config, launch)
    if config.mode == SEGMENT:
        return run_masks(config, launch)
    if config.mode == PATCHES:
        return run_patches(config, launch)
    launch.refuse_unread("data.label_columns", "task.column=NAME asks for one column")
    return in_run_folder(config, launch, evaluate)


def evaluate(
    config: FinetuneConfig,
    launch: Launch,
    family: Family,
    runtime: oct_xla.Runtime,
    folder: oct_xla.RunFolder,
) -> int:
    """Ask everybody, and write what they say to a claimed folder; returns the exit code."""
    with Stages() as stages:
        study = open_tested(config, family, open_study, stages)
        check_rivals(config, study.source.volumes.shape)
        check_training(config, study, runtime)
        if config.training.grid.asked:
            stages.say(tell_kept(config.training, family.config, len(study.examples.volumes)))
        rivals = open_rivals(config, study)
        if config.compare.prevalence:
            with mistakes(ValueError):
                check_prevalence(config.compare.prevalence, study.target)
        embed = Embedder(Path(config.features), runtime, config.readout, config.batch_size)
        cast = Cast(family, embed, study.rows)
        try:
            with mistakes(ValueError):  # such as a class that no test participant has
                answers = ask_everyone(config, study, cast, runtime, folder.path, stages)
                answers |= ask_rivals(
                    config, study, cast, runtime, folder.path, stages, answers, rivals
                )
                further = [candidate(one, embed, study.rows) for one in rivals]
                few = list(
                    ask_with_few_labels(config, study, cast, runtime, folder.path, stages, further)
                )
        except Stopped as stopped:
            print(stopped)
            return EXIT_STOPPED
        if runtime.rank != 0:
            return 0
        touches = touch_tested(config, study, family)
        found = Found(
            config=config,
            study=study,
            cast=cast,
            answers=answers,
            few=few,
            touches=touches,
            encoders=rivals,
        )
        command = command_of(launch.app, launch.given)
        seen = look_further(found, command, folder.path, stages)
        document = describe(found, stages) | seen.document
        document["perturbations"] = spoil(found, document, folder.path, stages)
    fingerprint, source = family.fingerprint(), study.source
    document["entry"] = entry_of(launch.settings, fingerprint)
    extra = {
        "encoder": fingerprint,
        "dataset_fingerprint": source.volumes.fingerprint,
        "made_up_data": source.made_up,
        "scans_by_flag": dict(source.flags),
        "scans_left_out_for_flags": source.flagged_out,
        "remarks": list(source.remarks),
        "split": study.examples.split_rule,
        "label_rules": dict(source.label_rules),
        "test_touches": touches,
        **met_by(study, family, trained=config.mode in ENCODER_LEARNS),
    }
    told = oct_xla.write_provenance(folder.path, runtime, seed=config.seed, extra=extra)
    write_results(folder.path, found, document)
    seen.write(folder.path)
    model = keep_model(folder.path, found, document, told)
    send_results(config, folder, document, model)
    print_table(*table_of(document))
    print(document["sentence"])
    print(f"model: {folder.name_of(model)}")
    print(f"report: {folder.name_of(write_page(folder.path))}")
    return 0
