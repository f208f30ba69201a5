"""What is known about participants besides their scans, and how they are split.

`questions` is what may be asked of a label table and `classes` how cells become classes; `tables`
finds out whether a table speaks of participants, eyes or scans. `omop` joins clinical tables by
the rules in `concepts`. `splits` says who trains and who tests. This wing stands on the tables of
the catalog and never opens a scan.
"""
