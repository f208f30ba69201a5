"""Right and wrong cases, and which parts of the scan their answers hang on."""

from oct_report import Page, draw_occlusion, draw_on_localizer, sized
from oct_report.figures import BScan

from oct_judge.page.reading import Results, number

READING = (
    "Parts of the volume are covered with its mean grey, one after the other, and the answer is "
    "asked again. Orange: covering this part takes away from the answer; blue: it adds to it. It "
    "shows where this model’s answer comes from, not where a disease is: parts that matter only "
    "together show nothing, and a cover is something that the model never saw. Left the B-scan, "
    "with parts that go through all B-scans; right the volume from above, with parts that go "
    "through all depth. Where a scan comes with its en-face image and says where its B-scans lie "
    "on it, the latter is laid on that; the dashed line is the B-scan."
)


def add_cases(page: Page, results: Results) -> None:
    """A B-scan and a view from above of each case, with what was said and what is true."""
    facts = results.document.get("maps")
    if not facts:
        return
    page.section("Where answers come from")
    if "why_not" in facts:
        page.text(f"No maps: {facts['why_not']}.")
        return
    page.text(READING)
    for place, case in enumerate(facts["cases"]):
        grey = results.cases[f"bscan {place}"]
        above = results.cases[f"above {place}"]
        z_mm, y_mm, x_mm = (float(one) for one in results.cases[f"spacing {place}"])
        of = " in log-odds" if results.is_counted else ""
        verdict = "right" if case["right"] else "wrong"
        words = (
            f"Case {place + 1}, {verdict}: the encoder says {case['called']}, the truth is "
            f"{case['true']}; {case['score_is']} {case['score']:.3f}, with the part that matters "
            f"most covered {case['covered']:.3f}. Full colour is a change of "
            f"{number(case['strongest'])}{of}. B-scan {case['bscan'] + 1} of {len(above)}, round "
            f"{case['round']}."
        )
        png = draw_occlusion(
            sized(grey, row_mm=y_mm, column_mm=x_mm),
            results.cases[f"front map {place}"],
            _above(above, z_mm, x_mm),
            results.cases[f"above map {place}"],
            at=(case["bscan"] + 0.5) / len(above),
        )
        page.figure(png, words)
        if f"localizer {place}" in results.cases:
            png = draw_on_localizer(
                results.cases[f"localizer {place}"],
                results.cases[f"localizer corners {place}"],
                results.cases[f"above map {place}"],
                results.cases[f"localizer line {place}"],
                strongest=float(case["strongest"]),
            )
            page.figure(png, f"Case {place + 1} on the localizer of its scan, in the same colours.")


def _above(grey: object, z_mm: float, x_mm: float) -> BScan:
    return sized(grey, row_mm=z_mm, column_mm=x_mm)  # type: ignore[arg-type]
