"""Batches on devices: the same for any start, any number of processes, any mesh."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from specialization.config import MeshConfig
from specialization.data.documents import Documents
from specialization.data.pipeline import (
  Listed,
  Pipeline,
  batches,
  evaluation_batches,
  process_slices,
  split_slices,
)
from specialization.data.rows import build, build_windows
from specialization.data.sampler import ClusterSampler, ReplaySampler
from specialization.data.tokenizer import Tokenizer
from specialization.sharding import make_mesh

CLUSTERS, GROUPS, ROWS, T = 4, 4, 8, 16
GROUPED = PartitionSpec("expert", ("data", "fsdp"))


class Texts(Documents):
  def __init__(self, texts):
    self.all = texts

  @property
  def hash(self):
    return str(len(self.all))

  def count(self, split):
    return len(self.all)

  def batches(self, split, size=1000):
    yield self.all


class Bytes(Tokenizer):
  hash = "bytes"
  begin_of_document = end_of_document = 256
  vocab_size = 257

  def __init__(self):
    pass

  def encode_batch(self, texts):
    return [np.frombuffer(text.encode(), np.uint8) for text in texts]


def make_store(folder, n=300, length=T):
  rng = np.random.default_rng(n)
  texts = [f"{i}:" + "abc" * int(rng.integers(1, 20)) for i in range(n)]
  leaves = rng.integers(0, CLUSTERS, n).astype(np.int32)
  return build(
    Texts(texts),
    "train",
    leaves,
    CLUSTERS,
    Bytes(),
    length,
    folder,
    clusters="tree",
    seed=0,
    by_leaf=True,
  )


def make_pipeline(store, groups=GROUPS, rows=ROWS):
  edges = np.linspace(0, store.n_rows, CLUSTERS + 1).astype(np.int64)
  ranges = np.stack([edges[:-1], edges[1:]], axis=1)
  sampler = ClusterSampler(ranges, [(0, np.array([0.1, 0.2, 0.3, 0.4]))], groups, rows, 0)
  return Pipeline(sampler, [store])


def make_shardings(mesh, spec=GROUPED):
  return {
    "tokens": NamedSharding(mesh, spec),
    "cluster": NamedSharding(mesh, PartitionSpec(spec[0])),
    "mask": NamedSharding(mesh, spec),
  }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  return make_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def pipeline(store):
  return make_pipeline(store)


@pytest.fixture(scope="module")
def mesh():
  return make_mesh(MeshConfig(2, 2, 2, 1))


def everything(pipeline, step):
  return pipeline.local(step, slice(None), slice(None))


def test_a_batch_is_what_the_sampler_names(pipeline, store):
  batch = everything(pipeline, 5)
  cluster, source, rows = pipeline.indices(5)
  assert {name: part.shape for name, part in batch.items()} == pipeline.shapes
  assert pipeline.shapes["tokens"] == (GROUPS, ROWS, T + 1)
  assert not source.any()
  assert np.array_equal(batch["cluster"], cluster)
  for g in range(GROUPS):
    assert np.array_equal(batch["tokens"][g], store.rows(rows[g]))
    assert np.array_equal(batch["mask"][g], store.mask(rows[g]))


@pytest.mark.parametrize("shape", [(4, 8), (8, 3), (1, 16)])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_processes_share_one_index_set(store, shape, processes):
  pipeline = make_pipeline(store, *shape)
  whole = everything(pipeline, 7)
  rebuilt = np.full_like(whole["tokens"], -1)
  for index in range(processes):
    groups, rows = split_slices(shape, index, processes)
    part = pipeline.local(7, groups, rows)
    assert (rebuilt[groups, rows] == -1).all()
    rebuilt[groups, rows] = part["tokens"]
    assert part["tokens"].size * processes == rebuilt.size
    assert np.array_equal(part["mask"], whole["mask"][groups, rows])
    assert np.array_equal(part["cluster"], whole["cluster"][groups])
  assert np.array_equal(rebuilt, whole["tokens"])


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match="Neither 3 groups nor 5 rows"):
    split_slices((3, 5), 0, 2)


def test_only_the_part_is_read(pipeline, store, monkeypatch):
  read = []
  rows = store.rows
  monkeypatch.setattr(store, "rows", lambda indices: read.append(len(indices)) or rows(indices))
  pipeline.local(0, slice(1, 2), slice(2, 5))
  assert sum(read) == 3


@pytest.mark.parametrize("spec", [GROUPED, PartitionSpec(None, "data"), PartitionSpec(None)])
def test_batches_are_global_arrays(pipeline, mesh, spec):
  shardings = make_shardings(mesh, spec)
  with jax.transfer_guard("disallow"):
    found = list(batches(pipeline, shardings, 3, 6))
  assert len(found) == 3
  for step, batch in zip((3, 4, 5), found, strict=True):
    for name, part in everything(pipeline, step).items():
      assert batch[name].sharding == shardings[name]
      assert batch[name].dtype == part.dtype
      assert np.array_equal(batch[name], part)


def test_data_do_not_depend_on_the_start(pipeline, mesh):
  shardings = make_shardings(mesh)
  whole = [np.asarray(batch["tokens"]) for batch in batches(pipeline, shardings, 0, 12)]
  resumed = [np.asarray(batch["tokens"]) for batch in batches(pipeline, shardings, 7, 12)]
  assert len(resumed) == 5
  assert np.array_equal(whole[7:], resumed)
  assert not np.array_equal(whole[0], whole[1])
  assert list(batches(pipeline, shardings, 12, 12)) == []


def test_the_next_batch_is_placed_ahead(pipeline, mesh, monkeypatch):
  from specialization.data import pipeline as module

  placed, place = [], module._place
  monkeypatch.setattr(module, "_place", lambda *args: placed.append(1) or place(*args))
  stream = batches(pipeline, make_shardings(mesh), 0, 5)
  next(stream)
  assert len(placed) == 2 * 3


def test_errors_of_the_readers_arrive(pipeline, mesh, monkeypatch):
  def fail(step):
    raise RuntimeError(f"step {step}")

  monkeypatch.setattr(pipeline, "indices", fail)
  with pytest.raises(RuntimeError, match="step 2"):
    next(batches(pipeline, make_shardings(mesh), 2, 5))


def test_replay_reads_two_stores(store, tmp_path, mesh):
  domain = make_store(tmp_path / "domain", n=40)
  sampler = ReplaySampler(domain.n_rows, store.n_rows, 0.3, 8, 0)
  pipeline = Pipeline(sampler, [domain, store])
  spec = PartitionSpec(None, ("data", "fsdp"))
  for step, batch in enumerate(batches(pipeline, make_shardings(mesh, spec), 0, 5)):
    source, rows = sampler.batch(step)
    assert 0 < source.sum() < 8
    for i in range(8):
      row = (domain, store)[source[i]].rows(rows[i : i + 1])[0]
      assert np.array_equal(batch["tokens"][0, i], row)


def test_stores_of_two_lengths_are_refused(store, tmp_path):
  other = make_store(tmp_path / "other", length=T + 1)
  with pytest.raises(ValueError, match="sequence length"):
    Pipeline(Listed(np.zeros(3, np.int8), np.arange(3), 1), [store, other])


@pytest.mark.parametrize("rows", [None, np.arange(11), np.arange(5, 21)])
def test_evaluation_reads_every_row_once(tmp_path, mesh, rows):
  texts = [f"{i}" * (i + 1) for i in range(30)]
  store = build_windows(Texts(texts), "test", Bytes(), T, tmp_path / "store", max_tokens=0)
  shardings = make_shardings(mesh, PartitionSpec(None, ("data", "fsdp")))
  found = list(evaluation_batches(store, 8, shardings, rows))
  wanted = np.arange(store.n_rows) if rows is None else rows
  assert len(found) == -(-len(wanted) // 8)
  assert {batch["tokens"].shape for batch in found} == {(1, 8, T + 1)}
  tokens, mask = (np.concatenate([b[name][0] for b in found]) for name in ("tokens", "mask"))
  assert np.array_equal(tokens[: len(wanted)], store.rows(wanted))
  assert np.array_equal(mask[: len(wanted)], store.mask(wanted))
  assert not mask[len(wanted) :].any()
  if rows is None:
    assert mask.sum() == store.n_tokens == sum(map(len, texts))


def test_throughput(tmp_path, mesh):
  store = make_store(tmp_path / "store", n=5000, length=256)
  pipeline = make_pipeline(store, groups=1, rows=16)
  shardings = make_shardings(mesh, PartitionSpec(None, ("data", "fsdp")))
  stream = batches(pipeline, shardings, 0, 200)
  next(stream)
  start = time.perf_counter()
  jax.block_until_ready(list(stream))
  rate = 199 * 16 * 256 / (time.perf_counter() - start)
  print(f"\npipeline: {rate:,.0f} tokens/s")
  assert rate > 200_000


class Part(Sharding):
  """What one of several processes sees of a sharding."""

  def __init__(self, sharding, devices):
    self.sharding, self.devices = sharding, devices

  def addressable_devices_indices_map(self, shape):
    parts = self.sharding.devices_indices_map(shape)
    return {device: parts[device] for device in self.devices}


def test_process_slices_hold_what_the_devices_need(mesh):
  sharding, shape = NamedSharding(mesh, GROUPED), (4, 8, T + 1)
  assert process_slices(sharding, shape) == (slice(0, 4), slice(0, 8))
  for expert in range(2):
    part = Part(sharding, mesh.devices[expert].ravel())
    assert process_slices(part, shape) == (slice(2 * expert, 2 * expert + 2), slice(0, 8))
  part = Part(sharding, mesh.devices[1, 0].ravel())
  assert process_slices(part, shape) == (slice(2, 4), slice(0, 4))


def process(index):
  """What each of the two processes of the next test runs."""
  port, folder = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", 4)
  jax.distributed.initialize(f"localhost:{port}", 2, index)
  from specialization.data.store import Store

  pipeline = make_pipeline(Store(Path(folder)))
  shardings = make_shardings(make_mesh(MeshConfig(2, 4, 1, 1)))
  shardings["cluster"] = NamedSharding(shardings["mask"].mesh, PartitionSpec())
  read = process_slices(shardings["tokens"], pipeline.shapes["tokens"])
  assert read == (slice(2 * index, 2 * index + 2), slice(0, 8))
  for step, batch in enumerate(batches(pipeline, shardings, 0, 3)):
    whole = everything(pipeline, step)
    for name, array in batch.items():
      assert array.shape == whole[name].shape
      for shard in array.addressable_shards:
        assert np.array_equal(shard.data, whole[name][shard.index])
  print(jax.process_count(), "processes")


def test_two_processes(tmp_path):
  make_store(tmp_path / "store")
  with socket.socket() as free:
    free.bind(("localhost", 0))
    arguments = [str(free.getsockname()[1]), str(tmp_path / "store")]
  code = "import sys; sys.path[:0] = [{!r}]; import test_pipeline; test_pipeline.process({})"
  here = str(Path(__file__).parent)
  running = [
    subprocess.Popen(
      [sys.executable, "-c", code.format(here, index), *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  try:
    for process in running:
      output, error = process.communicate(timeout=60)
      assert process.returncode == 0, error
      assert output.splitlines()[-1] == "2 processes"
  finally:
    for process in running:
      process.kill()
