"""What is left of a run: its folder, on a disk or in a bucket.

`runfolder` says whose it is and where it came from, `identity` what makes two starts one run, and
`journal` keeps its rows. `checkpoint` is one checkpoint, `store` the folder of them, `writing` a
thread that writes beside the training. `files` are small files that appear whole, `bucket` those
below a URL, `lease` says who writes there, `mirror` keeps copies of checkpoints there, `remote`
moves all the rest to and fro. This wing never knows an objective or a step.
"""
