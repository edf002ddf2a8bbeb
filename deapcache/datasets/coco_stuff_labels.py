"""The classes of COCO-Stuff: their names, and the numbers that stand for them in its pixel maps."""

from __future__ import annotations

import numpy as np

from deapcache.datasets.base import VOID

LABELS = tuple(
    """\
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack,
umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl,
banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile,
cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other,
hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other,
towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood,
water-other, waterdrops, window-blind, window-other, wood""".replace("\n", " ").split(", ")
)
"""Names by pixel value, 0 to 181: ids 1 to 182 of ``labels.txt`` in github.com/nightrome/cocostuff."""

REMOVED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Pixel values of the eleven labels that COCO gave up; no map has them (``labels.md`` there)."""

UNLABELLED = 255
"""Pixel value of what belongs to no class."""

VALUES = tuple(value for value in range(len(LABELS)) if value not in REMOVED)
"""Pixel values by class, 0 to 170."""

CLASSES = tuple(LABELS[value] for value in VALUES)
"""Names by class: 80 things, then 91 kinds of stuff."""

CLASS_OF_VALUE = np.full(256, VOID, np.uint8)
"""Class by pixel value, 255 (void) for all that is none."""
CLASS_OF_VALUE[list(VALUES)] = range(len(VALUES))

IS_VALUE = np.isin(np.arange(256), (*VALUES, UNLABELLED))
"""By pixel value, whether a map may have it."""
