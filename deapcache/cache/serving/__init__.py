"""A read-only web server for the caches of a home: byte ranges, nothing but caches, a page for people."""

from deapcache.cache.serving.server import HomeServer

__all__ = ["HomeServer"]
