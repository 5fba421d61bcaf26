"""The store: what goes in comes out, once, grouped by leaf, without being held in memory."""

import itertools
import tracemalloc

import numpy as np
import pytest

from specialization import artifact
from specialization.data import rows as rows_module
from specialization.data.documents import Documents
from specialization.data.rows import build, build_windows
from specialization.data.store import Rolling, Store
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError

T, LEAVES, END = 16, 6, 256


class Texts(Documents):
  hash = "texts"

  def __init__(self, texts):
    self.all = texts

  def count(self, split):
    return len(self.all)

  def batches(self, split, size=1000):
    for start in range(0, len(self.all), 7):
      yield self.all[start : start + 7]


class Bytes(Tokenizer):
  """One token per byte of UTF-8."""

  hash = "bytes"
  begin_of_document = end_of_document = END
  vocab_size = 257

  def __init__(self):
    pass

  def encode_batch(self, texts):
    return [np.frombuffer(text.encode(), np.uint8) for text in texts]


class Wide(Bytes):
  hash = "wide"
  begin_of_document = end_of_document = 70_000
  vocab_size = 70_001


class Begun(Bytes):
  """Documents begin with a token of their own."""

  hash = "begun"
  begin_of_document = END + 1
  vocab_size = 258


class Tree:
  """Levels 1, 2 and 6: leaves 0 to 3, and 4 and 5."""

  hash = "tree"

  def bounds(self, level):
    return np.array({1: [0, 6], 2: [0, 4, 6], 6: [0, 1, 2, 3, 4, 5, 6]}[level])


def make_texts(n=60, seed=0):
  rng = np.random.default_rng(seed)
  return [
    "é" * int(rng.integers(0, 3)) + f"{i}:" + "x" * int(rng.integers(0, 70)) for i in range(n)
  ]


def make_leaves(n=60):
  leaves = np.random.default_rng(1).integers(0, LEAVES, n).astype(np.int32)
  return np.where(leaves == 3, 2, leaves)  # leaf 3 has no documents


def make(folder, texts=None, leaves=None, by_leaf=True, seed=0, tokenizer=None, length=T):
  texts = make_texts() if texts is None else texts
  leaves = make_leaves(len(texts)) if leaves is None else leaves
  return build(
    Texts(texts),
    "train",
    leaves,
    LEAVES,
    tokenizer or Bytes(),
    length,
    folder,
    clusters="tree",
    seed=seed,
    by_leaf=by_leaf,
  )


def real_tokens(store, start, stop):
  """The tokens of some rows without padding, laid end to end."""
  indices = np.arange(start, stop)
  rows, mask = store.rows(indices), store.mask(indices)
  assert mask[:, 0].all()
  return np.concatenate([row[: 1 + m.sum()] for row, m in zip(rows, mask, strict=True)] or [[]])


def decode(tokens):
  """Texts of the documents that an end-of-document token closes."""
  *texts, rest = "".join(chr(t) if t != END else "\x00" for t in tokens.astype(int)).split("\x00")
  texts = [text.encode("latin-1").decode() for text in texts]
  return texts, rest


@pytest.mark.parametrize("length", [1, 2, 16, 37])
def test_rows_of_a_leaf_are_its_documents(tmp_path, length):
  texts, leaves = make_texts(), make_leaves()
  store = make(tmp_path / "store", length=length)
  for leaf in range(LEAVES):
    start, stop = store.range(Tree(), 6, leaf)
    tokens = real_tokens(store, start, stop)
    wanted = [text for text, of in zip(texts, leaves, strict=True) if of == leaf]
    # A last row that would hold one end-of-document token alone is left out.
    if len("".join(wanted).encode()) + len(wanted) == len(tokens) + 1:
      tokens = np.append(tokens, END)
    found, rest = decode(tokens)
    assert rest == ""
    assert sorted(found) == sorted(wanted)
    assert len(wanted) < 3 or found != wanted


