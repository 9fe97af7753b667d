"""OpenPCDet's own wrappers on top of whatever serves its compiled extensions."""

import math

import pytest
import torch

pytestmark = pytest.mark.openpcdet


@pytest.fixture(scope="module", autouse=True)
def host(openpcdet_root):
    from nsmae_plugin.host import openpcdet

    return openpcdet


@pytest.fixture
def compute_device(device):
    """The host hands tensors to OpenPCDet on the GPU wherever there is one."""
    if torch.cuda.is_available() and device.type == "cpu":
        pytest.skip("OpenPCDet uses the GPU where there is one")
    return device


def boxes(device):
    """A car, the same car turned by 90 degrees and half a metre higher, and one far away."""
    return torch.tensor(
        [
            [10.0, 5, 0, 4, 2, 2, 0],
            [10.0, 5, 0.5, 4, 2, 2, math.pi / 2],
            [-30.0, 5, 0, 4, 2, 2, 0],
        ],
        device=device,
    )


def test_iou_in_three_dimensions(compute_device):
    from pcdet.ops.iou3d_nms import iou3d_nms_utils as utils

    b = boxes(compute_device)
    shared = 4.0 * 1.5  # 2 m x 2 m in plan, 1.5 m of common height
    iou = shared / (16 + 16 - shared)
    expected = torch.tensor([[1, iou, 0], [iou, 1, 0], [0, 0, 1]])
    # float32, volumes of 16 m3
    torch.testing.assert_close(utils.boxes_iou3d_gpu(b, b).cpu(), expected, atol=1e-5, rtol=0)
    paired = utils.boxes_aligned_iou3d_gpu(b, b.roll(1, 0)).flatten().cpu()
    torch.testing.assert_close(paired, torch.tensor([0, iou, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(utils.paired_boxes_iou3d_gpu(b, b.roll(1, 0)).cpu(), paired)
    in_plan = utils.boxes_bev_iou_cpu(b.cpu(), b.cpu())
    assert in_plan[0, 1].item() == pytest.approx(4 / 12, abs=1e-5)


def test_suppression_keeps_the_best_score_and_translates_indices(compute_device):
    from pcdet.ops.iou3d_nms import iou3d_nms_utils as utils

    scores = torch.tensor([0.3, 0.9, 0.5], device=compute_device)
    kept, _ = utils.nms_gpu(boxes(compute_device), scores, thresh=0.2)
    assert kept.tolist() == [1, 2]
    kept, _ = utils.nms_gpu(boxes(compute_device), scores, thresh=0.2, pre_maxsize=1)
    assert kept.tolist() == [1]
    kept, _ = utils.nms_normal_gpu(boxes(compute_device), scores, thresh=0.2)
    assert kept.tolist() == [1, 2]  # without headings the first two are the same rectangle


def test_points_find_their_box(compute_device):
    from pcdet.ops.roiaware_pool3d import roiaware_pool3d_utils as utils

    b = boxes(compute_device)
    points = torch.tensor([[10.0, 5, 0], [10, 6.5, 0], [0, 0, 0]], device=compute_device)
    assert utils.points_in_boxes_gpu(points[None], b[None]).tolist() == [[0, 1, -1]]
    expected = [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert utils.points_in_boxes_cpu(points.cpu(), b.cpu()).tolist() == expected


def test_bev_pooling_sums_and_passes_gradients_back(compute_device):
    """The operator with its autograd function, called with sizes as DepthLSSTransform does."""
    from pcdet.ops.bev_pool import bev_pool

    generator = torch.Generator().manual_seed(0)
    height, width, depth, batch = 5, 4, 1, 2
    bounds = (height, width, depth, batch)
    cells = torch.stack([torch.randint(n, (200,), generator=generator) for n in bounds], dim=1)
    x = torch.randn(200, 6, generator=generator).to(compute_device).requires_grad_()
    sizes = torch.tensor([depth, height, width])
    out = bev_pool(x, cells.to(compute_device), batch, *sizes)
    assert out.shape == (batch, 6, depth, height, width)
    expected = torch.zeros(out.shape)
    for feature, (row, column, layer, sample) in zip(x.detach().cpu(), cells.tolist(), strict=True):
        expected[sample, :, layer, row, column] += feature
    torch.testing.assert_close(out.detach().cpu(), expected, atol=1e-5, rtol=0)
    weight = torch.randn(out.shape, generator=generator)
    (out * weight.to(compute_device)).sum().backward()
    row, column, layer, sample = cells.unbind(1)
    torch.testing.assert_close(x.grad.cpu(), weight[sample, :, layer, row, column])


def test_grouping_counts_members(compute_device):
    from pcdet.ops.ingroup_inds.ingroup_inds_op import ingroup_inds

    numbers = ingroup_inds(torch.tensor([3, 1, 3, 3], device=compute_device))
    assert sorted(numbers[[0, 2, 3]].tolist()) == [0, 1, 2]
    assert numbers[1] == 0
