"""All sections one after the other."""

from pathlib import Path

from oct_report import begin_page, end_page

from oct_judge.page.believing import add_believing
from oct_judge.page.cases import add_cases
from oct_judge.page.curves import add_curves
from oct_judge.page.features import add_features
from oct_judge.page.flow import add_flow
from oct_judge.page.opening import add_opening, lead_of
from oct_judge.page.origin import add_origin
from oct_judge.page.perturbed import add_perturbed
from oct_judge.page.quantities import add_quantities
from oct_judge.page.reading import read_results
from oct_judge.page.rivals import add_rivals
from oct_judge.page.subgroups import add_efficiency, add_subgroups


def write_page(run_dir: Path) -> Path:
    """Write report.html from what an evaluation left in its folder, and return its path.

    Raises:
        ValueError: results.json is of another format.
        OSError: the folder lacks results.json, predictions.parquet, provenance.json or config.yaml.
    """
    results = read_results(run_dir)
    page = begin_page(results.title, lead_of(results), made_up=results.document["made_up_data"])
    add_opening(page, results)
    add_rivals(page, results)
    add_curves(page, results)
    add_quantities(page, results)
    add_efficiency(page, results.document, "labels")
    add_subgroups(page, results.document)
    add_believing(page, results)
    add_perturbed(page, results.document)
    add_features(page, results)
    add_cases(page, results)
    add_flow(page, results.document, "an answer to the question")
    add_origin(page, results.document, results.provenance)
    return end_page(page, run_dir, "the evaluation")
