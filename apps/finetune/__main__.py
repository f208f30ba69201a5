"""Judge an encoder: what it knows about a label, beside random init and what nobody trained.

uv run apps/finetune                                     probes runs/phantom/encoder for `thin`
uv run apps/finetune task=fluid mode=knn                 another label, another way to ask
uv run apps/finetune mode=full training.epochs=20        train all of it, not only a probe
uv run apps/finetune protocol.name=kfold seeds=3         everybody tested once, three times over
uv run apps/finetune -m encoder=A,B mode=linear,full seed=1,2,3 sweep.jobs=2    and a leaderboard
uv run apps/finetune encoder=DIR data=aireadi data.root=PLACE task=diabetes4
uv run apps/finetune predict=FOLDER model=RUN/model      new scans scored, marked where unlike
uv run apps/finetune --help                              every setting, its value and its text
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is one of Python's after ending_at_once

import sys
from collections.abc import Sequence

from oct_judge.board.finish import encoder_of_run, encoder_of_settings, headline, write_leaderboards
from oct_judge.question import FinetuneConfig
from oct_launch import Launch, Sweeping, app, ending_at_once

SHORT = {"encoder=": "weights=", "experiment=": "evaluation="}
"""Words of pretraining that the command line takes as well."""

SWEEPING = Sweeping(
    has_read=encoder_of_run,
    will_read=encoder_of_settings,
    finish=write_leaderboards,
)


@app("finetune", FinetuneConfig, headline=headline, sweeping=SWEEPING)
def finetune(config: FinetuneConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    with ending_at_once():
        from oct_judge.evaluation import run  # brings torch: a misspelt setting need not wait

    return run(config, launch)


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Turn `encoder=` into `weights=` and `experiment=` into `evaluation=`.

    Hydra takes the former for pretraining's groups of configs.
    """
    spelt = list(arguments)
    for short, meant in SHORT.items():
        spelt = [meant + one[len(short) :] if one.startswith(short) else one for one in spelt]
    return spelt


if __name__ == "__main__":
    sys.argv[1:] = spell_out(sys.argv[1:])
    finetune()
