"""What a run's results say of what was asked how, so that leaderboards can tell runs apart."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

SAME_RESULT = (
    *(
        "run_dir",
        "name",
        "features",
        "batch_size",
        "runtime",
        "tracking",
        "bootstrap",
        "evaluation",
    ),
    *("weights", "predict", "model", "out", "compare"),
    *("data.root", "data.cache", "data.kept", "data.kept_gb", "data.jobs", "data.storage"),
    *("data.label_columns", "segment.unet", "segment.trivial", "segment.dicom"),
)
"""Settings that two entries of a leaderboard do not differ by: where things lie, who stands beside
the encoder, and the encoder's place, for its fingerprint says more."""

NOT_SEEN = ("allow_seen", "False")
"""As it should be; who may have seen those who are tested is another entry."""


def entry_of(settings: DictConfig, fingerprint: str) -> dict[str, Any]:
    """What results.json keeps under `entry`.

    Args:
        settings: of the run, resolved.
        fingerprint: of the encoder's weights.
    """
    plain = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(plain, dict)
    told = {str(key): value for key, value in plain.items()}
    return {
        "encoder": str(told["weights"]),
        "fingerprint": fingerprint,
        "settings": {
            name: text
            for name, text in _flat(told)
            if not _left_out(name) and (name, text) != NOT_SEEN
        },
    }


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", str(value)


def _left_out(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in SAME_RESULT)