def test_documents_that_begin_with_a_token_of_their_own(tmp_path):
  texts, leaves = make_texts(), make_leaves()
  store = make(tmp_path / "store", tokenizer=Begun())
  assert store.n_tokens == store.n_bytes + 2 * len(texts)
  for leaf in range(LEAVES):
    start, stop = store.range(Tree(), 6, leaf)
    tokens = real_tokens(store, start, stop).astype(int).tolist()
    wanted = [text for text, of in zip(texts, leaves, strict=True) if of == leaf]
    if sum(len(text.encode()) + 2 for text in wanted) == len(tokens) + 1:
      tokens.append(END)
    begins = [i for i, token in enumerate(tokens) if token == END + 1]
    found = [tokens[i:j] for i, j in itertools.pairwise([*begins, len(tokens)])]
    assert sum(map(len, found)) == len(tokens)
    assert sorted(found) == sorted([END + 1, *text.encode(), END] for text in wanted)


def test_padding_is_end_of_document_and_masked(tmp_path):
  store = make(tmp_path / "store")
  everything = np.arange(store.n_rows)
  rows, mask = store.rows(everything), store.mask(everything)
  assert rows.shape == (store.n_rows, T + 1)
  assert mask.shape == (store.n_rows, T)
  assert (rows[:, 1:][~mask] == END).all()
  ends = {store.range(Tree(), 6, leaf)[1] - 1 for leaf in range(LEAVES)}
  padded = set(np.flatnonzero(~mask.all(1)).tolist())
  assert padded
  assert padded <= ends


def test_totals(tmp_path):
  texts = make_texts()
  store = make(tmp_path / "store")
  size = sum(len(text.encode()) for text in texts)
  assert (store.n_documents, store.n_bytes, store.n_tokens) == (60, size, size + 60)
  assert store.sequence_length == T
  counted = len(real_tokens(store, 0, store.n_rows))
  assert store.n_tokens - LEAVES <= counted <= store.n_tokens


def test_clusters_of_every_level_are_ranges_of_rows(tmp_path):
  store = make(tmp_path / "store")
  assert store.range(Tree(), 1, 0) == (0, store.n_rows)
  assert store.ranges(Tree(), 2)[0, 1] == store.range(Tree(), 6, 4)[0]
  start, stop = store.range(Tree(), 6, 3)
  assert start == stop
  rows = [np.diff(store.ranges(Tree(), level))[:, 0] for level in (1, 2, 6)]
  assert {row.sum() for row in rows} == {store.n_rows}
  assert np.allclose(store.row_histogram(Tree(), 6), rows[2] / store.n_rows)


def test_histogram_counts_documents(tmp_path):
  leaves = make_leaves()
  for by_leaf in (True, False):
    store = make(tmp_path / f"{by_leaf}", by_leaf=by_leaf)
    counts = np.bincount(leaves, minlength=LEAVES)
    assert np.allclose(store.histogram(Tree(), 6), counts / 60)
    assert np.allclose(store.histogram(Tree(), 2), [counts[:4].sum() / 60, counts[4:].sum() / 60])


def test_domain_histogram_of_the_first_tokens(tmp_path):
  texts, leaves = make_texts(), make_leaves()
  store = make(tmp_path / "store", by_leaf=False)
  found, _ = decode(real_tokens(store, 0, store.n_rows))
  leaf_of = dict(zip(texts, leaves, strict=True))
  for n in (1, 5, 40):
    tokens = sum(len(text.encode()) + 1 for text in found[:n])
    counts = np.bincount([leaf_of[text] for text in found[:n]], minlength=LEAVES)
    assert np.allclose(store.histogram(Tree(), 6, tokens), counts / n)


def test_domain_store_is_one_shuffled_run(tmp_path):
  texts = make_texts()
  store = make(tmp_path / "store", by_leaf=False)
  found, _ = decode(real_tokens(store, 0, store.n_rows))
  assert len(found) >= 59
  assert found != texts[: len(found)]
  assert set(found) <= set(texts)
  leaf_of = dict(zip(texts, make_leaves(), strict=True))
  leaves = [leaf_of[text] for text in found]
  assert leaves != sorted(leaves)
  assert store.mask(np.arange(store.n_rows - 1)).all()
  other = make(tmp_path / "other", by_leaf=False, seed=1)
  assert decode(real_tokens(other, 0, other.n_rows))[0] != found
  with pytest.raises(ValueError, match="not grouped"):
    store.ranges(Tree(), 6)


