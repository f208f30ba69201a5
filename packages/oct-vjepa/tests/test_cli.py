"""The command says what is in a folder, and one line when it cannot."""

from oct_vjepa.cli import main


def test_info_prints_settings_tokens_and_parameters(encoder, tmp_path, capsys):
    encoder.save_pretrained(tmp_path / "encoder")
    assert main(["info", str(tmp_path / "encoder")]) == 0
    out = capsys.readouterr().out
    assert "24 (2 x 4 x 3)" in out
    assert f"{sum(weight.numel() for weight in encoder.parameters()):,}" in out
    assert "patch_size      (2, 4, 8)" in out


def test_a_missing_folder_is_one_line_and_code_2(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "config.json: cannot be read" in error
    assert error.count("\n") == 1
