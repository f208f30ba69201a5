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


def test_a_plan_for_data_and_a_machine_in_words(capsys):
    scans = ["--volumes", "1113", "--participants", "831", "--shape", "1", "96", "240"]
    assert main(["plan", *scans, "--memory-gb", "16", "--step-s", "0.9", "--hours", "1"]) == 0
    out = capsys.readouterr().out
    (steps,) = [line for line in out.splitlines() if "training.steps" in line]
    assert "4000" in steps
    assert "so many in 1 h; the data asks for 6,957" in steps
    assert "as objective=vjepa21_filters masking=mae, of these sizes" in out
    assert "training: 1.0 h at 0.9 s a step" in out
    assert main(["plan", *scans, "--memory-gb", "16"]) == 0
    assert "propose.to=plan.yaml" in capsys.readouterr().out


def test_a_plan_that_cannot_be_is_one_line(capsys):
    scans = ["plan", "--volumes", "9", "--memory-gb", "16", "--shape", "1"]
    assert main([*scans, "97", "240"]) == 2
    assert main([*scans, "96", "240", "--step-s", "0"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "no patch divides volumes of (1, 97, 240)" in errors[0]
    assert "--step-s (0) must be above 0 seconds" in errors[1]
