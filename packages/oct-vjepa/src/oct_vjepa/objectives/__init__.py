"""What is trained: V-JEPA 2 and 2.1 (`jepa`), their rivals, the predecessor's (`twoview`).

The rivals are masked autoencoding (`mae`), a frozen teacher (`salt`), agreement with a Gaussian
(`lejepa`) and classes that views share (`dino`); the last two draw their views in `crops`.

An objective has `loss` and `after_step`; what all share is in `objective`, `tally`, `losses`,
`teacher` and `schedules`. `configuration` and `rivals` hold what they may be told, `methods` how
they are called, and `registry` builds the one that a configuration describes. `diagnostics` and
`collapse` watch, `presets` names whole settings with their sources, `costs` says what they take.
The loop of any trainer runs them; this wing never knows a loop, a label or a score.
"""
