"""What is trained: V-JEPA 2 (`jepa`), 2.1 (`dense`), the predecessor's (`twoview`), their teacher.

An objective has `loss` and `after_step`; what all share is in `objective`, `losses`, `teacher` and
`schedules`, and `registry` builds the one that a `configuration` describes. `diagnostics` and
`collapse` watch, `presets` names whole settings with their sources, `costs` says what they take.
The loop of any trainer runs them; this wing never knows a loop, a label or a score.
"""
