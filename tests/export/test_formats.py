"""What each format's files hold is what the model was, as exactly as its numbers can say."""

import json
import os

import jax
import numpy as np
import pytest
import tokenizers
from gguf import GGUFReader
from jax import export
from safetensors.numpy import load_file

import other_tokenizers
import packages
from specialization import layers, sharding
from specialization.errors import UserError
from specialization.export import FORMATS, gguf, hf, llama

# By the bits of a number: what a parameter may differ by, in parts of the largest of its tensor.
LOST = {"32": 0.0, "16": 2**-8, "8": 1 / 127, "4": 1 / 7}
CHANGES = [
  {},
  {"n_kv_heads": 4},
  {"n_kv_heads": 1, "tie_embeddings": False},
  {"rope_scaling": (8.0, 1.0, 4.0, 64.0)},
]
OWN = ("hf", "gguf", "stablehlo")  # formats that need no package beside those of the project
WAYS = [(kind, dtype) for kind in OWN for dtype in FORMATS[kind].dtypes]


@pytest.fixture
def made(tmp_path, request):
  of = packages.transformer(**request.param)
  params = packages.perturbed(of.initialize(jax.random.key(0)))
  (tmp_path / "out").mkdir()
  return of, params, packages.package(of, params, tmp_path), tmp_path / "out"


@pytest.mark.parametrize(("kind", "dtype"), WAYS)
@pytest.mark.parametrize("made", CHANGES, ids=str, indirect=True)
def test_parameters_come_back(made, kind, dtype):
  of, params, package, folder = made
  FORMATS[kind].write(package, folder, dtype)
  back = FORMATS[kind].weights(folder, of.config)
  assert jax.tree.structure(back) == jax.tree.structure(params)
  bits = next(bits for bits in LOST if bits in dtype)
  for path, found in jax.tree_util.tree_flatten_with_path(back)[0]:
    wanted = np.asarray(at(params, path))
    is_vector = "norm" in jax.tree_util.keystr(path)
    lost = LOST["32"] if is_vector and kind == "gguf" else LOST[bits]
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= lost * np.abs(wanted).max(), path


def at(tree, path):
  for key in path:
    tree = tree[key.key]
  return tree


@pytest.mark.parametrize("made", CHANGES, ids=str, indirect=True)
def test_stablehlo_is_called_without_the_model(made):
  of, params, package, folder = made
  FORMATS["stablehlo"].write(package, folder, "float32")
  call = FORMATS["stablehlo"].read(folder).logits
  for shape in ((1, 1), (3, packages.LENGTH), (2, 7)):
    tokens = np.random.default_rng(1).integers(0, packages.VOCAB, shape, np.int32)
    np.testing.assert_allclose(call(tokens), packages.logits(of, params, tokens), atol=1e-5)


@pytest.mark.parametrize("made", CHANGES, ids=str, indirect=True)
def test_stablehlo_goes_on_from_a_cache(made):
  of, params, package, folder = made
  FORMATS["stablehlo"].write(package, folder, "float32")
  generate = FORMATS["stablehlo"].read(folder).generate
  for shape in ((1, 1), (3, 9)):
    tokens = np.random.default_rng(1).integers(0, packages.VOCAB, shape, np.int32)
    for n in (1, 12):
      found, wanted = generate(tokens, n), tokens
      for _ in range(n):
        likeliest = packages.logits(of, params, wanted)[:, -1:].argmax(-1)
        wanted = np.concatenate([wanted, likeliest], 1).astype(np.int32)
      np.testing.assert_array_equal(found, wanted[:, shape[1] :])


