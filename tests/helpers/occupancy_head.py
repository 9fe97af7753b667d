"""A render head of a user's own, in a file of its own."""

import torch
from torch import nn

from nsmae_plugin.models.render_head import Panel, RenderHead
from nsmae_plugin.models.scores import MeanTotal, mean_record


class OccupancyHead(RenderHead):
    """Occupancy of BEV cells; 0.5 everywhere before training."""

    slot, terms = "occupancy_head", ("occupancy",)
    rows = {"occupancy_error": "occupancy error"}  # noqa: RUF012

    def __init__(self, model_cfg, encoders):
        super().__init__(model_cfg, encoders)
        self.reads = tuple(encoders.bev_channels)
        self.projection = nn.Conv2d(encoders.bev_channels["spatial_features"], 1, 1)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, batch_dict):
        logits = self.projection(batch_dict["spatial_features"])[:, 0]
        return batch_dict | {"rendered_occupancy": logits.sigmoid()}

    def targets(self, batch_dict):
        return {"target_occupancy": torch.ones(batch_dict["batch_size"], 1, 1)}

    def losses(self, batch_dict):
        error = batch_dict["rendered_occupancy"] - batch_dict["target_occupancy"]
        return {"occupancy": error.square().mean()}

    @classmethod
    def record(cls, sample):
        error = (sample["rendered_occupancy"] - sample["target_occupancy"]).abs()
        return {"occupancy_error": mean_record(error)}

    @classmethod
    def totals(cls):
        return {"occupancy_error": MeanTotal("occupancy_error")}

    @classmethod
    def panels(cls, sample):
        return [Panel("occupancy", "rendered", sample["rendered_occupancy"].numpy(), "occupancy")]
