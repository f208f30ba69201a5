"""Candidates tried in the rounds of a protocol, and what is made of their answers.

`judging` asks whoever has features and keeps every answer whole; `verdict` joins volumes to eyes
and participants, calibrates, and makes cards, promises and tables of them. This wing knows arrays
alone, whosever features they are.
"""
