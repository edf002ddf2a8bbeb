"""Who computes the shards of features: this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

from deapcache.backbones import Backbone
from deapcache.cache import FeatureCache
from deapcache.extraction.circumstances import Record, circumstances, new_writer_name
from deapcache.extraction.pipeline import extract_shards
from deapcache.extraction.prepare import PreparedSplit
from deapcache.extraction.progress import Watch
from deapcache.extraction.settings import ExtractionSettings, default_batch_size
from deapcache.extraction.views import image_source


class Hands(Protocol):
    """Computes and publishes shards."""

    def compute(
        self,
        caches: Sequence[FeatureCache],
        rounds: Iterator[Iterator[int]],
        backbone: Backbone,
        prepared: PreparedSplit,
        *,
        settings: ExtractionSettings,
        watch: Watch,
    ) -> None:
        """Do all shards of each round before the next round is asked for, and record who did them.

        ``backbone`` is built and calibrated, ``caches`` are those of its layers. Raises what forwarding and publishing
        raise.
        """
        ...


class OwnHands:
    """This process, on the backbone's device."""

    def compute(
        self,
        caches: Sequence[FeatureCache],
        rounds: Iterator[Iterator[int]],
        backbone: Backbone,
        prepared: PreparedSplit,
        *,
        settings: ExtractionSettings,
        watch: Watch,
    ) -> None:
        """Forward and publish here, all at the same time."""
        batch_size = settings.batch_size or default_batch_size(backbone.device)
        source = image_source(prepared, backbone.image_size)
        writer, facts = new_writer_name(), circumstances(backbone.device, batch_size)
        with ExitStack() as open_records:
            records = [open_records.enter_context(Record(cache, writer, facts)) for cache in caches]

            def published(shard: int, size: int) -> None:
                for record in records:
                    record.add(shard)
                watch.published(shard, size)

            noted = Watch(forwarded=watch.forwarded, published=published)
            for shards in rounds:
                extract_shards(caches, shards, backbone, source, batch_size=batch_size, watch=noted)