@pytest.mark.parametrize("made", CHANGES[:1], ids=str, indirect=True)
def test_stablehlo_goes_on_without_the_model(made):
  """Rows of two lengths, padded on their left, in one cache; as the docs show it."""
  of, params, package, folder = made
  FORMATS["stablehlo"].write(package, folder, "float32")
  extend = export.deserialize(bytearray((folder / "extend.stablehlo").read_bytes())).call
  tensors, c = load_file(folder / "model.safetensors"), of.config
  rows = [[5, 6, 7, 8, 9, 10], [11, 12]]
  kept = np.zeros((c.n_layers, 2, c.n_kv_heads, 8, c.head_dim), np.float32)
  start, end = np.array([0, 4], np.int32), np.int32(0)
  cache = {"key": kept, "value": kept, "start": start, "end": end}
  with jax.set_mesh(sharding.on_the_host()):
    logits, cache = extend(tensors, cache, np.array([rows[0], [0] * 4 + rows[1]], np.int32))
    for found, row in zip(logits, rows, strict=True):
      wanted = packages.logits(of, params, np.array([row], np.int32))[0, -1]
      np.testing.assert_allclose(found, wanted, atol=1e-5)
    logits, cache = extend(tensors, cache, np.array([[20], [21]], np.int32))
  assert cache["end"] == 7
  for found, row, more in zip(logits, rows, (20, 21), strict=True):
    wanted = packages.logits(of, params, np.array([[*row, more]], np.int32))[0, -1]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("made", [{"n_kv_heads": 2}], ids=str, indirect=True)
