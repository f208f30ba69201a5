"""An evaluation of masks from top to bottom: encoder, source, rounds, drawings, numbers, report."""

import oct_xla
from oct_launch import EXIT_STOPPED, Launch, Stages, mistakes, print_table

from oct_judge.asking import Stopped
from oct_judge.beginning import in_run_folder, open_tested, open_token_rivals
from oct_judge.board.entry import entry_of
from oct_judge.family import Family
from oct_judge.findings.origin import command_of
from oct_judge.finished.spoilt_masks import spoil_masks
from oct_judge.masks.candidates import Draughtsmen
from oct_judge.masks.dicom import write_dicom_masks
from oct_judge.masks.keeping import keep_mask_model
from oct_judge.masks.measuring import Ruler, write_measures
from oct_judge.masks.page import write_mask_page
from oct_judge.masks.results import FoundMasks, describe_masks, mask_table, note_origin, write_masks
from oct_judge.masks.study import open_masks, refuse_unread
from oct_judge.question import FinetuneConfig
from oct_judge.segmenting import check_recipe
from oct_judge.touches import touch_tested


def run_masks(config: FinetuneConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    refuse_unread(launch, "compare.together")
    with mistakes(ValueError):
        check_recipe(config.training)
    return in_run_folder(config, launch, evaluate_masks)


def evaluate_masks(
    config: FinetuneConfig,
    launch: Launch,
    family: Family,
    runtime: oct_xla.Runtime,
    folder: oct_xla.RunFolder,
) -> int:
    """Have everybody draw, and measure it in a claimed folder; returns the exit code."""
    with Stages() as stages:
        study = open_tested(config, family, open_masks, stages)
        cast = Draughtsmen(
            config=config,
            study=study,
            family=family,
            runtime=runtime,
            folder=folder.path,
            rivals=open_token_rivals(config, study, family.config),
        )
        try:
            with mistakes(ValueError):
                drawings = cast.ask(stages)
                few = list(cast.ask_with_few_masks()) if config.compare.fractions else []
        except Stopped as stopped:
            print(stopped)
            return EXIT_STOPPED
        if runtime.rank != 0:
            return 0
        touches = touch_tested(config, study, family)
        found = FoundMasks(
            config=config,
            study=study,
            drawings=drawings,
            few=few,
            touches=touches,
            command=command_of(launch.app, launch.given),
        )
        ruler = Ruler(study, config)
        readings = ruler.read_all(drawings, stages)
        document = describe_masks(found, ruler, readings)
        document["perturbations"] = spoil_masks(found, document, cast, stages)
        document["entry"] = entry_of(launch.settings, family.fingerprint())
        files = write_masks(folder.path, found, document)
        write_measures(folder.path, study, config, ruler.metrics, readings)
        if config.segment.dicom:
            write_dicom_masks(study.volumes, study.names, config.data, files, stages)
    told = note_origin(folder.path, config, study, family, runtime, touches)
    model = keep_mask_model(folder.path, found, runtime, document, told)
    report = write_mask_page(folder.path, found, document, told)
    print_table(*mask_table(document))
    print(document["sentence"])
    print(f"model: {folder.name_of(model)}")
    print(f"report: {folder.name_of(report)}")
    return 0
