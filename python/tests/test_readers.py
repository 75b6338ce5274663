"""Readers that are not the model itself: a LoRA, a map; and several draws of one cell."""

import json
import shutil

import numpy as np
import pytest
import selfie_rs
from safetensors.numpy import save_file

PROMPT = "The capital of France is"
PLACES = ("[INST]", 0, 0, "[/INST] It says:")


def rows(model, **options):
    options = dict(layers=[1, 2], tokens=[-1], interpretation_prompt=PLACES, max_new_tokens=5, relevancy=False) | options
    return list(model.interpret(PROMPT, **options))


def in_f32(file):
    """The tensors of a checkpoint; numpy has no bf16, so its bits become the upper half of an f32's."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, info in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            first, last = info["data_offsets"]
            values = data[8 + length + first : 8 + length + last]
            bits = {"BF16": lambda: np.frombuffer(values, np.uint16).astype(np.uint32) << 16}
            own = bits[info["dtype"]]().view(np.float32) if info["dtype"] in bits else np.frombuffer(values, np.float32)
            tensors[name] = own.reshape(info["shape"]).copy()
    return tensors


@pytest.fixture
def lora(golden, tmp_path):
    """A LoRA of two projections, and the same model in f32 with it in its weights: W + alpha / r * B A."""
    draw = np.random.default_rng(0)
    merged = tmp_path / "merged"
    shutil.copytree(golden.path, merged)
    weights, adapter = in_f32(golden.path / "model.safetensors"), {}
    for name in ("model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"):
        out, width = weights[f"{name}.weight"].shape
        a = draw.normal(size=(4, width), scale=width**-0.5).astype(np.float32)
        b = draw.normal(size=(out, 4)).astype(np.float32)
        adapter |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        weights[f"{name}.weight"] += 2.0 * b @ a
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "lora"
    folder.mkdir()
    save_file(adapter, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    return folder, merged


def test_a_lora_reads_and_does_not_change_what_is_read(golden, lora):
    folder, merged = lora
    plain, adapted = golden.open(), golden.open(lora=folder)
    assert adapted.generate(PROMPT, temperature=0).new_ids == plain.generate(PROMPT, temperature=0).new_ids
    found = rows(adapted)
    wanted = rows(plain, reader=selfie_rs.Model.open(merged, dtype="f32", device="cpu"))
    for row, want in zip(found, wanted):
        assert row.new_ids == want.new_ids
        assert np.abs(np.array(row.logprobs) - np.array(want.logprobs)).max() < 1e-4
        assert row.reader == str(folder)
    without = rows(plain)
    assert [row.logprobs for row in found] != [row.logprobs for row in without]
    vectors = plain.trace(PROMPT).hidden_states[1, -1]
    of_vectors = dict(interpretation_prompt=PLACES, max_new_tokens=5, relevancy=False)
    assert next(iter(adapted.interpret_vectors(vectors, **of_vectors))).new_ids == found[0].new_ids


def test_a_lora_of_another_model_is_refused(demo, lora):
    folder, _ = lora
    with pytest.raises((RuntimeError, ValueError), match="q_proj|down_proj"):
        selfie_rs.Model.open(device="cpu", lora=folder)
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        selfie_rs.Model.open(device="cpu", lora=folder / "nowhere")


def test_a_map_is_applied_where_it_says(golden, tmp_path):
    """A map that doubles is strength 2 of an `add`; the identity is no map."""
    model = golden.open()
    width = model.d_model
    for scale in (1.0, 2.0):
        file = tmp_path / f"{scale}.safetensors"
        tensors = {"weight": scale * np.eye(width, dtype=np.float32), "bias": np.zeros(width, dtype=np.float32)}
        save_file(tensors, file, metadata={"source_layer": "2", "target_layer": "1"})
        mapped = rows(model, layers=[2], mode="add", map=file)[0]
        wanted = rows(model, layers=[2], mode="add", strength=scale)[0]
        assert (mapped.inject_layer, mapped.new_ids) == (1, wanted.new_ids)
        assert np.abs(np.array(mapped.logprobs) - np.array(wanted.logprobs)).max() < 1e-4
    with pytest.raises(ValueError, match="layer"):
        rows(model, layers=[1], map=file)


def test_samples_agree_as_often_as_they_do(demo, colosseum):
    options = dict(layers=[3], tokens=[-1], max_new_tokens=12, relevancy=False)
    row = next(iter(demo.interpret(colosseum, samples=5, temperature=1.0, seed=3, **options))).to_dict()
    texts = row["samples"]
    assert len(texts) == 5 and row["interpretation"] in texts
    shares = [texts.count(text) / 5 for text in texts]
    assert row["agreement"] >= max(shares) - 1e-6
    with pytest.raises(ValueError, match="samples"):
        demo.interpret(colosseum, samples=5, **options)
