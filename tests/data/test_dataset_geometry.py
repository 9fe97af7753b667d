"""Points, images and boxes stay together under every augmentation, on the active host."""

import itertools

import numpy as np
import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.data.loader import seeded
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.projection import frustum_rays, image_from_lidar
from tests.helpers.tiny_frames import (
    AUGMENTORS,
    CLASSES,
    DOT,
    HEIGHT,
    MASKS,
    POINTS,
    WIDTH,
    configuration,
    dataset,
    draw_dot,
    write_frames,
)

WORLD = ("flip", "rotation", "scaling", "translation")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    write_frames(folder)
    return folder


def raw_points(root, info):
    """Number → position in the keyframe's frame of every point, from the files themselves."""
    folder, positions = root / "v1.0-mini", {}
    for path, matrix in [(info["lidar_path"], np.eye(4))] + [
        (sweep["lidar_path"], sweep["transform_matrix"]) for sweep in info["sweeps"]
    ]:
        for x, y, z, number, _ in np.fromfile(folder / path, np.float32).reshape(-1, 5):
            positions[int(number)] = (matrix @ [x, y, z, 1.0])[:3]
    return positions


def homogeneous(points):
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


@pytest.mark.parametrize("augmentors", [*itertools.permutations(WORLD), *((one,) for one in WORLD)])
def test_the_lidar_matrix_leads_back_to_the_raw_points_for_any_order_of_augmentors(
    root, augmentors
):
    data = dataset(root, augmentors=augmentors)
    expected = raw_points(root, data.infos[0])
    moved = 0.0
    for seed in range(3):
        with seeded(seed):
            sample = data[0]
        undone = homogeneous(sample["points"][:, :3]) @ np.linalg.inv(sample["lidar_aug_matrix"]).T
        raw = np.stack([expected[int(number)] for number in sample["points"][:, 3]])
        # float32 coordinates of 30 m go through four products: a few 1e-6 m each.
        np.testing.assert_allclose(undone[:, :3], raw, atol=3e-5)
        moved = max(moved, np.abs(sample["points"][:, :3] - raw).max())
    assert moved > 0.1


@pytest.mark.skipif(
    host.NAME != "builtin", reason="needs NSMAE_HOST=builtin: OpenPCDet keeps only the last draw"
)
def test_repeated_world_augmentors_are_gathered_in_the_lidar_matrix(root):
    config = configuration(root, augmentors=("rotation", "translation", "rotation", "flip"))
    data = MultiModalNuScenesDataset(config, CLASSES)
    expected = raw_points(root, data.infos[0])
    with seeded(1):
        sample = data[0]
    raw = np.stack([expected[int(number)] for number in sample["points"][:, 3]])
    there = homogeneous(raw) @ sample["lidar_aug_matrix"].T
    np.testing.assert_allclose(there[:, :3], sample["points"][:, :3], atol=3e-5)


@pytest.mark.skipif(
    host.NAME != "openpcdet", reason="needs NSMAE_HOST=openpcdet: the built-in host can do it"
)
def test_openpcdet_refuses_repeated_world_augmentors(root):
    config = configuration(root, augmentors=("rotation", "flip", "rotation"))
    with pytest.raises(ConfigError, match="random_world_rotation occurs more than once"):
        MultiModalNuScenesDataset(config, CLASSES)


@pytest.mark.parametrize("augmentors", [(), ("imgaug",), tuple(AUGMENTORS), ("imgaug", *WORLD)])
def test_a_point_meets_its_image_under_every_augmentation(tmp_path, augmentors):
    """A dot is drawn where a point projects; in the network's input it lies where the matrices
    of the batch put the augmented point."""
    infos = write_frames(tmp_path, frames=1, cameras=3)
    data = dataset(tmp_path, augmentors=augmentors, without=MASKS)
    with seeded(0):
        calibration = data[0]
    positions = raw_points(tmp_path, infos[0])
    found = 0
    for camera, channel in enumerate(infos[0]["cams"]):
        for number, position in itertools.islice(positions.items(), 0, POINTS, 7):
            u, v, depth, _ = calibration["lidar2image"][camera] @ [*position, 1.0]
            pixel = np.array([u, v]) / depth
            inside = (pixel > [30, 50]).all() and (pixel < [WIDTH - 60, HEIGHT - 10]).all()
            if depth < 1 or not inside:
                continue
            offset = draw_dot(tmp_path, infos[0], channel, pixel) - pixel
            for seed in range(4):
                with seeded(seed):
                    sample = data[0]
                point = sample["points"][sample["points"][:, 3] == number][0, :3]
                found += check_dot(sample, camera, point, offset)
    assert found > 20


