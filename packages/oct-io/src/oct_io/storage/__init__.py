"""Bytes: from disks and buckets to memory, whole, checked and repeated until they are right.

`files` is what others call. Behind it `transport` makes one range request, `outages` asks again for
as long as `verdicts` says that it may help, `buckets` knows where a store answers, and
`content_cache` keeps files that were fetched, `kept_records` parts of equal size; `together` and
`readers` do it beside the program. Anyone may import
this wing; it imports the errors alone, and never learns what the bytes mean.
"""
