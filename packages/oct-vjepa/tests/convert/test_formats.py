"""Weights of others give what they gave there, and what cannot be read is refused in one line."""

import math
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, Masks, WeightsError
from oct_vjepa.cli import main
from oct_vjepa.convert import ConversionConfig, LoadReport, read_encoder, read_predictor
from oct_vjepa.convert.adapt import adapt_patches
from oct_vjepa.convert.files import read_checkpoint
from oct_vjepa.convert.vjepa2 import levels_of
from torch.nn import functional

TOLERANCE = 2e-5
WIDTH, DEPTH, HEADS = 24, 3, 2
PATCH, SHAPE = (4, 8, 8), (8, 16, 24)
GRID = (2, 2, 3)


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.2


def block_state(width, depth, hidden, seed=0):
    """Blocks, norm and nothing else, with the names of V-JEPA 2; nothing is 0 or 1."""
    state, shapes = {}, {
        "attn.qkv": (3 * width, width), "attn.proj": (width, width),
        "mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden),
    }  # fmt: skip
    for index in range(depth):
        for name, (rows, columns) in shapes.items():
            seed += 2
            state[f"blocks.{index}.{name}.weight"] = draw(rows, columns, seed=seed)
            state[f"blocks.{index}.{name}.bias"] = draw(rows, seed=seed + 1)
        for name in ("norm1", "norm2"):
            seed += 2
            state[f"blocks.{index}.{name}.weight"] = 1 + draw(width, seed=seed)
            state[f"blocks.{index}.{name}.bias"] = draw(width, seed=seed + 1)
    state["norm.weight"], state["norm.bias"] = 1 + draw(width, seed=901), draw(width, seed=902)
    return state


def encoder_state(channels=1, patch=PATCH, seed=0):
    state = block_state(WIDTH, DEPTH, 4 * WIDTH, seed)
    state["patch_embed.proj.weight"] = draw(WIDTH, channels, *patch, seed=seed + 903)
    state["patch_embed.proj.bias"] = draw(WIDTH, seed=seed + 904)
    return state


def tokens_of(state, volume, patch):
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    return functional.conv3d(volume, weight, bias, stride=patch).flatten(2).transpose(1, 2)


