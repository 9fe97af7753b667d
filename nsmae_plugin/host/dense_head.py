"""The forward pass of detectors with one dense head, the same on every host."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nsmae_plugin.errors import ConfigError, NonFiniteError

Batch = dict[str, Any]


class DenseHeadDetector:
    """Forward pass of OpenPCDet's single-stage detectors, to inherit in front of a template.

    The head may keep its losses until ``get_loss()`` (CenterHead) or write ``loss`` and ``tb_dict``
    into the batch (TransFusionHead); in evaluation mode it writes ``final_box_dicts``.

    In training mode the forward pass returns ``({'loss': loss}, tb_dict, disp_dict)``, in
    evaluation mode ``(pred_dicts, recall_dict)``: for each sample

    - ``pred_boxes`` (n, 7 or 9): x, y, z, dx, dy, dz, yaw and, if predicted, vx, vy, in the LiDAR
      frame of the input (metres, radians, metres per second),
    - ``pred_scores`` (n,) and ``pred_labels`` (n,), counted from 1;

    and how many boxes of ``gt_boxes`` were found, empty for data without labels.

    Raises:
        ConfigError: in training mode, data without labels.
        NonFiniteError: in evaluation mode, outputs of the head that are NaN or infinite.
    """

    training: bool
    model_cfg: Any
    module_list: list[nn.Module]
    dense_head: Any
    generate_recall_record: Callable[..., dict[str, int]]

    def forward(self, batch_dict: Batch) -> tuple[Any, ...]:
        """Losses or boxes of a batch; the caller's dict and its labels stay as they are."""
        if self.training:
            self.require_labels(batch_dict)
        batch_dict = dict(batch_dict)
        if "gt_boxes" in batch_dict:
            # OpenPCDet's CenterHead numbers classes anew for each of its groups, in this tensor.
            batch_dict["gt_boxes"] = batch_dict["gt_boxes"].clone()
        if not self.training:
            with finite_outputs(self.dense_head, batch_dict.get("frame_id", ())):
                batch_dict = self.run_modules(batch_dict)
            return self.post_processing(batch_dict)
        batch_dict = self.run_modules(batch_dict)
        loss, tb_dict, disp_dict = self.get_training_loss(batch_dict)
        return {"loss": loss}, tb_dict, disp_dict

    def require_labels(self, batch_dict: Batch) -> None:
        """Check that a training batch has the boxes that the head learns from."""
        if batch_dict.get("gt_boxes") is None:
            raise ConfigError(
                f"{type(self).__name__} learns from boxes, but the data has no gt_boxes: set "
                "DATA_CONFIG.USE_LABELS"
            )

    def run_modules(self, batch_dict: Batch) -> Batch:
        """The modules one after the other."""
        for module in self.module_list:
            batch_dict = module(batch_dict)
        return batch_dict

    def get_training_loss(self, batch_dict: Batch) -> tuple[Tensor, dict[str, Any], Batch]:
        """The loss, and its terms under OpenPCDet's names: floats, or detached tensors."""
        if hasattr(self.dense_head, "get_loss"):
            name, (loss, terms) = "loss_rpn", self.dense_head.get_loss()
        else:
            name, loss, terms = "loss_trans", batch_dict["loss"], batch_dict["tb_dict"]
        terms = {name: loss, **terms}
        # Tensors stay on their device: to read one here would wait for it in every step.
        return loss, {k: v.detach() if isinstance(v, Tensor) else v for k, v in terms.items()}, {}

    def post_processing(self, batch_dict: Batch) -> tuple[list[Batch], dict[str, int]]:
        """The boxes of the head, and the recall at each of POST_PROCESSING.RECALL_THRESH_LIST."""
        boxes = batch_dict["final_box_dicts"]
        thresholds = (self.model_cfg.get("POST_PROCESSING") or {}).get("RECALL_THRESH_LIST", [])
        recall: dict[str, int] = {}
        for index in range(batch_dict["batch_size"]):
            recall = self.generate_recall_record(
                box_preds=boxes[index]["pred_boxes"],
                recall_dict=recall,
                batch_index=index,
                data_dict=batch_dict,
                thresh_list=thresholds,
            )
        return boxes, recall


@contextmanager
def finite_outputs(head: nn.Module | None, frames: Any) -> Iterator[None]:
    """Check what the branches of a head give (dicts of tensors), before any score is dropped.

    No score that is NaN reaches a threshold: a broken network would look like one that sees
    nothing.

    Args:
        frames: names of the samples, for the message.

    Raises:
        NonFiniteError: naming the samples and the branches.
    """
    found: dict[str, Tensor] = {}

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, dict):
            for name, value in output.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    finite = torch.isfinite(value).all()
                    found[name] = found[name] & finite if name in found else finite

    # The head returns the whole batch.
    branches = [] if head is None else [one for one in head.modules() if one is not head]
    handles = [module.register_forward_hook(look) for module in branches]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return
    finite = torch.stack(list(found.values())).tolist()
    broken = [name for name, one in zip(found, finite, strict=True) if not one]
    if broken:
        raise NonFiniteError(
            f"{', '.join(broken)} of the detection head are NaN or infinite for the samples "
            f"{', '.join(map(str, frames))}: the weights or the input of this network are broken"
        )
