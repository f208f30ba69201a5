"""What `uv run apps/finetune` does, from a question to a report.

`question` is what may be set, `study` who has which answer and who is tested, `candidates` who
answers, `asking` the asking. `recipe` says how an encoder is trained, `training` and `segmenting`
train it on the loop with `examples` and `learning`. `results` turns answers into numbers and files,
`touches` counts how often the test was looked at, `findings` looks beyond scores, `page` shows it
all, and `evaluation` is all of it from top to bottom.
The only code besides apps/pretrain that knows all three libraries; it holds no algorithm.
"""
