"""An evaluation from top to bottom: encoder, folder, source, features, probes, results."""

import json
from functools import partial
from pathlib import Path

import oct_io
import oct_vjepa
import oct_xla
import torch
from oct_io.catalog.releases import refuse_seen
from oct_launch import (
    Launch,
    Stages,
    check_positions,
    check_window,
    mistakes,
    print_table,
    refuse_url,
)
from oct_vjepa.evaluation.encoders import Examples, probe_encoders
from oct_vjepa.evaluation.features import Features, load_or_embed
from oct_vjepa.model.weights import weights_fingerprint
from oct_vjepa.probes.comparison import COLUMNS, as_cells
from question import FinetuneConfig
from results import write_results


def run(config: FinetuneConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    refuse_url("features", config.features)
    launch.refuse_unread("data.label_columns", "task.column=NAME asks for one column")
    encoder = oct_vjepa.Encoder.from_pretrained(config.weights)
    taken, column = encoder.config.input_shape, config.task.column
    with mistakes(ValueError):
        trained = f"the encoder in {config.weights} was trained on {taken}; choose its window"
        check_window(config.data.window, taken, otherwise=trained)
        runtime = config.runtime.pick()
    folder = launch.claim_run_folder("it", may_change=("*",))
    with Stages() as stages:
        source = oct_io.open_source(config.data, stages)
        for remark in source.remarks:
            stages.say(remark)
        with mistakes(ValueError):
            unit, spacings = encoder.config.position_unit, source.volumes.spacings
            check_positions(unit, source.volumes.shape, spacings)
        examples = source.labelled(column, test_split=config.test_split)
        stages.say(f"{column}: {examples.describe()}")
    if not config.allow_seen:
        check_test_set(config, source, examples)
    torch.manual_seed(config.seed)
    encoders = {"pretrained": encoder, "random init": oct_vjepa.Encoder(encoder.config)}
    with mistakes(ValueError):  # such as a class that no test participant has
        find = partial(embed, config, runtime)
        rows = probe_encoders(config.probe(), encoders, {column: examples}, find, seed=config.seed)
    extra = {
        "encoder": weights_fingerprint(encoder),
        "dataset_fingerprint": source.volumes.fingerprint,
        "made_up_data": source.made_up,
        "scans_by_flag": dict(source.flags),
        "scans_left_out_for_flags": source.flagged_out,
        "remarks": list(source.remarks),
        "split": examples.split_rule,
    }
    oct_xla.write_provenance(folder.path, runtime, seed=config.seed, extra=extra)
    write_results(folder.path, rows, examples, made_up=source.made_up)
    print_table(COLUMNS, as_cells(rows))
    print(f"report: {folder.path / 'report.html'}")
    folder.release()
    return 0


def check_test_set(
    config: FinetuneConfig, source: oct_io.Source, examples: oct_io.LabelledVolumes
) -> None:
    """Refuse test participants whom the encoder's run, if it lies there, has trained on."""
    provenance = Path(config.weights).parent / "provenance.json"
    if provenance.exists():
        refuse_seen(
            json.loads(provenance.read_text(encoding="utf-8")),
            set(examples.participants[examples.held_out].tolist()),
            fingerprint=source.volumes.fingerprint,
            version=source.version,
        )


def embed(
    config: FinetuneConfig,
    runtime: oct_xla.Runtime,
    encoder: oct_vjepa.Encoder,
    examples: Examples,
) -> Features:
    """Features of all examples, from disk if they are there in this precision."""
    folder = Path(config.features)
    with runtime.autocast():
        return load_or_embed(
            encoder,
            examples.volumes,
            volumes_fingerprint=examples.fingerprint,
            folder=folder if runtime.precision == "fp32" else folder / runtime.precision,
            batch_size=config.batch_size,
            device=runtime.device,
            spacing=examples.volumes.spacings,
        )
