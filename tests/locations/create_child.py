"""Creates keys, in competition with another process, and prints as JSON which of them it has created.

usage: create_child.py ADDRESS NAME COUNT; prints READY, and begins when it reads a line.
"""

from __future__ import annotations

import json
import sys

from deapcache.locations import locate

if __name__ == "__main__":
    address, name, count = sys.argv[1:]
    place = locate(address)
    place.publish(f"of-{name}", b"")  # the connection is made before the race
    print("READY", flush=True)
    sys.stdin.readline()
    print(json.dumps([number for number in range(int(count)) if place.publish(f"key-{number}", name.encode())]))