def test_another_tree_is_refused(tmp_path):
  tree = Tree()
  tree.hash = "another"
  with pytest.raises(ValueError, match="cluster tree"):
    make(tmp_path / "store").histogram(tree, 6)


def test_first_rows_within_a_budget(tmp_path):
  store = make(tmp_path / "store", by_leaf=False)
  assert store.first(T + 1) == 1
  assert store.first(3 * (T + 1) - 1) == 2
  assert store.first(10**9) == store.first(0) == store.n_rows
  with pytest.raises(UserError, match="16 tokens are fewer than the 17"):
    store.first(T)


def test_too_little_text_is_refused(tmp_path):
  make(tmp_path / "enough", ["x" * T], np.zeros(1, np.int32))
  with pytest.raises(UserError, match="16 tokens, fewer than the 17 of one row"):
    make(tmp_path / "store", ["x" * (T - 1)], np.zeros(1, np.int32))
  assert [path.name for path in tmp_path.iterdir()] == ["enough"]


def test_dtype_follows_the_vocabulary(tmp_path):
  make(tmp_path / "narrow")
  store = make(tmp_path / "wide", tokenizer=Wide())
  assert np.load(tmp_path / "narrow" / "rows.npy", mmap_mode="r").dtype == np.uint16
  assert np.load(tmp_path / "wide" / "rows.npy", mmap_mode="r").dtype == np.uint32
  assert store.rows(np.arange(store.n_rows)).max() == 70_000


def test_is_built_once_and_refused_for_another(tmp_path, monkeypatch):
  first = make(tmp_path / "store")
  monkeypatch.setattr(rows_module, "_tokenize", None)
  assert make(tmp_path / "store").hash == first.hash
  with pytest.raises(UserError, match="seed=0"):
    make(tmp_path / "store", seed=1)
  with pytest.raises(UserError, match="tokenizer='bytes'"):
    make(tmp_path / "store", tokenizer=Wide())
  assert not list((tmp_path / "store").glob("*.tmp"))


def test_rows_are_paged_in_not_loaded(tmp_path):
  make(tmp_path / "store")
  huge = np.lib.format.open_memmap(
    tmp_path / "store" / "rows.npy", "w+", np.uint16, (20_000_000, T + 1)
  )  # sparse: takes no space on disk
  huge[12_345_678] = 7
  huge.flush()
  np.lib.format.open_memmap(tmp_path / "store" / "lengths.npy", "w+", np.int32, (20_000_000,))
  tracemalloc.start()
  store = Store(tmp_path / "store")
  rows = store.rows(np.array([0, 12_345_678]))
  store.mask(np.array([0, 12_345_678]))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert rows[:, 0].tolist() == [0, 7]
  assert peak < 1_000_000


def windows(folder, texts, max_tokens=0, tokenizer=None, **grouped):
  return build_windows(
    Texts(texts), "test", tokenizer or Bytes(), T, folder, max_tokens=max_tokens, **grouped
  )


