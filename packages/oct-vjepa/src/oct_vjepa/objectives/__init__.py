"""What is trained: V-JEPA 2 and 2.1 (`jepa`), the predecessor's (`twoview`), and `rivals`.

An objective has `loss` and `after_step`; what all share is in `objective`, `tally`, `losses`,
`teacher` and `schedules`. `configuration` holds what they may be told, `methods` how they are
called, and `registry` builds the one that a configuration describes. `diagnostics` and `collapse`
watch. The loop of any trainer runs them; this wing never knows a loop, a label or a score.
"""
