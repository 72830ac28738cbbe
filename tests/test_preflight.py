"""The preflight: what it chooses and measures; faults of model, data and settings are refused in a sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import flight_runs
import models
from flight_runs import Flight
from snaketune import job
from snaketune.model.passes import How
from snaketune.rows import SPLIT, write_table
from token_runs import tokenize as tokenize_split
from training_runs import Run

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# A model of a folder that brings its own code, and takes no notice of positions and masks.
BLIND = """
from transformers import GPT2LMHeadModel, GPT2Model


class BlindModel(GPT2Model):
    def forward(self, input_ids=None, position_ids=None, attention_mask=None, **more):
        return super().forward(input_ids, **more)


class Blind(GPT2LMHeadModel):
    def __init__(self, config):
        super().__init__(config)
        self.transformer = BlindModel(config)
        self.post_init()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    return flight_runs.made(tmp_path_factory.mktemp("flight"))


def changed(made: dict[str, str], folder: Path, change: Any) -> dict[str, str]:
    """A copy of the base whose loaded model was changed."""
    base = shutil.copytree(made["base"], folder / "changed")
    model = AutoModelForCausalLM.from_pretrained(base)
    change(model)
    model.save_pretrained(base)
    return made | {"base": str(base)}


def test_a_sound_training_passes_and_the_file_says_how_and_what_it_costs(made, tmp_path):
    flight = Flight(made, tmp_path)
    found = flight()
    facts = json.loads(Path(flight.about).read_text())
    how = How(**found["how"])
    assert (how.precision, how.attention, how.pass_blocks, how.compile) == ("fp32", "varlen", 4, False)
    assert (how.width, how.longest, how.packed, how.pad) == (32, facts["longest"], True, 0)
    assert max(*found["padding"].values(), *found["attention"].values()) < 1e-4
    model = AutoModelForCausalLM.from_pretrained(made["base"])
    assert found["parameters"] == found["trainable_parameters"] == sum(p.numel() for p in model.parameters())
    held = found["memory_mb"]
    parts = ("weights", "gradients", "optimizer", "average", "activations")
    assert held["estimate"] == pytest.approx(sum(held[name] for name in parts), abs=0.01)
    assert held["estimate"] < held["peak"] < held["device"]
    assert found["run_seconds"] == pytest.approx(facts["tokens"] / found["step"]["tokens_per_second"], abs=1e-3)
    for number in (f"{found['step']['tokens']:,} tokens", f"{held['peak']:,.0f} MB", "all steps about 1 s"):
        assert number in flight.sentence


def test_the_training_follows_what_the_preflight_chose(made, tmp_path):
    settings = {"max_steps": 2, "precision": "auto", "gradient_accumulation": 2}
    found = Flight(made, tmp_path / "flight", batch_size=4, **settings)()
    run = Run(made, tmp_path / "run", how=found["how"], batch_size=4, **settings)
    run()
    assert (found["how"]["pass_blocks"], run.summary["pass_sequences"]) == (2, 2)
    assert run.summary["precision"] == found["how"]["precision"]


def test_how_to_compute_and_the_examples_are_the_same_twice(made, tmp_path):
    one, other = (Flight(made, tmp_path / str(number), batching="length_grouped")() for number in range(2))
    for key in ("how", "examples", "rows", "padding", "attention", "learns", "device"):
        assert one[key] == other[key], key
    assert one["step"]["loss"] == other["step"]["loss"]


def test_only_the_settings_of_its_rule_are_read(made, tmp_path):
    flight = Flight(made, tmp_path)
    unknown = set(flight.settings) - set(flight_runs.KEYS)
    assert {"learning_rate", "scheduler", "max_grad_norm", "evaluations"} <= unknown
    assert flight()["step"]["tokens"] > 0


@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded"])
@pytest.mark.parametrize("kind", ["gpt_neo", "gptj", "gemma2"])
def test_models_of_other_kinds_pass(kind, batching, tmp_path):
    other = flight_runs.made(tmp_path, kind)
    found = Flight(other, tmp_path / "flight", batching=batching)()
    assert found["how"]["attention"] == ("eager" if kind == "gemma2" else "varlen")