@pytest.mark.parametrize("tokenizer", [Bytes(), Begun()], ids=["end", "begin"])
def test_windows_predict_each_token_once(tmp_path, tokenizer):
  texts = [*make_texts(), "", "y" * T, "z" * (T + 1), "w" * (3 * T)]
  store = windows(tmp_path / "store", texts, tokenizer=tokenizer)
  everything = np.arange(store.n_rows)
  rows, mask = store.rows(everything), store.mask(everything)
  predicted = rows[:, 1:][mask]
  wanted = np.frombuffer("".join(texts).encode(), np.uint8)
  assert np.array_equal(predicted, wanted)
  assert store.n_tokens == store.n_bytes == len(wanted)
  assert store.n_documents == len(texts) - 1
  position = 0
  for text in texts:
    n_rows = -(-len(text.encode()) // T)
    own = slice(position, position + n_rows)
    assert (rows[own, 0][:1] == tokenizer.begin_of_document).all()
    assert np.array_equal(rows[own, 0][1:], rows[own, -1][:-1])
    position += n_rows
  assert position == store.n_rows
  assert (rows[:, 1:][~mask] == END).all()


@pytest.mark.parametrize("tokenizer", [Bytes(), Begun()], ids=["end", "begin"])
def test_rolling_windows_predict_the_same_from_as_much_as_there_is(tmp_path, tokenizer):
  texts = [*make_texts(), "", "y" * T, "z" * (T + 1), "w" * (3 * T)]
  disjoint = windows(tmp_path / "store", texts, tokenizer=tokenizer)
  store, begin = Rolling(tmp_path / "store"), tokenizer.begin_of_document
  everything = np.arange(store.n_rows)
  rows, mask = store.rows(everything), store.mask(everything)
  apart = disjoint.rows(everything)[:, 1:][disjoint.mask(everything)]
  assert np.array_equal(rows[:, 1:][mask], apart)
  assert store.n_tokens == disjoint.n_tokens == mask.sum()
  assert store.n_rows == disjoint.n_rows
  assert store.hash != disjoint.hash
  mixed = np.random.default_rng(0).permutation(everything)
  assert np.array_equal(store.rows(mixed), rows[mixed])
  assert np.array_equal(store.mask(mixed), mask[mixed])
  row, again = 0, 0
  for text in texts:
    ids, done = np.concatenate([[begin], np.frombuffer(text.encode(), np.uint8)]), 0
    while done < len(ids) - 1:
      stop = min(done + T, len(ids) - 1)
      seen = ids[max(0, stop - T) : stop + 1]
      assert np.array_equal(rows[row, : len(seen)], seen)
      assert mask[row].sum() == stop - done
      again += T - (stop - done) if len(ids) > T + 1 else 0
      row, done = row + 1, stop
  assert row == store.n_rows
  assert again  # else no window begins earlier


def test_windows_within_a_budget_come_from_all_over(tmp_path):
  texts = [f"{i:03d}" + "x" * (i % 5) for i in range(1000)]
  store = windows(tmp_path / "store", texts, max_tokens=500)
  rows = store.rows(np.arange(store.n_rows))
  chosen = [int("".join(map(chr, row[1:4]))) for row in rows]
  sizes = [len(texts[i]) for i in chosen]
  assert store.n_documents == len(chosen) == len(set(chosen))
  assert sum(sizes) == store.n_tokens == store.n_bytes
  assert 500 - 7 < store.n_tokens <= 500
  assert chosen == sorted(chosen)
  gaps = np.diff([0, *chosen, 1000])
  assert gaps.max() <= 3 * 1000 / len(chosen)


def test_windows_are_grouped_by_leaf(tmp_path):
  texts = [*make_texts(), ""]
  leaves = np.arange(len(texts), dtype=np.int32) * 5 % (LEAVES - 1)  # the last has no document
  grouped = dict(leaves=leaves, n_leaves=LEAVES, clusters="tree")
  store = windows(tmp_path / "store", texts, **grouped)
  assert store.n_tokens == windows(tmp_path / "other", texts).n_tokens
  assert store.hash != Store(tmp_path / "other").hash
  for leaf, (start, stop) in enumerate(store.ranges(Tree(), LEAVES)):
    rows = np.arange(start, stop)
    predicted = store.rows(rows)[:, 1:][store.mask(rows)]
    wanted = "".join(text for text, own in zip(texts, leaves, strict=True) if own == leaf)
    assert np.array_equal(predicted, np.frombuffer(wanted.encode(), np.uint8))
  assert stop == store.n_rows


def test_windows_hold_one_document_at_least(tmp_path):
  store = windows(tmp_path / "store", ["", "x" * 40, "y" * 50], max_tokens=10)
  assert store.n_documents == 1
  assert store.n_tokens in (40, 50)


def test_windows_of_nothing_are_refused(tmp_path):
  for texts in ([], ["", ""]):
    with pytest.raises(UserError, match="no text to evaluate"):
      windows(tmp_path / "store", texts)


def test_windows_are_refused_for_another_budget(tmp_path):
  store = windows(tmp_path / "store", make_texts(), max_tokens=100)
  assert artifact.made_from(tmp_path / "store")["tokenizer"] == "bytes"
  assert windows(tmp_path / "store", make_texts(), max_tokens=100).hash == store.hash
  with pytest.raises(UserError, match="max_tokens=100"):
    windows(tmp_path / "store", make_texts(), max_tokens=200)
