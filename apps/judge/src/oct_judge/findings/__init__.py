"""What a page shows beyond scores: where scans went, what else features tell, what answers hang on.

`further` calls the others: `flow` counts who was left out, `likelihood` how probabilities came
true, `shortcuts` asks the same features for what should not matter, `plane` lays them on two axes,
`cases` covers volumes part by part, `origin` is the command. Numbers go to results.json, arrays to
embedding.npz and cases.npz.
"""
