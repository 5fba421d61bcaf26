"""From documents to the token rows of a store.

Training form (`build`): documents, each followed by the end-of-document token and, where another
one begins documents, preceded by that, are concatenated and cut into rows of T+1 tokens. Evaluation
form (`build_windows`): each document on its own, every token predicted exactly once.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from specialization import artifact
from specialization.data.documents import Documents
from specialization.data.sampler import permute
from specialization.data.store import Store
from specialization.data.tokenizer import Tokenizer
from specialization.errors import UserError
from specialization.metrics import progress

_GOLDEN = (5**0.5 - 1) / 2


def build(
  documents: Documents,
  split: str,
  leaves: Int32[np.ndarray, "N"],
  n_leaves: int,
  tokenizer: Tokenizer,
  sequence_length: int,
  folder: Path,
  *,
  clusters: str,
  seed: int,
  by_leaf: bool,
) -> Store:
  """Returns the training store of a split, built unless the artifact is there.

  The last row of a group is padded with the end-of-document token; one that would hold that token
  alone is left out, since it predicts nothing.

  Args:
    documents: of any source.
    split: train, validation or test.
    leaves: leaf of each document in the generic cluster tree.
    n_leaves: of that tree.
    tokenizer: encodes the texts.
    sequence_length: T.
    folder: the artifact.
    clusters: hash of the tree.
    seed: of the order of the documents.
    by_leaf: rows are grouped by leaf (generic text), or all documents follow each other in one
      shuffled order (a domain).

  Raises:
    UserError: the text does not fill one row, or the artifact was made from something else.
  """

  def lay_out(tokens: _Tokens) -> _Layout:
    n, total = len(tokens.doc_tokens), len(tokens.all) - 1
    if len(leaves) != n:
      raise ValueError(f"{folder}: {n} documents, but leaves of {len(leaves)}.")
    if total <= sequence_length:
      raise UserError(
        f"The {n} documents for {folder} have {total} tokens, fewer than the {sequence_length + 1}"
        " of one row: add text or lower sequence_length."
      )
    group, n_groups = (leaves, n_leaves) if by_leaf else (np.zeros_like(leaves), 1)
    shuffled = permute(np.arange(n), n, seed)
    order = shuffled[np.argsort(group[shuffled], kind="stable")]
    return _grouped(tokens, order, group[order], n_groups, leaves[order], sequence_length + 1)

  made_from = {"clusters": clusters, "by_leaf": by_leaf, "seed": seed}
  return _build(documents, split, tokenizer, sequence_length, folder, made_from, lay_out)


def build_windows(
  documents: Documents,
  split: str,
  tokenizer: Tokenizer,
  sequence_length: int,
  folder: Path,
  *,
  max_tokens: int,
  leaves: Int32[np.ndarray, "N"] | None = None,
  n_leaves: int = 1,
  clusters: str = "",
) -> Store:
  """Returns the evaluation store of a split, built unless the artifact is there.

  A document's first row starts with the token before documents as context, each further row with
  the last token of the row before, so that every token is predicted exactly once, from at most T
  tokens. Rows are padded with the end-of-document token, which is never predicted.

  Args:
    documents, split, tokenizer, sequence_length, folder: as for `build`.
    max_tokens: whole documents from all over the split are taken while they hold at most so many
      tokens (one document at least); 0: all documents.
    leaves, n_leaves, clusters: as for `build`, to group the rows by leaf; None: no groups.

  Raises:
    UserError: the split holds no tokens, or the artifact was made from something else.
  """

  def lay_out(tokens: _Tokens) -> _Layout:
    filled = np.flatnonzero(tokens.doc_tokens)
    if not len(filled):
      raise UserError(
        f"The {len(tokens.doc_tokens)} documents for {folder} hold no text to evaluate on: check"
        " the sources of the validation and test splits."
      )
    chosen = filled[np.argsort(np.arange(len(filled)) * _GOLDEN % 1)]  # any first few lie spread
    if max_tokens:
      n = np.searchsorted(np.cumsum(tokens.doc_tokens[chosen]), max_tokens, side="right")
      chosen = chosen[: max(n, 1)]
    group = np.zeros(len(tokens.doc_tokens), np.int32) if leaves is None else leaves
    return _windows(tokens, np.sort(chosen), group, n_leaves, sequence_length)

  made_from: dict[str, Any] = {"max_tokens": max_tokens}
  if leaves is not None:
    made_from |= {"clusters": clusters, "by_leaf": True}
  return _build(documents, split, tokenizer, sequence_length, folder, made_from, lay_out)


@dataclasses.dataclass
class _Tokens:
  """All tokens of a split in one file.

  B document E B document E ... E B (begin and end of document), or where one token is both
  E document E document E ... E.
  """

  all: np.ndarray
  end: int  # E
  between: int  # tokens between documents: 2, or 1
  doc_tokens: np.ndarray  # without those around
  doc_bytes: np.ndarray

  @property
  def starts(self) -> np.ndarray:
    return 1 + np.cumsum(self.doc_tokens + self.between) - self.doc_tokens - self.between


@dataclasses.dataclass
class _Layout:
  """Which tokens go where. Rows are laid end to end; between the pieces is padding."""

  source: np.ndarray  # where each piece begins in the tokens
  target: np.ndarray  # where it begins in the rows, ascending
  count: np.ndarray  # its tokens
  width: int  # of a row
  lengths: np.ndarray  # of each row without padding
  offsets: np.ndarray  # first row of each group, and the number of rows
  documents: np.ndarray  # in the order of the rows
  doc_leaf: np.ndarray
  doc_tokens: np.ndarray


def _grouped(
  tokens: _Tokens,
  order: np.ndarray,
  group: np.ndarray,
  n_groups: int,
  leaf: np.ndarray,
  width: int,
) -> _Layout:
  """Lays out documents in an order whose groups are ascending; each group begins with a row."""
  sizes = tokens.doc_tokens[order] + tokens.between
  in_group = np.bincount(group, sizes, minlength=n_groups).astype(np.int64)
  n_rows = (in_group + width - 2) // width  # -2, not -1, leaves out a last row of one token
  offsets = np.concatenate([[0], np.cumsum(n_rows)])
  ends = np.minimum(offsets[:-1] * width + in_group, offsets[1:] * width)
  lengths = np.full(offsets[-1], width)
  last = offsets[1:][n_rows > 0] - 1
  lengths[last] = ends[n_rows > 0] - last * width
  shift = offsets[:-1] * width - (np.cumsum(in_group) - in_group)
  target = np.cumsum(sizes) - sizes + shift[group]
  count = np.minimum(sizes, ends[group] - target)
  source = tokens.starts[order] - (tokens.between - 1)  # from its own begin
  return _Layout(source, target, count, width, lengths, offsets, order, leaf, sizes)


def _windows(
  tokens: _Tokens,
  chosen: np.ndarray,
  group: np.ndarray,
  n_groups: int,
  length: int,
) -> _Layout:
  """Lays out each document in rows of its own that predict at most `length` tokens."""
  chosen = chosen[np.argsort(group[chosen], kind="stable")]
  doc_tokens = tokens.doc_tokens[chosen]
  n_rows = -(-doc_tokens // length)
  document = np.repeat(np.arange(len(chosen)), n_rows)
  row = np.arange(len(document))
  begin = length * (row - (np.cumsum(n_rows) - n_rows)[document])
  count = 1 + np.minimum(doc_tokens[document] - begin, length)
  source, target = tokens.starts[chosen][document] - 1 + begin, row * (length + 1)
  leaf = group[chosen]
  in_group = np.bincount(leaf, n_rows, minlength=n_groups).astype(np.int64)
  offsets = np.concatenate([[0], np.cumsum(in_group)])
  return _Layout(source, target, count, length + 1, count, offsets, chosen, leaf, doc_tokens)


def _build(
  documents: Documents,
  split: str,
  tokenizer: Tokenizer,
  sequence_length: int,
  folder: Path,
  made_from: dict[str, Any],
  lay_out: Callable[[_Tokens], _Layout],
) -> Store:
  """Two passes: tokens go to a temporary file, and from there to their rows."""
  made_from = made_from | {
    "documents": documents.hash,
    "split": split,
    "tokenizer": tokenizer.hash,
    "sequence_length": sequence_length,
  }
  if not artifact.exists(folder, made_from):
    with artifact.create(folder, made_from) as temporary:
      path = temporary / "tokens.tmp"
      tokens = _tokenize(documents, split, tokenizer, path)
      _write(tokens, lay_out(tokens), temporary)
      path.unlink()
  return Store(folder)


def _tokenize(documents: Documents, split: str, tokenizer: Tokenizer, path: Path) -> _Tokens:
  begin, end = tokenizer.begin_of_document, tokenizer.end_of_document
  between = [end] if begin == end else [end, begin]
  dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
  doc_tokens, doc_bytes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
  with (
    path.open("wb") as file,
    progress(documents.count(split), f"tokenize {split}", "document") as bar,
  ):
    file.write(np.array([begin], dtype).tobytes())
    for texts in documents.batches(split):
      encoded = tokenizer.encode_batch(texts)
      parts = [part for ids in encoded for part in (ids, between)]
      file.write(np.concatenate(parts).astype(dtype).tobytes())
      doc_tokens.append(np.array([len(ids) for ids in encoded], np.int64))
      doc_bytes.append(np.array([len(text.encode()) for text in texts], np.int64))
      bar.update(len(texts))
  # Slices of a plain view cost a third of a memmap's.
  tokens = np.asarray(np.memmap(path, dtype, "r"))
  return _Tokens(tokens, end, len(between), np.concatenate(doc_tokens), np.concatenate(doc_bytes))


def _write(tokens: _Tokens, layout: _Layout, folder: Path) -> None:
  shape = len(layout.lengths), layout.width
  rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", tokens.all.dtype, shape)
  flat = np.asarray(rows).reshape(-1)
  source, target, count = layout.source.tolist(), layout.target.tolist(), layout.count.tolist()
  following = [*target[1:], flat.size]
  with progress(len(source), "write rows", "piece") as bar:
    for begin, at, n, stop in zip(source, target, count, following, strict=True):
      flat[at : at + n] = tokens.all[begin : begin + n]
      flat[at + n : stop] = tokens.end
      bar.update()
  rows.flush()
  np.save(folder / "lengths.npy", layout.lengths.astype(np.int32))
  np.save(folder / "offsets.npy", layout.offsets.astype(np.int64))
  np.save(folder / "doc_leaf.npy", layout.doc_leaf.astype(np.int32))
  np.save(folder / "doc_tokens.npy", layout.doc_tokens.astype(np.int32))
  totals = {
    "documents": len(layout.documents),
    "tokens": int(layout.doc_tokens.sum()),
    "bytes": int(tokens.doc_bytes[layout.documents].sum()),
  }
  (folder / "totals.json").write_text(json.dumps(totals))
