"""``tools/infer.py`` with networks that know the vector map: files, thresholds, films, errors."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from nsmae_plugin.config.load import load_config
from nsmae_plugin.formats.nuscenes.scenes import scenes_of_samples
from nsmae_plugin.geometry.boxes import lidar_to_global
from nsmae_plugin.runs.infer import save_films
from nsmae_plugin.runs.loaded_model import load_model
from nsmae_plugin.visualization.colours import MAP_COLOURS
from tests.helpers import map_oracle, oracle
from tests.helpers.map_oracle import MAP_CONFIG
from tests.helpers.oracle import boxes_of, call
from tests.runs.test_infer_folder import export

map_oracle.register()
oracle.register()
MAP_FILES = ["map.npz", "map.png", "map_cameras.png"]


@pytest.fixture(scope="module")
def arguments(synthetic_root, tmp_path_factory):
    """Arguments for a network of a name, wrong by an offset, on the synthetic dataset."""

    def write(name="OracleSegmenter", offset=(0.0, 0.0)):
        folder = tmp_path_factory.mktemp("map_oracle")
        return map_oracle.write_arguments(folder, synthetic_root, name, offset)

    return write


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_map_of_a_sample_is_that_of_the_network(arguments, infos, tmp_path, capsys):
    settings = arguments()
    paths = call(capsys, *settings, "--index", 1, "--output_dir", tmp_path)
    assert paths == [tmp_path / infos[1]["token"] / name for name in MAP_FILES]
    content = arrays(paths[0])
    loaded = load_model(load_config(settings[1]), "test", torch.device("cpu"))
    labels = loaded.batch_of(1)["gt_masks_bev"][0]
    assert labels.any()
    np.testing.assert_array_equal(content["labels"], labels)
    # 0.9 and 0.1 in half precision.
    np.testing.assert_allclose(content["probabilities"], np.where(labels, 0.9, 0.1), atol=5e-4)
    assert content["classes"].tolist() == MAP_CONFIG["CLASSES"]
    assert content["x_bound"].tolist() == MAP_CONFIG["XBOUND"]
    assert set(content["iou"][labels.any(axis=(1, 2))]) == {1.0}
    np.testing.assert_allclose(content["lidar_to_global"], lidar_to_global(infos[1]))
    assert str(content["sample"]) == infos[1]["token"]
    assert "after 3 epochs, 12 steps" in str(content["network"])


def test_the_threshold_decides_what_is_drawn_and_told(arguments, tmp_path, capsys, caplog):
    """All cells are at least 0.1 probable, so at 0.05 every class covers the map."""
    flags = ["--index", 0, "--map_threshold", 0.05, "--output_dir", tmp_path]
    with caplog.at_level("INFO"):
        path, picture, _ = call(capsys, *arguments(), *flags)
    content = arrays(path)
    assert content["threshold"] == 0.05
    share = content["labels"].mean(axis=(1, 2))
    np.testing.assert_allclose(content["iou"], share)
    assert f"drivable_area 100.0 % (IoU {100 * share[0]:.1f} %)" in caplog.text
    colour = np.round(255 * np.array(to_rgb(MAP_COLOURS["divider"])))
    divider = (pixels(picture) == colour).all(axis=-1)
    assert divider.mean() > 0.1  # painted last, it covers the predicted map


def test_the_vector_map_is_laid_upon_the_images_on_request(arguments, tmp_path, capsys):
    """The vector map of a network that is wrong by 5 m is the prediction of one that is right,
    but for the heading."""
    pictures = {}
    for name, offset, flags in (
        ("wrong", 10.0, []),
        ("truth", 10.0, ["--labels"]),
        ("right", 0.0, []),
    ):
        more = ["--index", 0, "--output_dir", tmp_path / name, *flags]
        *_, path = call(capsys, *arguments(offset=(0.0, offset)), *more)
        pictures[name] = pixels(path)[40:]
    np.testing.assert_array_equal(pictures["truth"], pictures["right"])
    assert (pictures["truth"] != pictures["wrong"]).any()


def test_a_network_of_both_writes_boxes_and_map(arguments, infos, synthetic_root, tmp_path, capsys):
    """Of a scene: the files of every keyframe, and a film of each kind."""
    scene = scenes_of_samples(synthetic_root / "v1.0-mini", "v1.0-mini")[infos[0]["token"]]
    settings = arguments("OracleOfBoth")
    *paths, film, map_film = call(capsys, *settings, "--scene", scene, "--output_dir", tmp_path)
    names = [*oracle.PICTURES, *MAP_FILES]
    assert paths == [
        tmp_path / scene / f"{number:03d}" / one for number in range(3) for one in names
    ]
    assert (film.name, map_film.name) == ("film.gif", "map.gif")
    for path in (film, map_film):
        with Image.open(path) as images:
            assert images.n_frames == 3
    assert boxes_of(paths[0])["boxes"]
    assert np.nanmin(arrays(paths[3])["iou"]) == 1


def test_films_are_of_what_was_written_for_several_samples(tmp_path):
    samples = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        samples.append([folder / name for name in MAP_FILES])
        for path in samples[-1][1:]:
            Image.new("RGB", (300, 200 + 100 * number)).save(path)
    assert save_films(samples[:1], 0.5, tmp_path) == []
    (film,) = save_films(samples, 0.5, tmp_path)
    assert film == tmp_path / "map.gif"
    with Image.open(film) as images:
        assert images.n_frames == 2
        assert images.width == 300  # map.png alone


def test_frames_of_ones_own_have_no_vector_map(arguments, infos, synthetic_root, tmp_path, capsys):
    folder = export(infos[:1], synthetic_root / "v1.0-mini", tmp_path)
    settings = [*arguments(), "--folder", folder, "--output_dir", tmp_path / "out"]
    path, *_ = call(capsys, *settings)
    content = arrays(path)
    assert not {"labels", "iou"} & set(content)
    assert (content["probabilities"][0] > 0.5).all()
    np.testing.assert_allclose(content["lidar_to_global"], lidar_to_global(infos[0]))
    error = call(capsys, *settings, "--labels", code=1)
    assert "no vector map of sample frame0 is known that --labels could draw" in error


def test_the_vector_map_of_a_network_without_map_is_an_error(synthetic_root, tmp_path, capsys):
    settings = oracle.write_arguments(tmp_path, synthetic_root)
    more = ["--index", 0, "--labels", "--output_dir", tmp_path]
    error = call(capsys, *settings, *more, code=1)
    assert "MODEL.NAME OracleDetector predicts no map; omit --labels" in error


def test_probabilities_that_are_no_numbers_are_an_error(arguments, tmp_path, capsys):
    settings = arguments(offset=(oracle.BROKEN, 0.0))
    error = call(capsys, *settings, "--index", 0, "--output_dir", tmp_path, code=1)
    assert "predicts NaN or infinity for sample" in error
    assert "masks_bev" in error
    assert not list(tmp_path.glob("*/map.npz"))
