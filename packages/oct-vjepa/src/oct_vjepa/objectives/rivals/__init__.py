"""Other ways to pretrain, in the same loop: `mae`, `salt`, `lejepa`, `dino`; a page each.

`configuration` says what they may be told, `crops` draws the views that the last two compare. They
stand on what all objectives share; nothing but `methods` and `registry` knows them.
"""
