"""What `mode=segment` does: classes of voxels instead of answers of participants.

`settings` is what may be set beside the rest, `study` which scans have masks or boundaries and who
is tested, `candidates` who draws, `measuring` what each drawing is worth, `results` the numbers and
files, `page` the report, `dicom` what other programs open, `evaluation` all of it in order.
`keeping` gathers the finished model and `card` writes its README; `drawn` uses it on new scans.

`mode=patches` asks frozen tokens which patches hold a class: `patches` is the question,
`witnesses` who answers, `where` all of it in order, `where_page` its report.
"""