def test_heads_are_paired_as_llama_cpp_rotates_them(made):
  """Rotated in neighbors, what was paired gives the scores of what is rotated in halves."""
  of, _, package, _ = made
  c = of.config
  tensors = dict(package.tensors())
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, c.d_model))
  angle = np.arange(5)[:, None] * c.rope_theta ** (-np.arange(c.head_dim // 2) / (c.head_dim // 2))

  def scores(turn, rotate):
    heads = []
    for name, n in (("q", c.n_heads), ("k", c.n_kv_heads)):
      kernel = turn(f"{name}_proj", tensors[f"model.layers.0.self_attn.{name}_proj.weight"])
      heads.append(rotate((x @ kernel.T).reshape(5, n, c.head_dim).swapaxes(0, 1)))
    query, key = heads[0], np.repeat(heads[1], c.n_heads // c.n_kv_heads, axis=0)
    return query @ key.swapaxes(1, 2)

  def in_halves(y):
    a, b = np.split(y, 2, axis=-1)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

  def in_neighbors(y):
    z = (y[..., 0::2] + 1j * y[..., 1::2]) * np.exp(1j * angle)
    return np.stack([z.real, z.imag], axis=-1).reshape(y.shape)

  wanted = scores(lambda _, kernel: kernel, in_halves)
  found = scores(lambda name, k: gguf._turned(name, k, c, gguf._paired), in_neighbors)
  np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("made", [{}], ids=str, indirect=True)
def test_a_gguf_file_says_what_it_is(made):
  import gguf as library

  of, _, package, folder = made
  FORMATS["gguf"].write(package, folder, "q4_0")
  reader = library.GGUFReader(folder / gguf.FILE)
  said = {name: field.contents() for name, field in reader.fields.items()}
  assert said["general.architecture"] == "llama"
  assert said["general.description"] == "A model of nothing."
  assert said["tokenizer.ggml.model"] == "gpt2"
  assert said["tokenizer.ggml.pre"] == "gpt-2"
  assert said["tokenizer.ggml.add_bos_token"] is True
  assert said["tokenizer.ggml.bos_token_id"] == said["tokenizer.ggml.eos_token_id"] == package.end
  assert len(said["tokenizer.ggml.tokens"]) == packages.VOCAB
  assert said["tokenizer.ggml.tokens"][package.end] == "<|endoftext|>"
  assert [i for i, kind in enumerate(said["tokenizer.ggml.token_type"]) if kind == 3] == [
    package.end
  ]
  assert said["llama.attention.head_count_kv"] == of.config.n_kv_heads
  assert said["llama.context_length"] == packages.LENGTH
  kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
  assert kinds["token_embd.weight"] == "Q8_0"
  assert kinds["blk.1.ffn_down.weight"] == "Q4_0"
  assert kinds["output_norm.weight"] == "F32"
  assert "output.weight" not in kinds


@pytest.mark.parametrize("made", [{"tie_embeddings": False}], ids=str, indirect=True)
def test_large_models_are_cut_into_files(made, monkeypatch):
  of, params, package, folder = made
  monkeypatch.setattr(hf, "_SHARD", 100_000)
  asked = []
  leaf = package.leaf
  object.__setattr__(package, "leaf", lambda path: asked.append(path) or leaf(path))
  hf.write(package, folder, "float32")
  files = sorted(folder.glob("*.safetensors"))
  assert len(files) > 3
  assert all(f"of-{len(files):05}" in file.name for file in files)
  assert all(file.stat().st_size < 110_000 for file in files)
  assert asked == list(llama.names(of.config))  # one after the other
  index = json.loads((folder / "model.safetensors.index.json").read_text())
  assert index["metadata"]["total_size"] == 4 * sum(p.size for p in jax.tree.leaves(params))
  back = hf.weights(folder, of.config)
  jax.tree.map(np.testing.assert_array_equal, back, jax.device_get(params))
  assert hf.described(folder) == (of.config, packages.VOCAB, packages.LENGTH)
  files[1].unlink()
  with pytest.raises(UserError, match=r"lacks model-00002-of-\d+\.safetensors"):
    hf.described(folder)


@pytest.mark.parametrize("made", [{}], ids=str, indirect=True)
def test_parts_of_parameters_are_read_alone(made):
  of, _, package, folder = made
  hf.write(package, folder, "float32")
  with hf.opened(folder) as (_, read):
    for path in llama.names(of.config):
      whole = package.leaf(path)
      index = tuple(slice(n // 3, n // 3 + max(1, n // 2)) for n in whole.shape)
      found = llama.part(of.config, path, index, read)
      np.testing.assert_array_equal(found, whole[index], err_msg=str(path))


@pytest.mark.parametrize("made", [{}], ids=str, indirect=True)
@pytest.mark.parametrize("kind", ["hf", "stablehlo"])
def test_others_may_read_the_files(made, kind):
  _, _, package, folder = made
  FORMATS[kind].write(package, folder, "float32")
  assert all(os.stat(path).st_mode & 0o044 == 0o044 for path in folder.iterdir())


@pytest.mark.parametrize("made", [{"d_mlp": 48}], ids=str, indirect=True)
@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_widths_that_do_not_quantize(made, dtype):
  _, _, package, folder = made
  with pytest.raises(UserError, match=f"d_mlp=48, and {dtype} takes numbers in blocks of 32"):
    FORMATS["gguf"].write(package, folder, dtype)


@pytest.mark.parametrize("made", [{}], ids=str, indirect=True)
@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ({"model_type": "gpt2"}, "is not a plain Llama .*model_type='gpt2' instead of 'llama'"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' instead of 'silu'"),
    ({"attention_bias": True}, "attention_bias=True instead of False"),
    ({"rope_scaling": {"rope_type": "yarn"}}, r"scales its rotary positions .* \(yarn\)"),
    ({"rope_scaling": "linear"}, r"scales its rotary positions .* \(linear\)"),
    ({"rope_scaling": {"rope_type": "llama3"}}, "has sizes that are no numbers above 0"),
    ({"rope_parameters": {"rope_theta": "1e4"}}, "has sizes that are no numbers above 0"),
    ({"num_key_value_heads": "8"}, "has sizes that are no numbers above 0"),
    ({"rms_norm_eps": "1e-5"}, "has sizes that are no numbers above 0"),
    ({"rope_theta": float("inf")}, "has sizes that are no numbers above 0"),
    ({"head_dim": 99}, "heads of 99 features"),
    ({"hidden_size": None}, "has no field hidden_size"),
    ({"quantization": {"bits": 4}}, r"quantization=\{'bits': 4\} instead of None"),
  ],
)
def test_what_is_no_plain_llama(made, change, sentence):
  _, _, package, folder = made
  hf.write(package, folder, "float32")
  found = json.loads((folder / "config.json").read_text()) | change
  found = {name: value for name, value in found.items() if change.get(name, 0) is not None}
  with pytest.raises(UserError, match=sentence):
    llama.from_json(found, "there")


@pytest.mark.parametrize(
  "made", [{"rope_scaling": (8.0, 1.0, 4.0, 64.0)}, {}], ids=str, indirect=True
)
def test_llama_cpp_is_told_by_what_frequencies_are_divided(made):
  of, _, package, folder = made
  gguf.write(package, folder, "f32")
  found = {each.name: each.data for each in GGUFReader(folder / gguf.FILE).tensors}
  c = of.config
  if not c.rope_scaling:
    assert "rope_freqs.weight" not in found
    return
  kept = layers.slowed(c.head_dim // 2, c.rope_theta, c.rope_scaling)
  np.testing.assert_allclose(found["rope_freqs.weight"], 1 / kept, rtol=1e-6)


@pytest.mark.parametrize("begin", ["<s>", "<b: os>", "$A"])
def test_texts_begin_with_one_token_however_it_is_spelled(tmp_path, begin):
  text = other_tokenizers.marked(packages.TEXT, packages.VOCAB).replace('"<s>"', f'"{begin}"')
  other_tokenizers.write(tmp_path, text, begin=begin)
  of, out = packages.transformer(), tmp_path / "out"
  out.mkdir()
  package = packages.package(of, of.initialize(jax.random.key(0)), tmp_path, text)
  hf.write_beside(package, out, "float32")
  written = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
  plain = written.encode("The judge", add_special_tokens=False).ids
  assert package.begin == 1
  assert written.encode("The judge").ids == [1, *plain]
  assert written.encode("The judge", "The judge").ids == [1, *plain, 1, *plain]


@pytest.mark.parametrize("made", [{}], ids=str, indirect=True)
def test_damaged_and_foreign_files(made):
  _, _, package, folder = made
  hf.write(package, folder, "float32")
  hf.described(folder)

  def refused(sentence):
    with pytest.raises(UserError, match=sentence):
      hf.described(folder)

  config = folder / "config.json"
  told = config.read_text()
  config.write_text(told.replace('"vocab_size": 320', '"vocab_size": 321'))
  refused(r"embed_tokens.weight of \(320, 64\), and .* \(321, 64\)")
  config.write_text(told.replace('"num_attention_heads": 4', '"num_attention_heads": 0'))
  refused("has sizes that are no numbers above 0")
  config.write_text(told[:50])
  refused(r"config.json is damaged \(.*\): copy or export it anew")
  config.write_text("[]")
  refused("config.json is not what belongs there")
  config.write_text(told)
  file = folder / "model.safetensors"
  whole = file.read_bytes()
  file.write_bytes(whole[:1000])
  refused(r"model.safetensors is damaged \(.*\): copy or export it")
  file.unlink()
  refused(r"lacks model.safetensors: name a folder that `export`")
  file.mkdir()
  refused(r"lacks model.safetensors: name a folder that `export`")
  index = folder / "model.safetensors.index.json"
  index.write_text("{")
  refused(r"index.json is damaged")
  for there in ({}, {"weight_map": []}, {"weight_map": {"model.norm.weight": 1}}):
    index.write_text(json.dumps(there))
    refused("index.json does not say where tensors are: copy it anew")
  index.write_text(json.dumps({"weight_map": {}}))
  refused("has no tensor model.embed_tokens.weight: copy all files of a whole Llama")
  config.unlink()
  refused("has no config.json: name a folder that `export` or transformers wrote")
