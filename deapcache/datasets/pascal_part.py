"""PASCAL-Part (Chen et al. 2014, CVPR): photographs of PASCAL VOC 2010 with the parts of their objects.

Part names are those of the archive's ``part2ind.m``. Which of them make one class is the table that PASCAL Panoptic
Parts evaluates by (Meletis et al. 2020; https://github.com/pmeletis/panoptic_parts, ``specs/eval_specs/
ppq_ppp_59_57_cvpr21_default_evalspec.yaml``): 57 classes, with the background the field's Pascal-Part-58.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deapcache.annotations import VOID
from deapcache.datasets.base import DATASETS, SplitStatus
from deapcache.datasets.files import FileDataset, Sample
from deapcache.datasets.io import decode_errors, require_all, stems
from deapcache.datasets.voc import read_ids

LAYOUT = """\
VOCdevkit/VOC2010/JPEGImages/*.jpg            photographs of VOC 2010
VOCdevkit/VOC2010/ImageSets/Main/{train,val}.txt    4,998 and 5,105 ids
VOCdevkit/VOC2010/Annotations_Part/*.mat      10,103 files of PASCAL-Part's trainval.tar.gz
under the data root or its folder pascal-part/; VOCdevkit or VOC2010 may also lie there itself, or be the data root"""

_SIDES = "frontside,leftside,rightside,backside,roofside,leftmirror,rightmirror"
_FACE = "head,leye,reye,lear,rear"
_LEGS, _PAWS = "lfuleg,lflleg,rfuleg,rflleg,lbuleg,lblleg,rbuleg,rblleg", "lfleg,lfpa,rfleg,rfpa,lbleg,lbpa,rbleg,rbpa"
_TABLE = f"""
aeroplane: body=body engine=engine wing=lwing,rwing stern=stern,tail wheel=wheel
bicycle: wheel=fwheel,bwheel,chainwheel body=*,saddle,handlebar,headlight
bird: head=head,leye,reye,beak wing=lwing,rwing leg=lleg,lfoot,rleg,rfoot torso=torso,neck,tail
boat: boat=*
bottle: cap=cap body=body
bus: window=window wheel=wheel body={_SIDES},fliplate,bliplate,door,headlight
car: window=window wheel=wheel light=headlight license_plate=fliplate,bliplate body={_SIDES},door
cat: head={_FACE},nose lower_leg={_PAWS} tail=tail torso=torso,neck
chair: chair=*
cow: head={_FACE},muzzle,lhorn,rhorn tail=tail lower_leg={_LEGS} torso=torso,neck
table: table=*
dog: head={_FACE},nose,muzzle lower_leg={_PAWS} tail=tail torso=torso,neck
horse: head={_FACE},muzzle tail=tail leg={_LEGS},lfho,rfho,lbho,rbho torso=torso,neck
motorbike: wheel=fwheel,bwheel body=*,handlebar,saddle,headlight
person: head={_FACE},lebrow,rebrow,nose,mouth,hair torso=torso,neck lower_arm=llarm,lhand,rlarm,rhand \
    upper_arm=luarm,ruarm lower_leg=llleg,lfoot,rlleg,rfoot upper_leg=luleg,ruleg
pottedplant: pot=pot plant=plant
sheep: head={_FACE},muzzle,lhorn,rhorn leg={_LEGS} torso=torso,neck,tail
sofa: sofa=*
train: train=head,hfrontside,hleftside,hrightside,hbackside,hroofside,headlight,coach,cfrontside,cleftside,crightside,\
cbackside,croofside
tvmonitor: screen=screen frame=*
"""
"""Object, in the order of ``class_ind``: class=part,… where ``*`` is what of the object is in none of its parts."""

_LINES = [line.split() for line in _TABLE.strip().replace(":", "").splitlines()]
_OBJECTS = [name for name, *_ in _LINES]
_NAMES = dict(enumerate(_OBJECTS, 1))
_GROUPS = [(name, *group.split("=")) for name, *groups in _LINES for group in groups]

CLASSES = ("background", *(f"{name}-{group}".replace("_", " ") for name, group, _ in _GROUPS))
"""As the evaluation names them: ``person-lower arm``; the position is the value."""

_VALUES = {(name, part): value for value, (name, _, parts) in enumerate(_GROUPS, 1) for part in parts.split(",")}


class PascalPart(FileDataset):
    """10,103 photographs with 57 parts of 20 kinds of object, and background.

    Objects are painted in the file's order, later ones over earlier ones, each object's parts over its mask, as the
    archive's own ``mat2map.m`` does. What of an object is in no part is :data:`VOID`, unless the table says otherwise.
    """

    name = images_name = "pascal-part"
    annotations = ("classes",)
    classes = CLASSES
    summary = "PASCAL-Part: photographs with a class map of 57 parts of 20 kinds of object"
    layout = LAYOUT
    licence = "photographs under Flickr's terms of use; no licence is stated for the annotations"
    official: ClassVar = {"train": 4_998, "val": 5_105}
    options: ClassVar = {"classes": {"parts": "PASCAL Panoptic Parts 59-57", "void": "objects outside their parts"}}
    places = tuple(base + place for base in ("", "pascal-part/") for place in ("VOCdevkit/VOC2010", "VOC2010", ""))
    expected = "Annotations_Part/, JPEGImages/ and ImageSets/Main/ in VOCdevkit/VOC2010, there or in pascal-part/"

    @classmethod
    def split_parts(cls, root: Path, split: str) -> tuple[Path, ...]:
        return root / "JPEGImages", root / "ImageSets" / "Main" / f"{split}.txt", root / "Annotations_Part"

    @classmethod
    def split_status(cls, root: Path, split: str) -> SplitStatus:
        images, listing, _ = cls.split_parts(root, split)
        ids = read_ids(listing) if listing.is_file() else ()
        return replace(super().split_status(root, split), images=len(stems(images, ".jpg").intersection(ids)))

    def list_samples(self, split: str) -> Sequence[Sample]:
        images, listing, parts = self.require_parts(split)
        ids = read_ids(listing)
        require_all(ids, images, ".jpg", f"{listing} names them: unpack VOCtrainval_03-May-2010.tar again")
        require_all(ids, parts, ".mat", f"{listing} names them: unpack PASCAL-Part's trainval.tar.gz again")
        parts_of = {name: {"classes": (f"Annotations_Part/{name}.mat",)} for name in ids}
        return [Sample(id=name, image=f"JPEGImages/{name}.jpg", labels=parts_of[name]) for name in ids]

    def read_labels(self, sample: Sample, kind: str) -> NDArray[np.uint8]:
        from scipy.io import loadmat  # takes a third of a second, which listing datasets does without

        path = self.label_path(sample, kind)
        with decode_errors(path, "part annotation"), path.open("rb") as file:
            annotation = _structs(loadmat(file, variable_names=["anno"]).get("anno"), "objects")
            objects = [one for each in annotation for one in _structs(each["objects"], "class_ind", "mask", "parts")]
            found = np.zeros(objects[0]["mask"].shape if objects else (0, 0), np.uint8)
            for number, one in enumerate(objects, start=1):
                name = _NAMES.get(int(one["class_ind"].item()), "of an unknown kind")
                parts = _structs(one["parts"], "part_name", "mask")
                for part, mask in [("*", one["mask"]), *((str(p["part_name"].item()), p["mask"]) for p in parts)]:
                    value = _VALUES.get((name, re.sub(r"_\d+$", "", part)), VOID if part == "*" else None)
                    if name not in _OBJECTS or value is None or mask.ndim != 2 or mask.shape != found.shape:
                        raise ValueError(
                            f"object {number}, {name}, has a part {part} of {mask.shape} pixels; expected class_ind 1 "
                            f"to 20, parts as in part2ind.m and masks of {found.shape}"
                        )
                    found[mask != 0] = value
        self.require_image_size(sample, found, path)
        return found


def _structs(value: Any, *fields: str) -> list[Any]:
    if value is None or (value.size and not set(fields) <= set(value.dtype.names or ())):
        raise ValueError(f"expected anno, a struct, and in it structs with {', '.join(fields)}")
    return list(value.ravel())


DATASETS["pascal-part"] = PascalPart
