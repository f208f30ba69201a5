"""What a data set holds: its scans, its participants, and what contradicts itself.

`manifest` lists scans, `headers` reads many at a time and `header_index` keeps them for the next
start, in a `header_file`; `audit` counts; `participants` and `releases` read the tables, with
`tables`; `seen` knows whom an encoder has met; `selection` and `listing` choose and write records.
The cache is built from its records, and labels stand on its tables; this wing never decodes a data
set and never knows what is cached.
"""
