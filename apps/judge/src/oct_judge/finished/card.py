"""The model card: README.md of a finished model, written from the numbers of its run.

Sections as Mitchell et al. 2019, "Model cards for model reporting". Nothing stands there that the
run has not measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from oct_vjepa.finished.about import ATTENTION, PAIRS, SLACK, About
from oct_vjepa.finished.member import QUANTILE
from oct_vjepa.measures.units import Interval
from oct_vjepa.scores.words import word

from oct_judge.candidates import PRETRAINED
from oct_judge.question import JOINED

PHANTOM = (
    "**This model was fitted on made-up retinas (phantoms). It shows that the software works, and "
    "says nothing of any person.**"
)


def write_card(about: About) -> str:
    """The whole card, Markdown."""
    title = f"# {about.question}: {about.mode} model of retinal OCT volumes"
    sections: dict[str, list[str]] = {
        "Model details": details(about),
        "Intended use": use(about),
        "Not intended": not_intended(about),
        "Data": data(about),
        "Metrics": metrics(about),
        "Subgroups": subgroups(about.results["subgroups"]),
        "Caveats": caveats(about),
    }
    return lay_out(about, title, sections)


def lay_out(about: About, title: str, sections: Mapping[str, Sequence[str]]) -> str:
    """A card of these sections: whether it is of phantoms and what came out stand above them."""
    parts = [title, *([PHANTOM] if about.made_up else []), about.results["sentence"]]
    for name, lines in sections.items():
        parts += [f"## {name}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def details(about: About) -> list[str]:
    """Who answers, and what it is made of."""
    told, protocol = about.provenance, about.results["protocol"]
    rounds = len(about.members)
    who = "one model" if rounds == 1 else f"the mean of {rounds} models, one a round"
    found = [
        f"- Question: {about.question} ({about.kind}): {', '.join(about.names)}"
        + (f", in {about.unit}" if about.unit else ""),
        f"- Fitted by `mode={about.mode}`, protocol `{protocol['name']}`; it is {who}, of seed "
        f"{about.members[0].seed}",
        f"- Encoder {told['encoder']} (fingerprint before any training for this question)",
    ]
    if readouts := sorted({one.readout for one in about.members if one.readout}):
        found.append(f"- Reads {', '.join(readouts)} of its blocks")
    versions = ", ".join(f"{name} {one}" for name, one in (told["versions"] or {}).items())
    changed = "" if told["git_clean"] else ", with changes"
    found.append(f"- Made with {versions}; commit {told['git_commit']}{changed}")
    return found


def use(about: About) -> list[str]:
    """What it takes and gives."""
    return [
        *takes(about, "Scores"),
        "",
        f"{joins(about)} `uv run apps/finetune predict=FOLDER model=THIS` and "
        "`oct_vjepa.load_model(THIS)` use it.",
    ]


def joins(about: About) -> str:
    """How answers of volumes become those of participants."""
    if about.join not in JOINED:
        return f"Volumes become eyes, and eyes participants, by their {about.join}."
    how = {
        ATTENTION: "a learned pool that reads the features of all their volumes",
        PAIRS: "a probe that reads the mean and the spread of the features of their volumes",
    }[about.join]
    metric, results = about.results["headline"], about.results
    own, mean = (one["card"]["metrics"][metric] for one in (results["joined"], results))
    return (
        f"Participants are answered by {how} (`join={about.join}`), with {word(metric)} "
        f"{_text(own)} in the test; the mean over their volumes had {_text(mean)}. The subgroups "
        "below are of that mean."
    )


def takes(about: About, does: str) -> list[str]:
    """What volumes it takes, and what the fit has seen; `does` is what it does with them."""
    window = about.window
    seen = about.made_for.seen
    lines = [
        f"{does} volumes of {' x '.join(map(str, about.shape))} voxels (B-scans, rows, columns), "
        f"cut out of scans as window `{window['name']}`"
        + (", left eyes mirrored" if window["mirror_left"] else "")
        + (", flattened to the retina's surface" if window["flattened"] else "")
        + (", read as volumes that are no OCT" if "kind" in window else "")
        + ". The fit has seen:",
        "",
        *(f"- {name}: {', '.join(values)}" for name, values in seen.items()),
    ]
    if about.made_for.scan_spacing:
        low, high = about.made_for.scan_spacing
        pairs = (f"{one:.4g} to {other:.4g}" for one, other in zip(low, high, strict=True))
        lines.append(f"- spacing of scans along (B-scan, row, column): {', '.join(pairs)} mm")
    return lines


def not_intended(about: About) -> list[str]:
    """For whom nobody has tried it."""
    found = [
        "- Decisions about a patient: nothing but what stands below was measured.",
        "- Scans unlike those above. They are marked, and nothing is decided: a spacing more than "
        f"{SLACK:.0%} out of the range, another device, protocol or region, or features further "
        f"out than those of {QUANTILE:.0%} of the validation volumes.",
    ]
    if about.made_up:
        found.insert(0, "- Any real scan: it knows phantoms only.")
    return found


def data(about: About) -> list[str]:
    """Who was fitted on and who was tested."""
    results, card = about.results, about.results["card"]
    made = "Made-up retinas, drawn by this software. " if about.made_up else ""
    support = ", ".join(f"{name} {count}" for name, count in card["support"].items())
    lines = [f"{made}{results['split']}. No participant is on both sides."]
    tested = f"Tested on {card['participants']} participants"
    lines.append(f"{tested}: {support}." if support else f"{tested}.")
    times = results["test_touches"]
    lines.append(f"They were scored by {times} setting{'s' if times != 1 else ''} so far.")
    return ["\n\n".join(lines)]


def metrics(about: About) -> list[str]:
    """Every metric with its interval, and what was promised."""
    lines = metrics_table(about)
    if about.results["promise"]:
        lines += ["", promise_text(about)]
    if about.cutoffs:
        pairs = ", ".join(f"{name} from {value:.4g}" for name, value in about.cutoffs.items())
        lines += ["", f"At a specificity of {about.specificity:.0%}: {pairs}."]
    return lines


def metrics_table(about: About) -> list[str]:
    """Every metric with its interval, of the model and of who stands beside it."""
    results = about.results
    joined = [results["joined"]] if "joined" in results else []
    columns = {one["name"]: one["card"] for one in joined} | {PRETRAINED: results["card"]}
    columns |= {name: one["card"] for name, one in results["beside"].items()}
    lines = [
        f"Each with its 95 % interval over participants{_seeds(results)}.",
        "",
        f"| metric | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name in results["card"]["metrics"]:
        cells = (_text(card["metrics"].get(name)) for card in columns.values())
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def promise_text(about: About) -> str:
    """What sets or ranges promised and kept in the test."""
    promise = about.results["promise"]
    what = "ranges" if about.kind == "regression" else "sets of classes"
    if about.kind == "multilabel":
        what = "sets of each label (it is there, it is not)"
    size = "without end" if promise["size"] is None else f"of {promise['size']:.3g} on average"
    unit = f" {about.unit}" if about.kind == "regression" and promise["size"] is not None else ""
    whose = "Its" if len(about.members) == 1 else "Its members'"
    return (
        f"{whose} {what} promise to hold the truth of {promise['promised']:.0%} of participants; "
        f"in the test they held it of {promise['covered']:.1%}, and were {size}{unit}."
    )


def _seeds(results: Mapping[str, Any]) -> str:
    return f" and {results['seeds']} seeds" if results["seeds"] > 1 else ""


def _text(triple: Sequence[float | None] | None) -> str:
    if triple is None or None in triple:
        return "-"
    return Interval(*(float(one) for one in triple if one is not None)).text()


def subgroups(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for each column, or that there is none."""
    if not tables:
        return ["No column of the data set has values to compare."]
    lines: list[str] = []
    for table in tables:
        names = list(table["rows"][0]["metrics"])
        lines += [
            f"| {table['column']} | participants | {' | '.join(names)} | |",
            f"|---|---|{'---|' * (len(names) + 1)}",
        ]
        for row in table["rows"]:
            cells = " | ".join(_text(row["metrics"].get(name)) for name in names)
            note = row.get("note") or ""
            lines.append(f"| {row['value']} | {row['participants']} | {cells} | {note} |")
        lines.append("")
    return lines[:-1]


