"""As experts.py, and every 4 devices share their experts, which lie cut over them."""

MESH = dict(expert=-1, data=1, fsdp=4, model=1)
