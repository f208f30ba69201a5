"""Puts the toy objective of these tests on the path, and real APIs of buckets at hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def servers():
    """Port of a real S3 and GCS API on this machine, by scheme."""
    pytest.importorskip("moto")
    from buckets import serve

    with serve() as ports:
        yield ports
