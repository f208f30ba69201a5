"""Leaderboards: finished evaluations of one question side by side, with intervals of their ranks.

    found = find_runs(["runs/sweep"])
    board = make_board([read_run(one) for one in found.runs], failed=found.failed)
    write_board(board, Path("runs/sweep"))

`runs` finds and reads run folders, `tracked` fetches them from Weights & Biases, `entries` puts
seeds of one thing together, `standings` ranks, `page` writes. This wing knows tables alone.
"""
