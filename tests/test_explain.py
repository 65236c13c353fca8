"""What each label looked at: exact shares, places in the image, pictures."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import CLIPImageProcessor, ViTImageProcessor

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.explain import explain, image_area, patch_neighbors
from gkgnet_hf.explain.attribution import label_looks
from gkgnet_hf.modeling.group_knn import max_relative_reference
from gkgnet_hf.predict import predict_scores

NAMES = ["cat", "dog", "owl", "fox"]


def small_config(**changes):
    sizes = {"hidden_sizes": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "image_size": 64}
    return GKGNetConfig(**{**sizes, "id2label": dict(enumerate(NAMES)), **changes})


def network(**changes):
    """A network whose batch norms and classifiers are not those of the start, at which much is 0."""
    model = GKGNetForImageClassification(small_config(**changes)).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1 or "classifier" in name:
                tensor.normal_(0.1, 0.1)
    return model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return network()


@pytest.fixture(scope="module")
def processor(model):
    return create_image_processor(model.config)


def photo(width=90, height=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def seen(model, processor):
    return explain(model, processor, photo())


class TestShares:
    def test_the_shares_of_a_label_sum_to_one_at_every_stage(self, seen):
        assert list(seen.label_stages) == [1, 2, 3, 4]
        for looks in seen.label_stages.values():
            assert looks.neighbors.shape == looks.shares.shape == (4, 2, min(9, looks.grid[0] * looks.grid[1]))
            np.testing.assert_allclose(looks.shares.sum((1, 2)), 1, rtol=1e-6)

    def test_a_patch_without_a_share_changes_no_message_and_one_with_a_share_does(self, model):
        pixel_values = torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            outputs = model.gkgnet(pixel_values, output_hidden_states=True, output_neighbors=True)
        without_share = 0
        for stage, looks in label_looks(outputs, image=1).items():
            neighbors = torch.from_numpy(looks.neighbors).transpose(0, 1)[None]  # (1, G, L, K)
            shares = torch.from_numpy(looks.shares).transpose(0, 1)[None]
            patches = outputs.hidden_states[stage][1:].flatten(2).transpose(1, 2)  # (1, H·W, C)
            sources = patches.unflatten(2, (2, -1)).transpose(1, 2)  # (1, G, H·W, C/G)
            ends = sources.gather(2, neighbors.flatten(2)[..., None].expand(-1, -1, -1, sources.shape[-1]))
            ends = ends.unflatten(2, neighbors.shape[2:])  # (1, G, L, K, C/G)
            message = max_relative_reference(torch.zeros(1, 2, 4, sources.shape[-1]), sources, neighbors)
            for k in range(neighbors.shape[3]):
                others = [i for i in range(neighbors.shape[3]) if i != k]
                left = ends[:, :, :, others].max(3).values
                unchanged = (left == message).all(-1)
                assert torch.equal(unchanged, shares[..., k] == 0)
                without_share += int(unchanged.sum())
        assert without_share

    def test_the_parts_of_a_score_add_up(self, model, processor, seen):
        scores = predict_scores(model, processor, [photo()])[0]
        order = [NAMES.index(label) for label in seen.labels]
        np.testing.assert_allclose(seen.scores, scores[order], rtol=1e-5)
        assert (np.diff(seen.scores) <= 0).all()
        logits = np.log(seen.scores / (1 - seen.scores))
        np.testing.assert_allclose(seen.label_logits + seen.patch_logits, logits, rtol=1e-3, atol=1e-4)
        bias = model.patch_classifier.bias.detach().numpy()[order]
        np.testing.assert_allclose(seen.patch_maps.sum((1, 2)) + bias, seen.patch_logits, rtol=1e-4, atol=1e-5)

    def test_labels_come_as_asked_for(self, model, processor, seen):
        some = explain(model, processor, photo(), labels=["fox", "cat"])
        assert some.labels == ["fox", "cat"]
        for row, label in enumerate(some.labels):
            np.testing.assert_array_equal(
                some.label_stages[2].shares[row], seen.label_stages[2].shares[seen.index(label)]
            )

    def test_the_model_is_as_it_was_afterwards(self, processor):
        model = network().train()
        model.gkgnet.backbone.stem.eval()
        explain(model, processor, photo())
        assert model.training
        assert not model.gkgnet.backbone.stem.training
        assert not any(module._forward_hooks for module in model.modules())


class TestHeatMaps:
    def test_a_heat_map_sums_to_one(self, seen):
        for stage in (None, 1, 2, 3, 4):
            heat = seen.heat_map("dog", stage)
            assert heat.sum() == pytest.approx(1, rel=1e-5)
        assert seen.heat_map("dog").shape == (16, 16)
        assert seen.heat_map("dog", stage=4).shape == (2, 2)

    @pytest.mark.parametrize("size", [(64, 64), (100, 60), (36, 132)])
    def test_a_coarse_patch_divides_its_share_among_the_fine_ones_it_covers(self, size):
        model = network(image_size=size, num_label_blocks=(1, 0, 0, 1))
        seen = explain(model, create_image_processor(model.config), photo(), labels=["owl"])
        assert list(seen.label_stages) == [1, 4]
        fine, coarse, heat = (seen.heat_map("owl", stage) for stage in (1, 4, None))
        spread = 2 * heat - fine
        for row in range(coarse.shape[0]):
            for column in range(coarse.shape[1]):
                part = spread[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                assert part.sum() == pytest.approx(coarse[row, column], abs=1e-6)
                np.testing.assert_allclose(part, part[0, 0], atol=1e-6)


class TestPlaces:
    @pytest.mark.parametrize(
        ("processor", "expected"),
        [
            (ViTImageProcessor(size={"height": 64, "width": 64}), (0, 0, 400, 200)),
            (ViTImageProcessor(do_resize=False), (0, 0, 400, 200)),
            (ViTImageProcessor(size={"shortest_edge": 100}), (0, 0, 400, 200)),
        ],
    )
    def test_a_resized_image_is_seen_whole(self, processor, expected):
        assert image_area(processor, 400, 200) == expected

    def test_a_centre_crop_sees_its_part_as_the_processor_cuts_it(self):
        processor = CLIPImageProcessor(size={"shortest_edge": 50}, crop_size={"height": 40, "width": 40})
        left, top, right, bottom = image_area(processor, 200, 100)
        marked = np.zeros((100, 200, 3), dtype=np.uint8)
        marked[:, : int(left)], marked[:, int(right) :] = 255, 255
        marked[: int(top)], marked[int(bottom) :] = 255, 255
        values = processor(Image.fromarray(marked), return_tensors="np", do_normalize=False, resample=0)["pixel_values"]
        assert values.max() == 0
        assert (right - left, bottom - top) == (80, 80)

    def test_an_unknown_resizing_is_refused(self):
        with pytest.raises(ValueError, match="longest_edge"):
            image_area(ViTImageProcessor(size={"longest_edge": 100}), 40, 20)

    def test_the_boxes_tile_what_was_seen(self, seen):
        for stage, side in ((1, 16), (2, 8), (3, 4), (4, 2)):
            boxes = seen.boxes(stage)
            assert boxes.shape == (side * side, 4)
            assert boxes[0].tolist() == [0, 0, 90 / side, 60 / side]
            assert boxes[-1, 2:].tolist() == [90, 60]

    def test_patches_at_the_rim_are_cut(self):
        model = network(image_size=(36, 100))
        boxes = explain(model, create_image_processor(model.config), photo(100, 36)).boxes(4)
        assert boxes.shape == (2 * 4, 4)
        np.testing.assert_allclose(boxes[-1], [96, 32, 100, 36], rtol=1e-6)

    def test_the_patch_of_a_pixel_is_the_one_whose_box_holds_it(self, seen):
        assert seen.patch_at(0, 0, stage=4) == 0
        assert seen.patch_at(89.9, 59.9, stage=4) == 3
        with pytest.raises(ValueError, match="the network saw x 0 to 90, y 0 to 60"):
            seen.patch_at(90, 10, stage=4)


class TestPatchNeighbors:
    def test_transformers_and_timm_find_the_same(self):
        timm_model = timm.create_model("gkgnet_ti", num_classes=2).eval()
        model = GKGNetForImageClassification(GKGNetConfig.from_variant("ti", num_labels=2)).eval()
        model.gkgnet.backbone.load_state_dict(timm_model.state_dict(), strict=False)
        pixel_values = torch.randn(2, 3, 96, 64)
        ours, timms = patch_neighbors(model, pixel_values), patch_neighbors(timm_model, pixel_values)
        assert [looks.source_grid for looks in ours.values()] == [(6, 4), (6, 4), (6, 4), (3, 2)]
        assert [looks.source_side for looks in ours.values()] == [16, 16, 16, 32]
        for stage in (1, 2, 3, 4):
            np.testing.assert_array_equal(ours[stage].neighbors, timms[stage].neighbors)

    def test_a_patch_is_its_own_nearest_neighbour_without_pooling(self, model):
        looks = patch_neighbors(model, torch.randn(1, 3, 64, 64))[3]
        np.testing.assert_array_equal(looks.neighbors[0, :, :, 0], np.broadcast_to(np.arange(16), (2, 16)))

    def test_another_network_is_refused(self):
        with pytest.raises(ValueError, match="must be a GKGNet or Pyramid ViG, got Linear"):
            patch_neighbors(torch.nn.Linear(2, 2), torch.zeros(1, 2))


class TestPictures:
    def test_figures_are_files_of_the_kind_that_is_asked_for(self, seen, tmp_path):
        for name in ("a.png", "b.svg"):
            seen.save(tmp_path / name, labels=["cat"], stage=3)
            assert (tmp_path / name).stat().st_size > 1000
        seen.plot_heat().savefig(tmp_path / "c.png")
        seen.plot_neighbors(45, 30, stage=1).savefig(tmp_path / "d.png")

    def test_a_name_is_text_and_no_formula(self, processor, tmp_path):
        name = "$\\frac$\n\x1b[2J"
        seen = explain(network(id2label={0: name}), processor, photo())
        assert [axes.get_title().split()[0] for axes in seen.plot().axes] == ["$\\frac$\\n\\x1b[2J"]
        seen.save(tmp_path / "a.png")
        seen.plot_heat().savefig(tmp_path / "b.png")

    def test_the_neighbours_drawn_are_those_of_the_arrays(self, seen):
        looks = seen.label_stages[4]
        (axes,) = seen.plot(labels=["owl"]).axes
        drawn = {tuple(np.round(patch.get_xy(), 3)) for patch in axes.patches if patch.get_fill()}
        row = seen.index("owl")
        expected = set()
        for group in range(2):
            for left, top, right, bottom in seen.boxes(4)[looks.neighbors[row, group]].tolist():
                inset = 0.06 * group
                corner = (left + inset * (right - left), top + inset * (bottom - top))
                expected.add(tuple(np.round(corner, 3)))
        assert drawn == expected

    def test_the_highest_scores_are_drawn_where_nothing_is_asked_for(self, seen):
        titles = [axes.get_title() for axes in seen.plot().axes]
        assert [title.split()[0] for title in titles] == seen.labels[:3]

    def test_the_whole_image_is_drawn_and_boxes_count_from_its_corner(self, seen):
        for figure in (seen.plot(), seen.plot_heat(), seen.plot_neighbors(5, 5)):
            assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook asks for
            for axes in figure.axes:
                assert (axes.get_xlim(), axes.get_ylim()) == ((0, seen.image.width), (seen.image.height, 0))


class TestWrongInput:
    def test_a_label_that_is_not_there(self, model, processor, seen):
        with pytest.raises(ValueError, match=r"'zebra' is not among the 4 label names \(cat, dog, owl, fox\)"):
            explain(model, processor, photo(), labels=["cat", "zebra"])
        with pytest.raises(ValueError, match="'zebra' is not among the 4"):
            seen.heat_map("zebra")

    def test_a_text_is_no_list_of_labels(self, model, processor, seen):
        with pytest.raises(ValueError, match="a list of names, got the text 'cat'"):
            explain(model, processor, photo(), labels="cat")
        with pytest.raises(ValueError, match="a list of names, got the text 'cat'"):
            seen.plot("cat")

    def test_what_is_no_image_or_no_classifier_is_named(self, model, processor):
        with pytest.raises(TypeError, match="a PIL image or an array, got list"):
            explain(model, processor, [photo()])
        with pytest.raises(ValueError, match="with its classifier, got GKGNetModel"):
            explain(model.gkgnet, processor, photo())

    def test_a_stage_that_is_not_there(self, seen):
        with pytest.raises(ValueError, match="stage must be one of 1, 2, 3, 4; got 5"):
            seen.plot(stage=5)
        with pytest.raises(ValueError, match="stage must be one of 1, 2, 3, 4; got 0"):
            seen.boxes(0)

    def test_a_network_without_label_nodes_has_patch_maps_alone(self, processor):
        model = network(num_label_blocks=(0, 0, 0, 0))
        seen = explain(model, processor, photo())
        assert seen.label_stages == {}
        assert not seen.label_logits.any()
        with pytest.raises(ValueError, match="no label nodes"):
            seen.heat_map("cat")
        with pytest.raises(ValueError, match="no label nodes"):
            seen.plot()

    def test_a_file_that_is_not_there(self, model, processor, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"No image file at .*gone\.png"):
            explain(model, processor, tmp_path / "gone.png")