def check_dot(sample, camera, point, offset) -> bool:
    """Whether the dot is fully in view; fails when it is not where the matrices put it.

    Args:
        point: (3,) in the augmented LiDAR frame, metres.
        offset: from the point's raw pixel to the centre of the dot.
    """
    matrix = sample["img_aug_matrix"][camera]
    image = sample["camera_imgs"][camera].numpy().sum(axis=0)
    brightness = (image - image.min()) / (
        1 / 0.2 + 1 / 0.25 + 1 / 0.5
    )  # white less black, over std
    if brightness.sum() < 0.95 * DOT**2 * abs(np.linalg.det(matrix[:2, :2])):
        return False
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    seen = np.array([(brightness * columns).sum(), (brightness * rows).sum()]) / brightness.sum()
    raw = np.linalg.inv(sample["lidar_aug_matrix"]) @ [*point, 1.0]
    u, v, depth, _ = sample["lidar2image"][camera] @ raw
    dot = np.array([u / depth, v / depth]) + offset
    expected = matrix[:2, :2] @ dot + matrix[:2, 3]
    # Scaling keeps the centre of brightness (8 bits round it a little); turning takes the nearest
    # pixel, which shifts a small dot by up to half a pixel.
    np.testing.assert_allclose(seen, expected, atol=0.55 if matrix[0, 1] else 0.05)
    return True


def test_boxes_and_velocities_move_with_the_points(root):
    data = dataset(root, augmentors=WORLD[::-1], USE_LABELS=True)
    for seed in range(6):
        with seeded(seed):
            sample = data[0]
        matrix, box = sample["lidar_aug_matrix"], data.infos[0]["gt_boxes"][0]
        scale = np.cbrt(abs(np.linalg.det(matrix[:3, :3])))
        moved = sample["gt_boxes"][0]
        np.testing.assert_allclose(moved[:3], (matrix @ [*box[:3], 1])[:3], atol=1e-4)
        np.testing.assert_allclose(moved[3:6], scale * box[3:6], rtol=1e-5)
        ahead = matrix[:2, :2] @ [np.cos(box[6]), np.sin(box[6])] / scale
        np.testing.assert_allclose([np.cos(moved[6]), np.sin(moved[6])], ahead, atol=1e-5)
        np.testing.assert_allclose(moved[7:9], matrix[:2, :2] @ box[7:9], atol=1e-5)
        assert moved[9] == 1  # class index of car
        assert np.array_equal(sample["gt_boxes"][1, 7:9], [0, 0])  # NaN velocity to zeros


def corners(box):
    """(8, 3) of a box x, y, z, dx, dy, dz, heading."""
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    x, y, z = (signs * box[3:6]).T
    cos, sin = np.cos(box[6]), np.sin(box[6])
    return np.stack([x * cos - y * sin, x * sin + y * cos, z], axis=1) + box[:3]


def nearest(points, others):
    """(K,) of each of the points the nearest other, and its distance."""
    distance = np.linalg.norm(points[:, None] - others, axis=2)
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.mark.parametrize("augmentors", [WORLD, WORLD[::-1], *((one,) for one in WORLD)])
def test_the_corners_of_boxes_move_as_points_do(root, augmentors):
    data = dataset(root, augmentors=augmentors, USE_LABELS=True)
    for seed in range(6):
        with seeded(seed):
            sample = data[0]
        for raw, moved in zip(data.infos[0]["gt_boxes"], sample["gt_boxes"], strict=True):
            expected = homogeneous(corners(raw)) @ sample["lidar_aug_matrix"].T
            match, distance = nearest(corners(moved), expected[:, :3])
            assert distance.max() < 1e-4  # metres; float32
            assert sorted(match) == list(range(8))  # a mirrored box has them in another order


