"""Decoded once: resampled volumes of one shape in shards, with an index and a quarantine.

`build` is the way in and `volumes` the way out. Between them `decoding` reads and resamples a scan,
`annotations` its layers and its mask, `making` fills `parts`, if need be with what an older cache
holds, `assembly` joins them to shards; `ray_cache` does the work on several machines, `mending`
tries refused scans again. `publishing` puts a cache into a bucket, where `bucket` reads
it. `index` says what a cache is; `entries` and `table` what each of its records is, mapped from
disk. Scans that cannot be used end as lines of `oct_io.quarantine`.
This wing takes records of the catalog; it never reads a label.
"""
