"""Each device holds its experts, and no other: for the hard mixture and the projected network."""

MESH = dict(expert=-1, data=1, fsdp=1, model=1)
