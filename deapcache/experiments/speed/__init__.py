"""Speed: how long backbones take, relative to ViT-B/16 at 224 (section 5.4 of the paper)."""

from deapcache.experiments.speed.measuring import REFERENCE, measure_speeds
from deapcache.results.speeds import Speed, speed_key, write_speed

__all__ = ["REFERENCE", "Speed", "measure_speeds", "speed_key", "write_speed"]
