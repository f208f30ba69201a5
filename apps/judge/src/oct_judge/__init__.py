"""What `uv run apps/finetune` does, from a question to a report.

`evaluation` is all of it from top to bottom, `closing` the short form that ends a pretraining run.
`question` is what may be set; `beginning` opens the encoder (`checkpoint` takes those of others,
`family` one for each round) and the volumes; `study` is who has which answer and who is tested,
`candidates` who answers, `asking` the asking. `recipe` says how an encoder is trained, `training`
and `segmenting` train it on the loop with `examples` and `learning`, `starting` from a probe.
`results` turns answers into numbers and files, `touches` counts how often the test was looked at.

Folders: `rivals` are further candidates, `masks` is the evaluation of masks, `findings` look beyond
scores, `page` shows it all, `finished` keeps and uses the model, `board` ranks many evaluations.
The only code besides apps/pretrain that knows all three libraries; it holds no algorithm.
"""
