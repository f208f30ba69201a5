"""The page that an evaluation leaves behind, made of its run folder alone.

    write_page(Path("runs/phantom-finetune"))  # again, after a change of the page

`reading` opens the folder. The sections stand in the order of the page: `opening` has what is read
first, `rivals` who answers beside the encoder, `curves` and `quantities` how the answers look,
`believing` how far to believe one, `perturbed` what spoils it, `subgroups` for whom, `features`
what else is known, `cases` where answers come from, `flow` where scans went, `origin` how to do it
again.
"""

from oct_judge.page.writing import write_page

__all__ = ["write_page"]
