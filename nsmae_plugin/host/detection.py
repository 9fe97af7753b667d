"""What detectors with one dense head do with a batch; the same on every host."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Batch = dict[str, Any]


class DenseHeadDetector(nn.Module):
    """Forward pass of OpenPCDet's single-stage detectors; goes in front of a host's template.

    The head may keep its losses until ``get_loss()`` (CenterHead) or write ``loss`` and ``tb_dict``
    into the batch (TransFusionHead); in evaluation mode it writes ``final_box_dicts``.

    In training mode the forward pass returns ``({'loss': loss}, tb_dict, disp_dict)``, in
    evaluation mode ``(pred_dicts, recall_dict)``: for each sample

    - ``pred_boxes`` (n, 7 or 9): x, y, z, dx, dy, dz, yaw and, if predicted, vx, vy, in the LiDAR
      frame of the input (metres, radians, metres per second),
    - ``pred_scores`` (n,) and ``pred_labels`` (n,), counted from 1;

    and how many boxes of ``gt_boxes`` were found, empty for data without labels.
    """

    model_cfg: Any
    module_list: list[nn.Module]
    dense_head: Any
    generate_recall_record: Callable[..., dict[str, int]]

    def forward(self, batch_dict: Batch) -> tuple[Any, ...]:
        """Losses or boxes of a batch; the caller's dict and its labels stay as they are."""
        batch_dict = dict(batch_dict)
        if "gt_boxes" in batch_dict:
            # OpenPCDet's CenterHead numbers the classes anew for each group, in this very tensor.
            labels, batch_dict["gt_boxes"] = batch_dict["gt_boxes"], batch_dict["gt_boxes"].clone()
            batch_dict = {**self.run_modules(batch_dict), "gt_boxes": labels}
        else:
            batch_dict = self.run_modules(batch_dict)
        if self.training:
            loss, tb_dict, disp_dict = self.get_training_loss(batch_dict)
            return {"loss": loss}, tb_dict, disp_dict
        return self.post_processing(batch_dict)

    def run_modules(self, batch_dict: Batch) -> Batch:
        """The modules one after the other."""
        for module in self.module_list:
            batch_dict = module(batch_dict)
        return batch_dict

    def get_training_loss(self, batch_dict: Batch) -> tuple[Tensor, dict[str, float], Batch]:
        """The loss, and its terms as floats under OpenPCDet's names."""
        if hasattr(self.dense_head, "get_loss"):
            loss, tb_dict = self.dense_head.get_loss()
            return loss, {"loss_rpn": loss.item(), **tb_dict}, {}
        loss, tb_dict = batch_dict["loss"], batch_dict["tb_dict"]
        return loss, {"loss_trans": loss.item(), **tb_dict}, {}

    def post_processing(self, batch_dict: Batch) -> tuple[list[Batch], dict[str, int]]:
        """The boxes of the head, and the recall at each of POST_PROCESSING.RECALL_THRESH_LIST."""
        boxes = batch_dict["final_box_dicts"]
        thresholds = self.model_cfg.get("POST_PROCESSING", {}).get("RECALL_THRESH_LIST", [])
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
