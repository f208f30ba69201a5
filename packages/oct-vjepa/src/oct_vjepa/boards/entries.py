"""From runs to what is ranked: seeds of one thing put together, what all runs share taken once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from oct_vjepa.boards.runs import OWN, Block, Rounds, Run, check_alike

SEEDS = ("seed", "seeds")
"""Settings by which runs of one entry differ."""
ALIKE = 1e-5
"""Scores of shared candidates may differ by so much from run to run, as sums in other orders do."""
OF_A_RUN = (f"{OWN} ", f"{OWN},")
"""How candidates begin that are a run's encoder with something added, or its seeds together."""
RANKED = ", grey ranks"
"""How candidates end that are another one on other grey levels: a check, and no contestant."""


@dataclass(kw_only=True, slots=True)
class Entry:
    """What has one line in a leaderboard.

    Attributes:
        name: stands for it.
        about: what it differs by from the others.
        encoder: place of the encoder; "" for what has none.
        fingerprint: of the encoder's weights; "" likewise.
        shared: nobody's own, such as a baseline: the runs have it in common.
        runs: how many runs it comes from.
        seeds: seed to rounds.
    """

    name: str
    about: dict[str, str]
    encoder: str = ""
    fingerprint: str = ""
    shared: bool = False
    runs: int = 0
    seeds: dict[int, Rounds] = field(default_factory=dict, repr=False)

    def add(self, seeds: Mapping[int, Rounds]) -> list[int]:
        """Take the seeds that are new; returns those that were there already."""
        again = sorted(self.seeds.keys() & seeds.keys())
        self.seeds |= {seed: rounds for seed, rounds in seeds.items() if seed not in self.seeds}
        self.runs += 1
        return again


def make_entries(runs: Sequence[Run]) -> tuple[list[Entry], list[str]]:
    """An entry for each encoder and way to ask it, then those that all share; and remarks.

    Raises:
        BoardError: the runs are not of one question and the same test participants.
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("a leaderboard needs a run")
    check_alike(runs)
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        ways = ((key, value) for key, value in run.settings.items() if key not in SEEDS)
        groups.setdefault((run.fingerprint, *sorted(ways)), []).append(run)
    abouts = describe_groups([group[0] for group in groups.values()])
    own, shared, remarks = list[Entry](), list[Entry](), list[str]()
    for about, group in zip(abouts, groups.values(), strict=True):
        entry = Entry(
            name=name_of(about),
            about=about,
            encoder=group[0].encoder,
            fingerprint=group[0].fingerprint,
        )
        if group[0].settings.get("allow_seen") == "True":
            remarks.append(
                f"{entry.name} was asked with allow_seen=true: if its pretraining has seen those "
                "who are tested, its rank is no test"
            )
        for run in group:
            if again := entry.add(run.answers[OWN]):
                remarks.append(
                    f"{run.place}: seed {', '.join(map(str, again))} of {entry.name} is there "
                    "already and counts once"
                )
        own.append(entry)
        for run in group:
            for name, seeds in run.answers.items():
                if name != OWN and not name.startswith(OF_A_RUN) and not name.endswith(RANKED):
                    _share(shared, name, about, seeds)
    return [*own, *_named(shared)], remarks


def _share(
    shared: list[Entry], name: str, about: Mapping[str, str], seeds: Mapping[int, Rounds]
) -> None:
    """Put what a run says of a shared candidate to those that say the same with the same seed."""
    for entry in shared:
        both = entry.seeds.keys() & seeds.keys()
        said = entry.name == name and all(_alike(entry.seeds[one], seeds[one]) for one in both)
        if said and (both or entry.about == dict(about)):
            entry.about = {key: value for key, value in entry.about.items() if about[key] == value}
            entry.add(seeds)
            return
    entry = Entry(name=name, about=dict(about), shared=True)
    entry.add(seeds)
    shared.append(entry)


def _alike(one: Rounds, other: Rounds) -> bool:
    return all(_same(block, other[name]) for name, block in one.items())


def _same(one: Block, other: Block) -> bool:
    order, others = np.argsort(one.participants), np.argsort(other.participants)
    return bool(
        np.allclose(one.scores_NC[order], other.scores_NC[others], atol=ALIKE, equal_nan=True)
    )


def _named(shared: list[Entry]) -> list[Entry]:
    """Entries of one name told apart by what they differ in."""
    for entry in shared:
        alone = [one.name for one in shared].count(entry.name) == 1
        entry.about = {} if alone else entry.about
    for entry in shared:
        if entry.about:
            entry.name += f" ({name_of(entry.about)})"
    return shared


def describe_groups(runs: Sequence[Run]) -> list[dict[str, str]]:
    """What each differs by: a short name of the encoder, then settings; the name alone if nothing.

    A setting that is the encoder's place is not told again.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    places = short_names([run.encoder for run in runs])
    told = []
    for run in runs:
        name = places[run.encoder]
        if len({one.fingerprint for one in runs if one.encoder == run.encoder}) > 1:
            name += f" {run.fingerprint[:6]}"
        told.append({"encoder": name})
    for key in keys:
        values = [run.settings.get(key, "") for run in runs]
        if key not in SEEDS and len(set(values)) > 1:
            for about, value in zip(told, values, strict=True):
                about[key] = value
    if len({one["encoder"] for one in told}) == 1 and len(told[0]) > 1:
        for about in told:
            del about["encoder"]
    return told


def name_of(about: Mapping[str, str]) -> str:
    """`multi, full, pool=max`: encoder and mode speak for themselves."""
    plain = [about[key] for key in ("encoder", "mode") if key in about]
    more = [f"{key}={value}" for key, value in about.items() if key not in ("encoder", "mode")]
    return ", ".join([*plain, *more])


def short_names(places: Sequence[str]) -> dict[str, str]:
    """The part of each place that tells it from the others.

    `runs/one/encoder` and `runs/two/encoder` are one and two; a single one is called after its
    folder, or the folder above if that is called encoder.
    """
    parts = {one: one.rstrip("/").split("/") for one in dict.fromkeys(places)}
    for own in parts.values():
        while len(own) > 1 and own[-1] == "encoder":
            own.pop()
    if len(parts) == 1:
        return {one: own[-1] for one, own in parts.items()}
    for end in (0, -1):
        while all(len(own) > 1 for own in parts.values()) and (
            len({own[end] for own in parts.values()}) == 1
        ):
            for own in parts.values():
                own.pop(end)
    return {one: "/".join(own) for one, own in parts.items()}