@pytest.mark.parametrize("method", ["freeze", "features", "lora"])
def test_only_what_learns_has_a_gradient_and_a_state(made, tmp_path, method):
    more = {"freeze": flight_runs.SETTINGS["freeze"] | {"embeddings": True, "gradual": 0.5}}
    average = {"kind": "ema", "decay": 0.9, "start": 0.5}
    found = Flight(made, tmp_path, method=method, average=average, **more)()
    held, learns = found["memory_mb"], found["trainable_parameters"]
    assert 0 < learns != found["parameters"]
    assert held["gradients"] == held["average"] == round(learns * 4 / 1e6, 3)
    assert held["optimizer"] == pytest.approx(learns * 8 / 1e6, abs=0.001)  # two moments


def test_a_plan_of_several_processes_is_tried_with_the_share_of_one(made, tmp_path):
    found = Flight(made, tmp_path, devices=2, batching="padded", batch_size=6)()
    assert (found["how"]["pass_blocks"], found["step"]["sequences"], found["step"]["passes"]) == (3, 3, 1)


def test_under_fsdp_the_memory_of_each_process_is_counted_though_no_step_is_tried(made, tmp_path):
    alone = Flight(made, tmp_path / "alone", gradient_accumulation=4)()["memory_mb"]
    flight = Flight(made, tmp_path / "spread", devices=2, parallel="fsdp")
    found = flight()
    held = found["memory_mb"]
    assert found["step"] is found["run_seconds"] is held["peak"] is None
    assert found["how"]["pass_blocks"] == 1
    for part in ("weights", "gradients", "optimizer"):
        assert held[part] == pytest.approx(alone[part] / 2, abs=0.002)
    assert held["activations"] == pytest.approx(alone["activations"], abs=0.02)
    assert held["estimate"] >= held["weights"] + held["gathered"] + held["activations"] - 0.2
    assert f"about {held['estimate']:,.0f} MB" in flight.sentence


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(made, tmp_path):
    base = shutil.copytree(made["base"], tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    known = len(tokenizer)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(base)
    said = Flight(made | {"base": str(base)}, tmp_path / "flight").refused()
    assert f"the tokenizer has {known + 2} tokens, and the model knows {known}" in said
    assert "resize_token_embeddings" in said


def test_rows_that_are_longer_than_the_positions_are_refused(made, tmp_path):
    def shorten(model: Any) -> None:
        model.transformer.wpe = torch.nn.Embedding(12, model.config.n_embd)
        model.config.n_positions = 12

    said = Flight(changed(made, tmp_path, shorten), tmp_path / "flight").refused()
    assert "and the model 12 positions; set `tokenize.max_length` to 12 or less" in said


def test_completions_without_an_end_are_refused_and_plain_texts_are_not(made, tmp_path):
    pairs = flight_runs.made(tmp_path / "pairs", append_eos=False)
    said = Flight(pairs, tmp_path / "one").refused()
    assert "no completion ends with the end-of-text token" in said
    assert "`tokenize.append_eos: true`" in said
    texts = flight_runs.made(tmp_path / "texts", rows=models.texts(12), append_eos=False)
    assert Flight(texts, tmp_path / "two")()["rows"]["end_trained"] == 0


def chats(folder: Path, template: str, **tokenize: Any) -> dict[str, str]:
    """A base with a chat template, and the tokens of a few chats."""
    base = models.base(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(base)
    rows = []
    for number, (question, answer) in enumerate(models.pairs(12)):
        talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"row_id": f"{number:02d}", "source": "made", "line": 1, "messages": json.dumps(talk)})
    table = pa.Table.from_pylist(rows, schema=SPLIT)
    settings = models.TOKENIZE | tokenize | {"max_length": 48}
    made = {"base": base}
    for name in ("train", "validation"):
        write_table(table, folder / f"{name}.parquet", SPLIT)
        made[name] = tokenize_split(str(folder / f"{name}.parquet"), base, folder / "tokens", name, settings)
    return made


def test_a_chat_template_that_writes_line_feeds_after_the_end_passes(tmp_path):
    found = Flight(chats(tmp_path, CHAT, append_eos=False), tmp_path / "flight")()
    assert found["rows"]["end_trained"] == 1
    shown = found["examples"][0]
    answer = "".join(text for text, trained in zip(shown["tokens"], shown["trained"], strict=True) if trained)
    assert answer.endswith("<|endoftext|>\n\n")