def test_points_stay_inside_and_outside_of_boxes(tmp_path):
    infos = write_frames(tmp_path, frames=1)
    box = infos[0]["gt_boxes"][0]
    rng = np.random.default_rng(0)
    cloud = np.zeros((POINTS, 5), np.float32)
    cloud[:, :3] = box[:3] + rng.uniform(-3, 3, (POINTS, 3)) * [1, 1, 0.5]
    cloud[:, 3] = np.arange(POINTS)
    cloud.tofile(tmp_path / "v1.0-mini" / infos[0]["lidar_path"])

    def inside(points, box, margin):
        offset = points - box[:3]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        along = offset[:, 0] * cos + offset[:, 1] * sin
        across = offset[:, 1] * cos - offset[:, 0] * sin
        local = np.stack([along, across, offset[:, 2]], axis=1)
        return (np.abs(local) < np.array(box[3:6]) / 2 + margin).all(axis=1)

    surely = set(np.flatnonzero(inside(cloud[:, :3], box, -0.01)))
    perhaps = set(np.flatnonzero(inside(cloud[:, :3], box, 0.01)))
    assert len(surely) > 20
    data = dataset(tmp_path, augmentors=WORLD, USE_LABELS=True)
    for seed in range(6):
        with seeded(seed):
            sample = data[0]
        points = sample["points"][sample["points"][:, 3] < POINTS]
        held = set(points[inside(points[:, :3], sample["gt_boxes"][0], 0), 3].astype(int))
        assert surely <= held <= perhaps


@pytest.mark.parametrize("augmentors", [("imgaug",), tuple(AUGMENTORS), ("imgaug", *WORLD[::-1])])
def test_a_box_meets_its_image_under_every_augmentation(tmp_path, augmentors):
    """A dot is drawn where a corner of a box projects; the corner of the augmented box is there."""
    infos = write_frames(tmp_path, frames=1, cameras=3)
    data = dataset(tmp_path, augmentors=augmentors, without=MASKS, USE_LABELS=True)
    with seeded(0):
        calibration = data[0]
    found = 0
    for corner in corners(infos[0]["gt_boxes"][0]):  # 10 m in front of the first camera
        u, v, depth, _ = calibration["lidar2image"][0] @ [*corner, 1.0]
        pixel = np.array([u, v]) / depth
        offset = draw_dot(tmp_path, infos[0], "CAM_0", pixel) - pixel
        for seed in range(4):
            with seeded(seed):
                sample = data[0]
            moved = sample["lidar_aug_matrix"] @ [*corner, 1.0]
            there = corners(sample["gt_boxes"][0])
            (match,), _ = nearest(moved[None, :3], there)
            found += check_dot(sample, 0, there[match], offset)
    assert found > 10


@pytest.mark.parametrize("augmentors", [(), tuple(AUGMENTORS)])
def test_pixels_of_a_box_are_lifted_into_the_box(root, augmentors):
    """The view transform's rays, through the pixel and depth at which a camera sees a centre."""
    data = dataset(root, augmentors=augmentors, USE_LABELS=True)
    keys = ("lidar2image", "camera_intrinsics", "camera2lidar", "img_aug_matrix")
    seen = 0
    for seed in range(4):
        with seeded(seed):
            batch = host.to_device(data.collate_batch([data[0], data[1]]), "cpu")
        centres, world = batch["gt_boxes"][:, :, :3], batch["lidar_aug_matrix"]
        image, intrinsics, pose, turned = (batch[key] for key in keys)
        pixels, depth = image_from_lidar(centres, image, turned, world)
        rays, origins = frustum_rays(pixels, intrinsics, pose, turned, world)
        lifted = origins[:, :, None] + rays * depth[..., None]
        ahead = depth > 0
        expected = centres[:, None].expand_as(lifted)[ahead]
        # Two inverse chains in float32 at 10 m.
        torch.testing.assert_close(lifted[ahead], expected, atol=1e-3, rtol=0)
        seen += int(ahead.sum())
    assert seen > 8


@pytest.mark.parametrize("augmentors", [(), WORLD])
def test_the_cell_of_a_boxs_centre_is_the_cell_of_a_point_there(tmp_path, augmentors):
    """Heads mark the cell of a centre; LiDAR features of that place must be in the same one."""
    infos = write_frames(tmp_path, frames=1)
    cloud = np.zeros((len(infos[0]["gt_boxes"]), 5), np.float32)
    cloud[:, :3] = infos[0]["gt_boxes"][:, :3]
    cloud.tofile(tmp_path / "v1.0-mini" / infos[0]["lidar_path"])
    without = ("mask_voxels", "mask_depth_points")
    data = dataset(tmp_path, augmentors=augmentors, without=without, USE_LABELS=True, MAX_SWEEPS=1)
    for seed in range(6):
        with seeded(seed):
            sample = data[0]
        cells = (sample["gt_boxes"][:, :3] - data.point_cloud_range[:3]) / 0.5
        clear = (np.abs(cells - np.round(cells)) > 1e-3).all(axis=1)  # of the border between two
        wanted = np.floor(cells[clear]).astype(int)[:, ::-1]  # z, y, x
        assert {tuple(one) for one in wanted} <= {tuple(one) for one in sample["voxel_coords"]}
