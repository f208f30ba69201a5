"""Candidates tried in the rounds of a protocol, and what is made of their answers.

`judging` asks whoever has features and keeps every answer whole; `verdict` joins volumes to eyes
and participants, calibrates, and makes cards, promises and tables of them. `probing` does both in
one call for two sides of rows, `prevalence` measures where classes have other shares. `cases`
chooses what to look at, `projection` lays features on a plane. This wing knows arrays alone,
whosever features they are.
"""
