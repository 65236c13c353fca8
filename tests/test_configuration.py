import pytest

from gkgnet_hf import GKGNetConfig


@pytest.mark.parametrize(
    ("variant", "hidden_sizes", "depths"),
    [
        ("ti", (48, 96, 240, 384), (2, 2, 6, 2)),
        ("s", (80, 160, 400, 640), (2, 2, 6, 2)),
        ("m", (96, 192, 384, 768), (2, 2, 16, 2)),
        ("b", (128, 256, 512, 1024), (2, 2, 18, 2)),
    ],
)
def test_variants_have_the_sizes_of_the_paper(variant, hidden_sizes, depths):
    config = GKGNetConfig.from_variant(variant, image_size=576)
    assert (config.hidden_sizes, config.depths, config.image_size) == (hidden_sizes, depths, 576)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="'xl'"):
        GKGNetConfig.from_variant("xl")


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        (dict(depths=(2, 2, 2)), "hidden_sizes", r"\(80, 160, 400, 640\)"),
        (dict(pooling_ratios=(4, 2)), "pooling_ratios", r"\(4, 2\)"),
        (dict(num_label_blocks=(1,)), "num_label_blocks", r"\(1,\)"),
        (dict(num_groups=3), "num_groups=3", "80"),
        (dict(num_label_groups=7), "num_label_groups=7", "80"),
        (dict(hidden_sizes=(6, 12, 24, 48)), "hidden_sizes", "6"),
        (dict(num_neighbors=0), "num_neighbors", "0"),
        (dict(num_groups=0), "num_groups", "0"),
        (dict(depths=(2, 0, 6, 2)), "depths", r"\(2, 0, 6, 2\)"),
        (dict(depths=(), hidden_sizes=(), pooling_ratios=(), num_label_blocks=()), "depths", r"\(\)"),
        (dict(num_label_blocks=(1, -1, 1, 1)), "num_label_blocks", "-1"),
        (dict(image_size=16), "image_size", "16"),
        (dict(pooling_ratios=(100, 2, 1, 1)), "image_size must be at least 400", "224"),
        (dict(gamma_positive=float("nan")), "gamma_positive", "nan"),
        (dict(num_labels=0), "num_labels", "0"),
        (dict(image_size=[224]), "image_size", r"\[224\]"),
        (dict(drop_path_rate=1.0), "drop_path_rate", "1.0"),
        (dict(label_smoothing=-0.1), "label_smoothing", "-0.1"),
        (dict(gamma_negative=-1.0), "gamma_negative", "-1.0"),
        (dict(out_features=["stage9"]), "out_features", "stage9"),
    ],
)
def test_a_wrong_combination_names_field_and_value(settings, field, value):
    with pytest.raises(ValueError, match=rf"{field}.*{value}"):
        GKGNetConfig(**settings)


def test_everything_survives_saving(tmp_path):
    config = GKGNetConfig.from_variant(
        "ti", image_size=(96, 160), num_label_blocks=(0, 1, 2, 1), id2label={0: "cat", 1: "dog", 2: "owl"}
    )
    config.save_pretrained(tmp_path)
    reloaded = GKGNetConfig.from_pretrained(tmp_path)
    assert list(reloaded.num_label_blocks) == [0, 1, 2, 1]
    assert reloaded.image_height_width == (96, 160)
    assert reloaded.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert reloaded.problem_type == "multi_label_classification"


def test_a_pyramid_vig_needs_only_even_widths_without_position_bias():
    config = GKGNetConfig(hidden_sizes=(6, 10, 14, 18), use_position_bias=False)
    assert config.hidden_sizes == (6, 10, 14, 18)
