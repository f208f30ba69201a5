"""What makes evaluations comparable: what each says of itself, whom it tells, and the leaderboard.

`entry` is what a run's results say of its encoder and settings, `tracking` sends results to Weights
& Biases, `finish` is what a sweep asks: what a job would read, its headline, and the leaderboard at
its end.
"""
