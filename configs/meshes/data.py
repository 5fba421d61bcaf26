"""Every device holds the whole model and takes a part of the batch: for models that fit one."""

MESH = dict(expert=1, data=-1, fsdp=1, model=1)
