import pytest
from oct_io.saving import appearing


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_has_its_name_once_it_is_whole(tmp_path, durable):
    path = tmp_path / "x.json"
    path.write_text("old")
    with appearing(path, durable=durable) as part:
        part.write_text("ne")
        assert path.read_text() == "old"
        part.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def fill_the_disk(path):
    with appearing(path) as part:
        part.write_text("ne")
        raise OSError("the disk is full")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(OSError, match="full"):
        fill_the_disk(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