def test_a_chat_template_that_ends_with_another_token_is_refused(tmp_path):
    other = chats(tmp_path, CHAT.replace("eos_token", "'<stop>'"), append_eos=False)
    assert "its chat template ends an answer with" in Flight(other, tmp_path / "flight").refused()


def test_a_weight_that_is_no_number_is_refused_by_its_name(made, tmp_path):
    def break_it(model: Any) -> None:
        model.transformer.h[0].mlp.c_fc.weight.data[3, 5] = float("nan")

    said = Flight(changed(made, tmp_path, break_it), tmp_path / "flight").refused()
    assert "the weight transformer.h.0.mlp.c_fc.weight holds values that are no finite numbers" in said


def test_weights_so_large_that_the_loss_is_no_number_are_refused(made, tmp_path):
    def blow_up(model: Any) -> None:
        model.transformer.ln_f.weight.data *= 1e30
        model.transformer.wte.weight.data *= 1e30

    said = Flight(changed(made, tmp_path, blow_up), tmp_path / "flight").refused()
    assert "no finite numbers" in said
    assert "`model.base`" in said


@pytest.mark.parametrize(("kind", "attention"), [("opt", "sdpa"), ("opt", "eager"), ("bloom", "auto")])
def test_packed_rows_that_a_model_mixes_are_refused(kind, attention, tmp_path):
    made = flight_runs.made(tmp_path, kind)
    said = Flight(made, tmp_path / "packed", attention=attention).refused()
    assert "does not keep packed rows apart" in said
    assert "`train.batching: length_grouped`" in said
    assert ("`train.attention: auto`" in said) == (kind == "opt")  # OPT has varlen, which keeps them apart
    found = Flight(made, tmp_path / "grouped", attention=attention, batching="length_grouped")()
    assert found["how"]["attention"] == ("eager" if kind == "bloom" else attention)


def test_packed_rows_of_opt_are_kept_apart_by_varlen(tmp_path):
    assert Flight(flight_runs.made(tmp_path, "opt"), tmp_path / "f")()["how"]["attention"] == "varlen"


@pytest.mark.parametrize(("kind", "attention"), [("gpt_neo", "sdpa"), ("bloom", "varlen"), ("gemma2", "varlen")])
def test_an_attention_that_a_model_does_not_have_is_refused(kind, attention, tmp_path):
    said = Flight(flight_runs.made(tmp_path, kind), tmp_path / "f", attention=attention).refused()
    assert f"`train.attention: {attention}` is not there for a {kind} model in fp32 on cpu" in said
    assert "eager. Set `auto`" in said


def test_a_model_whose_code_takes_no_notice_of_padding_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    base = Path(shutil.copytree(made["base"], tmp_path / "base"))
    (base / "blind.py").write_text(BLIND)
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "blind.Blind"}
    (base / "config.json").write_text(json.dumps(config))
    said = Flight(made | {"base": str(base)}, tmp_path / "flight", trust_remote_code=True).refused()
    assert "the model's loss depends on padding (left)" in said
    assert "does not use the attention mask and the positions" in said
    assert "`model.base`" in said


def test_the_first_examples_are_shown_before_anything_is_refused(made, tmp_path, capsys):
    pairs = flight_runs.made(tmp_path / "pairs", append_eos=False)
    Flight(pairs, tmp_path / "one").refused()
    assert capsys.readouterr().err.count("trained between \u27e6 and \u27e7:") == 2


def test_fp16_on_a_cpu_and_too_few_gpus_are_refused(made, tmp_path):
    from preflight import _refuse_too_few

    assert "`train.precision: fp16` needs a GPU" in Flight(made, tmp_path, precision="fp16").refused()
    with pytest.raises(job.StageError, match="this machine has 2 GPUs"):
        _refuse_too_few(4, 2)
    _refuse_too_few(4, None)
    _refuse_too_few(2, 2)


def test_products_are_exact_while_models_are_compared_and_as_wanted_in_the_trial(made, tmp_path):
    from preflight import _exact_products

    torch.set_float32_matmul_precision("high")
    try:
        with _exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
