"""Compiles small functions, to look at what became of them."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from specialization import hlo


def program(function, mesh, *arguments):
  """Compiles a function of arrays, each given as (shape, spec)."""
  like = [
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
    for shape, spec in arguments
  ]
  with jax.set_mesh(mesh):
    return hlo.Program(jax.jit(function).lower(*like).compile().as_text())
