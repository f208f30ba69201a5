"""What a data set holds: its scans, its participants, their labels, and who is for what.

`manifest` lists scans, `headers` reads many at a time and `header_index` keeps them for the next
start, `audit` counts and finds what contradicts itself; `participants`, `labels`, `splits` and
`releases` read the tables, `concepts` and `omop` make labels of clinical ones, `selection` and
`listing` choose and write them. The cache is built from its records; this wing never decodes a data
set and never knows what is cached.
"""
