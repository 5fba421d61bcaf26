"""As fsdp.py, and every 4 devices share the products of their part: for models too wide for one."""

MESH = dict(expert=1, data=1, fsdp=-1, model=4)
