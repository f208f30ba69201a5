"""Settings for a data set and a machine: proposed with a reason each, then fitted to hours.

`facts` is what a proposal goes by, `proposal` the rules. A proposal is a `Preset`, so that whatever
reads presets reads it, too. This wing builds on the objectives; it trains nothing and reads no
data: who measures a step on the machine tells it.
"""