def run_blocks(state, x, *, eps, heads=HEADS, rotate=lambda q: q, depth=DEPTH):
    """Pre-norm blocks with the attention matrix written out, as a textbook has them."""
    batch, tokens, width = x.shape

    def norm(value, name):
        return functional.layer_norm(
            value, (width,), state[f"{name}.weight"], state[f"{name}.bias"], eps
        )

    def linear(value, name):
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for index in range(depth):
        here = f"blocks.{index}"
        qkv = linear(norm(x, f"{here}.norm1"), f"{here}.attn.qkv")
        q, k, v = qkv.reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        scores = rotate(q) @ rotate(k).transpose(-2, -1) / math.sqrt(width // heads)
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + linear(mixed, f"{here}.attn.proj")
        hidden = linear(norm(x, f"{here}.norm2"), f"{here}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + linear(hidden, f"{here}.mlp.fc2")
    return norm(x, "norm")


# The predecessor -------------------------------------------------------------------------------


@pytest.fixture
def predecessor_states():
    context, target = encoder_state(seed=0), encoder_state(seed=5000)
    context["pos_embed"], target["pos_embed"] = (
        draw(1, math.prod(GRID), WIDTH, seed=seed) for seed in (1, 2)
    )
    return context, target


@pytest.fixture
def predecessor(predecessor_states, tmp_path):
    """A file of its layout, with the settings tree that its training script pickles."""
    omegaconf = pytest.importorskip("omegaconf")
    context, target = predecessor_states
    model = {f"context_encoder.{name}": value for name, value in context.items()}
    model |= {f"target_encoder.encoder.{name}": value for name, value in target.items()}
    model |= {"predictor.net.0.weight": torch.zeros(WIDTH, WIDTH)}
    settings = omegaconf.OmegaConf.create(
        {"image_size": list(SHAPE), "patch_size": list(PATCH), "embed_dim": WIDTH,
         "num_heads": HEADS, "wandb": {"project": "x"}, "gcs_root": "gs://b",
         "manifest_path": "${gcs_root}/m.tsv", "resume_checkpoint": None}
    )  # fmt: skip
    path = tmp_path / "best_checkpoint.pt"
    torch.save(
        {"epoch": 3, "step": 9, "loss": 0.1, "model_state_dict": OrderedDict(model),
         "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-4}]},
         "scheduler_state_dict": None, "config": dict(settings)},
        path,
    )  # fmt: skip
    return path


def predecessor_tokens(state, volume):
    return run_blocks(state, tokens_of(state, volume, PATCH) + state["pos_embed"], eps=1e-5)


@pytest.fixture
def volume():
    return torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_a_file_of_the_predecessor_gives_the_predecessors_tokens(
    predecessor, predecessor_states, volume
):
    encoder, report = read_encoder(predecessor)
    wanted = predecessor_tokens(predecessor_states[0], volume)
    assert wanted.std() > 0.1
    assert (encoder(volume) - wanted).abs().max() < TOLERANCE
    assert report.share == 1.0
    assert not report.missing
    assert not report.adapted
    assert report.layout == "predecessor (context encoder)"
    assert (encoder.config.input_shape, encoder.config.heads) == (SHAPE, HEADS)
    target, _ = read_encoder(predecessor, ConversionConfig(part="target"))
    wanted = predecessor_tokens(predecessor_states[1], volume)
    assert (target(volume) - wanted).abs().max() < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_prefixes_of_wrappers_and_the_other_name_of_the_size_do_not_matter(
    prefix, predecessor_states, volume, tmp_path
):
    state = {f"{prefix}{name}": value for name, value in predecessor_states[0].items()}
    config = {"img_size": SHAPE, "num_heads": HEADS}
    torch.save({"state_dict": state, "config": config}, tmp_path / "encoder.pt")
    encoder, _ = read_encoder(tmp_path / "encoder.pt")
    wanted = predecessor_tokens(predecessor_states[0], volume)
    assert (encoder(volume) - wanted).abs().max() < TOLERANCE


@torch.no_grad()
def test_learned_positions_are_resized_to_another_volume(predecessor, predecessor_states):
    encoder, report = read_encoder(predecessor, ConversionConfig(input_shape=(16, 16, 24)))
    assert report.adapted == {"positions.table": "resized from the grid (2, 2, 3) to (4, 2, 3)"}
    table = predecessor_states[0]["pos_embed"][0].reshape(*GRID, WIDTH)
    wanted = torch.stack([table[0], 0.75 * table[0] + 0.25 * table[1],
                          0.25 * table[0] + 0.75 * table[1], table[1]])  # fmt: skip
    torch.testing.assert_close(encoder.positions.table, wanted.flatten(0, 2), rtol=0, atol=1e-6)


def test_a_size_that_contradicts_the_table_is_refused(predecessor_states, tmp_path):
    config = {"image_size": [64, 384, 384], "num_heads": HEADS}
    torch.save({"state_dict": predecessor_states[0], "config": config}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"12 rows does not belong to a grid of \(16, 48, 48\)"):
        read_encoder(tmp_path / "a.pt")
    read_encoder(tmp_path / "a.pt", ConversionConfig(source_shape=SHAPE, input_shape=SHAPE))


# V-JEPA 2 and 2.1 ------------------------------------------------------------------------------


def rotary_by_hand(positions_N3, width, form):
    """Rotation of one head's features: a third for each axis, pairs (2i, 2i + 1)."""
    pairs = width // 3 // 2

    def rotate(x):
        out = x.clone()
        for axis in range(3):
            for feature in range(2 * pairs):
                here = axis * 2 * pairs + feature
                other, sign = (here + 1, -1.0) if feature % 2 == 0 else (here - 1, 1.0)
                rank = feature % pairs if form == "vjepa2" else feature // 2
                angle = positions_N3[:, axis] / 10000 ** (rank / pairs)
                out[..., here] = x[..., here] * angle.cos() + sign * x[..., other] * angle.sin()
        return out

    return rotate


def places(grid):
    return torch.cartesian_prod(*(torch.arange(float(size)) for size in grid))


@pytest.fixture
def hub(tmp_path):
    """A file as torch.hub loads it: prefixes, a left-over table, and a predictor."""
    state = encoder_state(channels=3, patch=(2, 8, 8))
    target = encoder_state(channels=3, patch=(2, 8, 8), seed=5000)
    predictor = block_state(12, 2, 48, seed=8000)
    predictor = {name.replace("blocks", "predictor_blocks").replace("norm.", "predictor_norm.")
                 if name.startswith(("blocks", "norm.")) else name: value
                 for name, value in predictor.items()}  # fmt: skip
    predictor |= {
        "predictor_embed.weight": draw(12, WIDTH, seed=1), "predictor_embed.bias": draw(12, seed=2),
        "predictor_proj.weight": draw(WIDTH, 12, seed=3),
        "predictor_proj.bias": draw(WIDTH, seed=4),
    }  # fmt: skip
    tokens = {f"mask_tokens.{index}": torch.zeros(1, 1, 12) for index in range(10)}
    tokens["mask_tokens.0"] = draw(1, 1, 12, seed=5)
    prefix = "module.backbone."
    path = tmp_path / "vitx.pt"
    torch.save(
        {
            "encoder": {f"{prefix}{name}": value for name, value in state.items()}
            | {f"{prefix}pos_embed": torch.zeros(1, 7, WIDTH)},
            "target_encoder": {f"{prefix}{name}": value for name, value in target.items()},
            "predictor": {f"{prefix}{name}": one for name, one in (predictor | tokens).items()},
            "epoch": 1,
        },
        path,
    )
    return path, state, target


RAW = {"input_mean": 0.0, "input_std": 1.0}


@torch.no_grad()
def test_a_torch_hub_file_gives_v_jepa_2s_tokens(hub):
    path, state, target = hub
    volume = torch.randn(2, 3, 4, 16, 24, generator=torch.Generator().manual_seed(3))
    rotate = rotary_by_hand(places(GRID), WIDTH // HEADS, "vjepa2")
    for part, source in (("context", state), ("target", target), ("auto", target)):
        encoder, report = read_encoder(path, ConversionConfig(part=part, heads=HEADS, **RAW))
        wanted = run_blocks(source, tokens_of(source, volume, (2, 8, 8)), eps=1e-6, rotate=rotate)
        assert (encoder(volume) - wanted).abs().max() < TOLERANCE
        assert report.unexpected == (["pos_embed"] if part == "context" else [])


LEVELS = 4  # V-JEPA 2.1 has a norm for each of four blocks


@pytest.fixture
def dense_hub(tmp_path):
    """A file of V-JEPA 2.1: four norms that differ, vectors of its modalities, a predictor."""
    state = block_state(WIDTH, LEVELS, 4 * WIDTH)
    del state["norm.weight"], state["norm.bias"]
    state["patch_embed.proj.weight"] = draw(WIDTH, 1, 2, 16, 16, seed=903)
    state["patch_embed.proj.bias"] = draw(WIDTH, seed=904)
    for level in range(LEVELS):
        state[f"norms_block.{level}.weight"] = 1 + draw(WIDTH, seed=950 + level)
        state[f"norms_block.{level}.bias"] = draw(WIDTH, seed=960 + level)
    state["video_mod_embed"] = draw(1, 1, WIDTH, seed=77)
    state["img_mod_embed"] = draw(1, 1, WIDTH, seed=78)
    inner = block_state(12, 2, 48, seed=8000)
    predictor = {
        f"predictor_{name}" if name.startswith(("blocks", "norm.")) else name: value
        for name, value in inner.items()
    }
    for name, rows, columns in (
        ("embed.0", WIDTH, LEVELS * WIDTH), ("embed.2", 12, WIDTH),
        ("proj", LEVELS * WIDTH, 12), ("proj_context", LEVELS * WIDTH, 12),
    ):  # fmt: skip
        predictor[f"predictor_{name}.weight"] = draw(rows, columns, seed=rows + columns)
        predictor[f"predictor_{name}.bias"] = draw(rows, seed=2 * rows)
    predictor["mask_tokens.0"] = draw(1, 1, 12, seed=5)
    predictor["mask_tokens.1"] = draw(1, 1, 12, seed=6)
    predictor["video_mod_embed"] = draw(1, 1, 12, seed=7)
    path = tmp_path / "dense.pt"
    torch.save(
        {
            "ema_encoder": {f"module.{name}": value for name, value in state.items()},
            "predictor": {f"module.backbone.{name}": one for name, one in predictor.items()},
        },
        path,
    )
    return path, state, predictor, inner


def dense_rotation(grid, width, heads):
    stretched = places(grid) * torch.tensor([1.0, 15 / (grid[1] - 1), 15 / (grid[2] - 1)])
    return rotary_by_hand(stretched, width // heads, "interleaved")


@torch.no_grad()
def test_a_v_jepa_2_1_file_gives_the_tokens_of_each_level_through_its_own_norm(dense_hub):
    path, state, _, _ = dense_hub
    encoder, report = read_encoder(path, ConversionConfig(heads=HEADS, **RAW))
    assert report.layout == "vjepa2 (version 2.1, ema_encoder)"
    assert report.adapted.keys() == {"patches.proj.bias"} | {
        f"{norm}.{kind}"
        for norm in ("level_norms.0", "level_norms.1", "level_norms.2", "norm")
        for kind in ("weight", "bias")
    }
    assert not report.missing
    assert "img_mod_embed" in report.unexpected
    assert encoder.config.level_norms == [0, 1, 2]
    volume = torch.randn(1, 1, 4, 32, 48, generator=torch.Generator().manual_seed(3))
    rotate = dense_rotation((2, 2, 3), WIDTH, HEADS)
    tokens = tokens_of(state, volume, (2, 16, 16)) + state["video_mod_embed"]
    found = encoder(volume, layers=range(LEVELS))
    for level in range(LEVELS):
        norm = {f"norm.{kind}": state[f"norms_block.{level}.{kind}"] for kind in ("weight", "bias")}
        wanted = run_blocks(state | norm, tokens, eps=1e-6, rotate=rotate, depth=level + 1)
        assert (found[level] - wanted).abs().max() < TOLERANCE
    assert torch.equal(encoder(volume), found[-1])


@torch.no_grad()
def test_norms_of_levels_are_saved_and_read_again(dense_hub, tmp_path):
    encoder, _ = read_encoder(dense_hub[0], ConversionConfig(heads=HEADS, **RAW))
    encoder.save_pretrained(tmp_path / "saved")
    again = Encoder.from_pretrained(tmp_path / "saved")
    assert again.config == encoder.config
    volume = torch.randn(1, 1, 4, 32, 48, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again(volume, layers=[1])[0], encoder(volume, layers=[1])[0])


@torch.no_grad()
def test_the_predictor_of_v_jepa_2_1_says_what_it_said_there(dense_hub):
    path, _, theirs, inner = dense_hub
    encoder, _ = read_encoder(path, ConversionConfig(heads=HEADS, **RAW))
    config = replace(encoder.config, input_shape=(4, 32, 48))
    predictor, report = read_predictor(path, config, mask_sets=2, heads=2)
    assert not report.missing
    assert not report.unexpected
    order = torch.rand(1, 12, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    masks = Masks(order[:, :5], order[:, 5:9])
    context = draw(1, 5, LEVELS * WIDTH, seed=4)
    mixed = predictor.mix(context, masks, 1)
    of_context = predictor.proj_context(mixed.context_BKP)

    def linear(value, name):
        return value @ theirs[f"predictor_{name}.weight"].T + theirs[f"predictor_{name}.bias"]

    x = linear(functional.gelu(linear(context, "embed.0")), "embed.2")
    x = torch.cat([x, theirs["mask_tokens.1"].expand(1, 4, -1)], dim=1) + theirs["video_mod_embed"]
    stretched = places((2, 2, 3)) * torch.tensor([1.0, 15 / 1, 15 / 2])
    rotate = rotary_by_hand(stretched[order[0, :9]], 6, "interleaved")
    x = run_blocks(inner, x, eps=1e-6, heads=2, rotate=rotate, depth=2)
    assert (of_context - linear(x[:, :5], "proj_context")).abs().max() < TOLERANCE
    assert (predictor.proj(mixed.target_BMP) - linear(x[:, 5:], "proj")).abs().max() < TOLERANCE


def test_the_levels_are_those_of_the_reference():
    assert levels_of(12, 4) == [2, 5, 8, 11]
    assert levels_of(24, 4) == [5, 11, 17, 23]
    assert levels_of(40, 4) == [9, 19, 29, 39]
    assert levels_of(48, 4) == [11, 23, 37, 47]
    with pytest.raises(WeightsError, match="4 norms of levels do not belong to 3 blocks"):
        levels_of(3, 4)


@torch.no_grad()
def test_grey_volumes_and_thicker_patches_keep_the_tokens(hub):
    path, _, _ = hub
    colour, _ = read_encoder(path, ConversionConfig(heads=HEADS, **RAW))
    grey, report = read_encoder(
        path, ConversionConfig(heads=HEADS, channels=1, patch_size=(4, 8, 8), **RAW)
    )
    assert report.adapted == {
        "patches.proj.weight":
        "3 channels summed to 1, patches of (2, 8, 8) repeated to (4, 8, 8) and divided"
    }  # fmt: skip
    volume = torch.randn(2, 1, 4, 16, 24, generator=torch.Generator().manual_seed(3))
    wanted = colour(volume.expand(-1, 3, -1, -1, -1))
    doubled = volume.repeat_interleave(2, dim=2)
    assert (grey(doubled) - wanted).abs().max() < TOLERANCE


def test_the_numbers_that_normalise_are_imagenets_unless_given(hub):
    encoder, report = read_encoder(hub[0], ConversionConfig(heads=HEADS))
    assert (encoder.config.input_mean, encoder.config.input_std) == (114.5, 57.6)
    assert any("0 to 255" in note for note in report.notes)


def test_a_patch_that_would_need_new_weights_is_refused():
    with pytest.raises(WeightsError, match=r"along Z is 2 in the file and cannot become 3"):
        adapt_patches(torch.zeros(4, 1, 2, 8, 8), 1, (3, 8, 8))
    with pytest.raises(WeightsError, match=r"3 channels in the file cannot become 2"):
        adapt_patches(torch.zeros(4, 3, 2, 8, 8), 2, (2, 8, 8))
    repeated, _ = adapt_patches(torch.ones(4, 1, 2, 8, 8), 2, (2, 8, 8))
    assert repeated.shape[1] == 2
    assert repeated.sum() == 4 * 2 * 8 * 8


def test_the_predictor_comes_along_and_untrained_mask_tokens_are_the_first(hub):
    config = EncoderConfig(
        input_shape=(4, 16, 24), patch_size=(2, 8, 8), width=WIDTH, depth=DEPTH, heads=HEADS
    )
    predictor, report = read_predictor(hub[0], config, mask_sets=2, heads=2)
    assert not report.missing
    assert not report.unexpected
    assert torch.equal(predictor.mask_tokens[1], predictor.mask_tokens[0])
    assert torch.equal(predictor.mask_tokens[0], draw(1, 1, 12, seed=5).flatten())


def test_a_width_without_known_heads_asks_for_them(hub):
    with pytest.raises(WeightsError, match=r"vitx\.pt: .*heads a width of 24 has: set heads"):
        read_encoder(hub[0])


# Reports and refusals --------------------------------------------------------------------------


def test_less_than_95_percent_is_an_error_that_names_what_is_missing(hub, tmp_path):
    state = {name: value for name, value in hub[1].items() if not name.startswith("blocks.1.mlp")}
    torch.save({"encoder": state}, tmp_path / "torn.pt")
    with pytest.raises(WeightsError, match=r"torn\.pt: only 90% .* blocks\.1\.mlp\.fc1\.weight"):
        read_encoder(tmp_path / "torn.pt", ConversionConfig(heads=HEADS))


def test_a_single_lost_norm_is_an_error_even_at_98_percent():
    report = LoadReport(source="a.pt", layout="vjepa2", matched=[str(i) for i in range(98)])
    report.missing["blocks.0.norm1.bias"] = "not in the file"
    report.check()
    report.missing["norm.bias"] = "not in the file"
    with pytest.raises(WeightsError, match="98%"):
        report.check()


def test_the_report_prints_every_name_that_was_not_simply_taken():
    report = LoadReport(
        source="a.pt", layout="vjepa2 (version 2, encoder)", matched=["norm.weight"],
        adapted={"patches.proj.weight": "3 channels summed to 1"},
        missing={"norm.bias": "not in the file"}, unexpected=["pos_embed"], notes=["so assumed"],
    )  # fmt: skip
    text = str(report)
    for part in ("matched     1", "3 channels summed to 1", "norm.bias: not in the file",
                 "pos_embed", "found       66.7%", "so assumed"):  # fmt: skip
        assert part in text


class Hostile:
    """Unpickling it would call `print`."""

    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("value", [Hostile(), {"config": Hostile()}])
def test_a_file_that_wants_to_run_code_is_refused_in_one_line(value, tmp_path, capsys):
    torch.save({"model_state_dict": {}, "x": value}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt: refused, it wants to load print") as caught:
        read_checkpoint(tmp_path / "evil.pt")
    assert "\n" not in str(caught.value)
    assert "must never run" not in capsys.readouterr().out


def test_settings_of_omegaconf_are_read_without_omegaconf(predecessor):
    config = read_checkpoint(predecessor)["config"]
    assert config["image_size"] == list(SHAPE)
    assert config["wandb"] == {"project": "x"}
    assert config["manifest_path"] == "gs://b/m.tsv"
    assert config["resume_checkpoint"] is None


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"not a checkpoint", "cannot be read as a checkpoint"), (None, "no such file")],
)
def test_what_is_no_checkpoint_is_one_line(content, text, tmp_path):
    if content is not None:
        (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=text) as caught:
        read_encoder(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_an_unknown_layout_says_what_it_saw(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: no layout we know; .*'conv1\.weight'"):
        read_encoder(tmp_path / "a.pt")


def test_the_command_converts_and_prints_the_report(hub, tmp_path, capsys):
    out = tmp_path / "encoder"
    arguments = ["convert", str(hub[0]), str(out), "--heads", "2", "--channels", "1"]
    assert main([*arguments, "--patch-size", "4", "8", "8", "--input-shape", "8", "16", "24"]) == 0
    printed = capsys.readouterr().out
    assert "3 channels summed to 1" in printed
    assert "found       100.0%" in printed
    assert Encoder.from_pretrained(out).config.patch_size == (4, 8, 8)
    assert main(["convert", str(tmp_path / "no.pt"), str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_come_from_and_go_to_a_url(encoder, hub):
    pytest.importorskip("fsspec")
    from fsspec import filesystem

    encoder.save_pretrained("memory://bucket/encoder")
    again = Encoder.from_pretrained("memory://bucket/encoder")
    assert again.config == encoder.config
    assert torch.equal(again.patches.proj.weight, encoder.patches.proj.weight)
    filesystem("memory").put_file(str(hub[0]), "/bucket/vitx.pt")
    read, _ = read_encoder("memory://bucket/vitx.pt", ConversionConfig(heads=HEADS))
    assert read.config.width == WIDTH
    with pytest.raises(WeightsError, match=r"memory://bucket/nothing: cannot be fetched"):
        Encoder.from_pretrained("memory://bucket/nothing")
    with pytest.raises(WeightsError, match="gopher"):
        Encoder.from_pretrained("gopher://x/encoder")


def test_an_error_of_a_fetched_folder_names_the_url(encoder):
    pytest.importorskip("fsspec")
    from fsspec import filesystem

    encoder.save_pretrained("memory://bucket/torn")
    filesystem("memory").rm("/bucket/torn/model.safetensors")
    with pytest.raises(WeightsError, match=r"^memory://bucket/torn/model\.safetensors"):
        Encoder.from_pretrained("memory://bucket/torn")
