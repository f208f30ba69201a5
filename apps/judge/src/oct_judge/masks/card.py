"""The card of a model of masks: README.md of RUN/model, written from the numbers of its run."""

from oct_vjepa.finished.about import About

from oct_judge.finished.card import (
    caveats_beside,
    details,
    lay_out,
    metrics_table,
    not_intended,
    subgroups,
    takes,
)


def write_mask_card(about: About) -> str:
    """The whole card, Markdown."""
    title = f"# {about.question}: mode={about.mode}, a class of every voxel of retinal OCT volumes"
    sections: dict[str, list[str]] = {
        "Model details": details(about),
        "Intended use": use(about),
        "Not intended": not_intended(about),
        "Data": data(about),
        "Metrics": metrics_table(about),
        "Subgroups": subgroups(about.results["subgroups"]),
        "Caveats": caveats(about),
    }
    return lay_out(about, title, sections)


def use(about: About) -> list[str]:
    """What it takes and gives."""
    given = "Each voxel gets one of the classes above."
    if about.band:
        given += f" Thickness is measured from {about.band[0]} to {about.band[1]}."
    used = "`uv run apps/finetune predict=FOLDER model=THIS` and `oct_vjepa.load_model(THIS).draw`"
    return [*takes(about, "Draws masks of"), "", f"{given} {used} use it."]


def data(about: About) -> list[str]:
    """Who was fitted on and who was tested."""
    made = "Made-up retinas, drawn by this software. " if about.made_up else ""
    times = about.results["test_touches"]
    lines = [
        f"{made}{about.results['split']}. No participant is on both sides.",
        f"They were scored by {times} setting{'s' if times != 1 else ''} so far.",
    ]
    return ["\n\n".join(lines)]


def caveats(about: About) -> list[str]:
    """What the numbers themselves warn of."""
    results = about.results
    found = caveats_beside(results)
    if len(about.members) > 1:
        found.append(
            "- The metrics are those of its members, each on participants whom it had not seen; "
            "nobody is left to measure their mean on."
        )
    if results["seeds"] > 1:
        found.append("- The metrics are means over seeds; the model is that of the first.")
    if all(one.usual is None for one in about.members):
        found.append("- Nobody was left to say what is strange to it: only places are marked.")
    return found or ["- None that the numbers show; there are those that they cannot."]
