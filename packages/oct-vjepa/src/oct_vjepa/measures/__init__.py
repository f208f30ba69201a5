"""What one number says of predictions: metrics of every kind of question, from arrays.

`target` is the question and its answers, `units` what is scored: a row a participant and answer.
`measure` gives all metrics of a kind at once, for many weightings of the rows; it draws on
`ranking`, `decisions`, `chances` and `quantities`, which share `shares`. `segmentation` compares
masks, `progress` names the few numbers of a training log. Nothing here has seen a feature or a
model; this wing imports nothing of the package but `rules`.
"""
