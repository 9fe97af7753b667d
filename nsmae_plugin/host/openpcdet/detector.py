"""OpenPCDet's detector template, with its builders of the image slots."""

from pcdet.models.detectors import BevFusion
from pcdet.models.detectors import Detector3DTemplate as _Stock


class Detector3DTemplate(_Stock):
    """OpenPCDet's ``Detector3DTemplate`` plus the four image slots.

    In OpenPCDet only ``BevFusion`` can build them, and it fixes its topology and builds all its
    networks in the constructor. A detector names the slots that it has in ``module_topology``.
    """

    build_image_backbone = BevFusion.build_image_backbone
    build_neck = BevFusion.build_neck
    build_vtransform = BevFusion.build_vtransform
    build_fuser = BevFusion.build_fuser
