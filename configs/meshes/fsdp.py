"""Parameters and optimizer lie cut over all devices, each of which takes a part of the batch."""

MESH = dict(expert=1, data=1, fsdp=-1, model=1)