def caveats_beside(results: Mapping[str, Any]) -> list[str]:
    """Over whom its lead may be luck, and who is better."""
    found = []
    for name, one in results["beside"].items():
        low, high = one["gain"]["difference"][1:]
        if low is None:
            continue
        if low <= 0 <= high:
            found.append(
                f"- What it has over {name} may be luck: {_text(one['gain']['difference'])}."
            )
        elif high < 0:
            found.append(f"- It is worse than {name}: {_text(one['gain']['difference'])}.")
    return found


def caveats(about: About) -> list[str]:
    """What the numbers themselves warn of."""
    results, found = about.results, caveats_beside(about.results)
    if (times := results["test_touches"]) > 1:
        found.append(
            f"- The test participants were scored by {times} settings; the intervals do not know."
        )
    if (promise := results["promise"]) and promise["covered"] < promise["promised"]:
        found.append("- In the test its promise was not kept; see Metrics.")
    limits = [*about.threshold.values(), *sum(about.label_thresholds.values(), ())]
    if None in limits:
        found.append("- Too few participants were left for calibration to promise anything.")
    if len(about.members) > 1:
        found.append(
            "- The metrics are those of its members, each on participants whom it had not seen; "
            "nobody is left to measure their mean on."
        )
    if results["seeds"] > 1:
        found.append("- The metrics are means over seeds; the model is that of the first.")
    if (novelty := results["novelty"]) and novelty["strange"] > 0.1:
        found.append(
            f"- {novelty['strange']:.0%} of the test volumes lie further out than 95 % of the "
            "validation volumes: expect as many marks on new scans."
        )
    small = [row for table in results["subgroups"] for row in table["rows"] if row.get("note")]
    if small:
        found.append(f"- Subgroups that are too small to say anything about: {len(small)}.")
    return found or ["- None that the numbers show; there are those that they cannot."]
