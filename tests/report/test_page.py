"""The page: one valid file, one look for each method, whatever is finished."""

import re

from records import KINDS, Reader, cells, log, save, written
from specialization.report import plots, results


def test_page_is_one_valid_file_that_needs_nothing_else(tmp_path, capsys):
  names = [(m, d, n) for m in ("<m>", "c") for d in ("<d>", "e") for n in (1000, 2000)]
  expected = cells(*names)
  for method, domain, tokens in names:
    save(tmp_path, method, domain, tokens)
  for method in ("<m>", "c"):
    log(tmp_path, method, [1234.0] * 400)
  page = written(tmp_path, expected, name="<study>")
  assert capsys.readouterr() == ("", "")
  reader = Reader(page)
  assert not reader.tags & {"script", "link", "img", "iframe", "object", "base"}
  for _, name, value in reader.attributes:
    if name.split(":")[-1] in ("href", "src", "srcset", "action", "poster", "data"):
      assert value.startswith("#")
    if name and not name.startswith("xmlns"):
      assert "//" not in (value or "")
  assert not re.findall(r"@import|@font-face|url\((?!#)", page)
  ids = [value for _, name, value in reader.attributes if name == "id"]
  assert len(ids) == len(set(ids))
  assert {value[1:] for _, name, value in reader.attributes if name == "href"} <= set(ids)
  assert {"<study>", " <m>", "<d>", "Fine-tuning on <d>", "Pretraining"} <= set(reader.texts)
  assert {"1 task", "7 tasks", "50 tasks", "Forgetting: generic text"} <= set(reader.texts)
  assert "1.234k" in reader.texts
  assert "prefers-color-scheme: dark" in page
  assert page.count("<style") == 1
  assert page == written(tmp_path, expected, name="<study>")
  for kind, begin in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
    figures = [*(tmp_path / "report" / "figures").glob(f"*.{kind}")]
    assert len(figures) == page.count("<svg")
    assert all(path.read_bytes().startswith(begin) for path in figures)


def test_every_section_can_be_drawn(tmp_path):
  for share in (0.5, 1.0):
    for method in ("slm", "llm", "slm_is", "slm_mix", "slm_pn", "slm_d"):
      for domain in ("a", "b", "c"):
        for tokens in (1000, 2000):
          for seed in (0, 1):
            save(tmp_path, method, domain, tokens, share=share, seed=seed, after=8 + seed)
  save(tmp_path, "slm_nopt", "a", 1000)
  save(tmp_path, "is8", "a", 1000, strategy="importance", clusters=8)
  save(tmp_path, "all", "a", 1000, pretraining="slm_pn", choice="all")
  reader = Reader(written(tmp_path))
  heads = {
    *("Results", "The paper's claims", "Which method under which budget", "Generic budget"),
    *("Domains", "Quality against cost", "Cost by number of tasks", "Parameters and throughput"),
    *("Choice of the expert", "Distillation", "Numbers of clusters", "Clusters and domains"),
    *("Importance sampling", "Training", "Everything"),
  }
  assert heads <= set(reader.texts)


def test_an_unfinished_study_can_be_drawn(tmp_path):
  save(tmp_path, "slm", "a", 1000, share=0.25)
  save(tmp_path, "slm_is", "b", 1000, share=1.0)
  save(tmp_path, "slm_nopt", "c", 2000)
  Reader(written(tmp_path))


def test_a_method_has_one_color_everywhere_whatever_is_finished(tmp_path):
  save(tmp_path, "slm_pn", "a", 1000)
  names = ("slm", "slm_mix", "slm_pn")
  color, _, glyph = plots.looks(names, {"slm_pn": "projected"})["slm_pn"]
  page = written(tmp_path, cells(*((m, "a", 1000) for m in names)))
  assert f'<span style="color:{color}">{glyph}</span> slm_pn' in page
  drawn = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", page))
  assert drawn == {color}


def test_kinds_differ_by_color_and_their_variants_by_marker(tmp_path):
  names = [*KINDS, "slm", "slm_pn_4", "new"]
  for name in names:
    fields = KINDS["slm_pn"] if name == "slm_pn_4" else {"family": "soup"} if name == "new" else {}
    save(tmp_path, name, "a", 1000, **fields)
  look = plots.looks(names, results.load(tmp_path).kinds)
  assert len({(color, marker) for color, marker, _ in look.values()}) == len(names)
  assert look["slm_pn"].color == look["slm_pn_4"].color
  assert len({look[name].color for name in names}) == len(names) - 1
