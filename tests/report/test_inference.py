"""The section on what exports cost where they run."""

import json

from records import save
from specialization.report import results
from specialization.report.figures import Lines, Name, Table
from specialization.report.sections import inference


def measured(work, cell, by, dtype, size, perplexity, decode=0.0):
  record = {
    "cell": cell,
    "format": "gguf",
    "dtype": dtype,
    "reader": "gguf",
    "by": by,
    "parameters": 1000,
    "bytes": size,
    "prefill": 2 * decode,
    "decode_1": decode,
    "decode_16": 4 * decode,
    "memory": 5_000_000,
    "perplexity": perplexity,
    "tokens": 100,
    "hardware": "2 cores of a CPU",
    "date": "2026-11-26",
  }
  path = work / "inference" / f"{cell}--{by}-{dtype}.json"
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(record))


def test_a_study_without_any(tmp_path):
  save(tmp_path)
  assert inference.section(results.load(tmp_path)) is None


def test_each_method_has_a_line(tmp_path):
  save(tmp_path, "slm")
  save(tmp_path, "llm", after=4.0)
  names = {m: f"{m}--scipy--100000--b100--s0" for m in ("slm", "llm")}
  measured(tmp_path, names["slm"], "cpp", "f16", 2_000_000, 8.0, 100.0)
  measured(tmp_path, names["slm"], "cpp", "q4_0", 600_000, 9.0, 150.0)
  measured(tmp_path, names["slm"], "jax", "f32", 4_000_000, 8.0)
  measured(tmp_path, names["llm"], "cpp", "f16", 20_000_000, 4.0, 10.0)
  measured(tmp_path, "another--scipy--100000--b100--s0", "cpp", "f16", 1, 1.0, 1.0)
  section = inference.section(results.load(tmp_path))
  assert "2 cores of a CPU, 2026-11-26." in section.text
  (table,) = (part for part in section.parts if isinstance(part, Table))
  rows = [
    [item if isinstance(item, str) else item.method for item in row]
    for body in table.bodies
    for row in body
  ]
  assert [(row[0], row[3]) for row in rows] == [
    ("llm", "f16"),
    ("slm", "f32"),
    ("slm", "f16"),
    ("slm", "q4_0"),
  ]
  assert rows[2] == [
    *("slm", "scipy", "gguf", "f16", "cpp", "200", "100", "400", "2.00", "5", "8.000")
  ]
  assert rows[1][5:8] == ["–"] * 3
  assert isinstance(table.bodies[0][0][0], Name)
  plots = {part.title: part for part in section.parts if isinstance(part, Lines)}
  curves = {line.method: (line.x, line.y) for line in plots["scipy: size"].series}
  assert curves["slm"] == ([0.6, 2.0, 4.0], [9.0, 8.0, 8.0])
  assert curves["llm"] == ([20.0], [4.0])
  fast = {line.method: (line.x, line.y) for line in plots["scipy: decoding by cpp"].series}
  assert fast == {"slm": ([100.0, 150.0], [8.0, 9.0]), "llm": ([10.0], [4.0])}
  assert set(plots) == {"scipy: size", "scipy: decoding by cpp"}  # jax has no speed
