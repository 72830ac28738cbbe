"""Low-rank adapters: put into a model by peft, merged into it again, and saved apart.

An adapter adds to the weight W of a linear layer the product of two thin matrices, s·B·A, and only those learn (LoRA,
Hu et al. 2021). Variants: `rslora` scales by alpha/sqrt(rank) (Kalajdzievski 2023); `dora` learns the length of each
output's weights apart (Liu et al. 2024), for which each pass computes B·A and its norms anew; `pissa` starts A and B
from the largest singular values and keeps the rest of W frozen (Meng et al. 2024). They are those of peft that are
right on `nn.Linear` and on GPT-2's transposed Conv1D, and that need no data before training. OLoRA is not among them:
on Conv1D it takes B·A out of the untransposed weight, which changes a square layer and breaks on any other.

qlora trains the same adapters over a base in 4 bits (nf4, the scales quantised again; Dettmers et al. 2023).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from snaketune.job import StageError
from snaketune.model.anatomy import blocks_of, untie_head

if TYPE_CHECKING:
    from snaketune.model.methods import Learner

NAME = "default"  # peft's name for the one adapter of a model
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa_niter_16"},  # the paper's fast decomposition; an exact one takes minutes
}


def inject(model: Any, settings: dict[str, Any]) -> tuple[Any, str, dict[str, torch.Tensor]]:
    """Put adapters into a model, in place, by the `lora` section; all else is frozen.

    Their first values depend on the seed alone. An adapter on a tied head unties it. Returns (the PeftModel, what
    learns in words, the first values of adapters taken out of the base model). Raises StageError for names that the
    model does not have.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    lora, quantised = settings["lora"], settings["method"] == "qlora"
    layers = targets_of(model, lora["targets"])
    if lora["variant"] == "pissa":
        _refuse_pissa(layers, lora["rank"], quantised)
    if quantised:
        peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if any(layer is model.get_output_embeddings() for layer in layers.values()):
        untie_head(model)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=list(layers),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        **VARIANTS[lora["variant"]],
    )
    gpu = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(gpu):
        torch.manual_seed(settings["seed"])
        wrapped = peft.get_peft_model(model, config)
    start = {}
    if lora["variant"] == "pissa":
        start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    named = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    variant = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA"}[lora["variant"]]
    words = f"{variant} of rank {lora['rank']} on {named}" + " over a base in 4 bits" * quantised
    return wrapped, words, start


def targets_of(model: Any, wanted: str | list[str]) -> dict[str, nn.Module]:
    """The linear layers that get an adapter, by their whole names.

    wanted: `auto`, all those of the blocks; or names, each of which is a layer's whole name or the end of it after a
    dot: `c_attn`, `h.0.mlp.c_fc`, `lm_head`. Raises StageError for a name that no linear layer has.
    """
    from transformers.pytorch_utils import Conv1D

    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if wanted == "auto":
        inside = {id(module) for block in blocks_of(model) for module in block.modules()}
        layers = {name: module for name, module in linear.items() if id(module) in inside}
        if not layers:
            raise StageError(f"the blocks of {type(model).__name__} hold no linear layer; set `train.lora.targets`")
        return layers
    chosen: set[str] = set()
    for target in wanted:
        found = {name for name in linear if f".{name}".endswith(f".{target}")}
        if not found:
            known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
            raise StageError(f"`train.lora.targets`: the model has no linear layer `{target}`; it has {known}")
        chosen |= found
    return {name: module for name, module in linear.items() if name in chosen}


def merge(learner: Learner, base: Any = None) -> Any:
    """The plain model: adapters added to the weights that they stand beside. The learner is spent after it.

    base: for qlora, the base model loaded anew in fp32. It takes the values that its 4-bit weights stood for, since the
    adapters have learnt beside those: added to the base's own weights they make a model that was never evaluated, and
    mostly a worse one. Raises ValueError where a merged weight is no finite number.
    """
    if learner.peft is None:
        return learner.model
    wrapped = learner.peft
    if learner.settings["method"] == "qlora":
        if base is None:
            raise ValueError("adapters over a quantised base are merged into the base in fp32: hand it over as `base`")
        take_over(learner.model, base)
        wrapped, _, _ = inject(base, learner.settings | {"method": "lora"})
        with torch.no_grad():
            for name, parameter in base.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(learner.parameters[name])
    return wrapped.merge_and_unload(safe_merge=True)


def take_over(quantised: Any, base: Any) -> None:
    """Give a base in fp32, before it has adapters, the values that the 4-bit weights of a trained model stand for."""
    from peft.utils.integrations import dequantize_module_weight, get_bnb_param_type
    from peft.utils.other import transpose
    from transformers.pytorch_utils import Conv1D

    for name, parameter in quantised.named_parameters():
        if get_bnb_param_type(parameter) == "4bit":
            place = name.rpartition(".")[0]  # of a layer that bitsandbytes keeps as [out, in], also for Conv1D
            values = dequantize_module_weight(quantised.get_submodule(place)).detach()
            layer = base.get_submodule(place.removesuffix(".base_layer"))
            layer.weight.data.copy_(transpose(values, isinstance(layer, Conv1D)))


def save_adapter(learner: Learner, folder: str | Path, base: str) -> None:
    """Save the adapter alone as peft does, to be put onto the base model by `peft.PeftModel.from_pretrained`.

    base: what the base model is called, for who loads it. A PiSSA adapter, which stands on a base of its own, becomes
    a LoRA of twice the rank on the common one: B·A - B0·A0 (peft's own conversion). To be called before `merge`.
    """
    from copy import copy

    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = copy(learner.peft.peft_config[NAME])
    config.base_model_name_or_path, config.inference_mode = base, True
    # not "auto", which asks the Hub for the base's vocabulary, and adds the whole head where that has an adapter
    state = get_peft_model_state_dict(learner.peft, save_embedding_layers=False)
    if learner.start:
        first = {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": value for name, value in learner.start.items()}
        for name, value in state.items():
            begun = first[name].to(value)
            state[name] = torch.cat([value, begun]) if ".lora_A." in name else torch.cat([value, -begun], dim=1)
        config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in state.items()},
        Path(folder) / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(folder))


def rebase(learner: Learner, start: dict[str, torch.Tensor]) -> None:
    """Take other first values out of the base model than those that this machine took out of it (PiSSA)."""
    from peft.utils.other import transpose

    for name in [name for name in start if ".lora_A." in name]:
        layer = learner.model.get_submodule(name.partition(".lora_A.")[0])
        pair = (name.replace(".lora_A.", ".lora_B."), name)  # B [out, r], A [r, in]
        if all(torch.equal(start[key].to(learner.start[key]), learner.start[key]) for key in pair):
            continue
        own, other = (values[pair[0]] @ values[pair[1]] for values in (learner.start, start))
        change = transpose(own - other.to(own), layer.fan_in_fan_out) * layer.scaling[NAME]
        weight = layer.get_base_layer().weight
        weight.data += change.to(weight)
    learner.start = {name: value.to(learner.start[name]) for name, value in start.items()}


def load_quantised(
    folder: str | Path, device: torch.device, compute: torch.dtype, trust_remote_code: bool = False
) -> Any:
    """The base model with the weights of its linear layers in 4 bits (nf4, double quantisation), all else in fp32.

    compute: the number format of the products. Raises StageError on a machine without a CUDA GPU or bitsandbytes.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        raise StageError(
            "`train.method: qlora` needs a CUDA GPU; set `train.method: lora`, or run it where there is one"
        )
    if find_spec("bitsandbytes") is None:
        raise StageError(
            "`train.method: qlora` needs the package bitsandbytes; `pip install bitsandbytes`, or set "
            "`train.method: lora`"
        )
    return _quantised(folder, device, compute, trust_remote_code)


def _quantised(folder: str | Path, device: torch.device, compute: torch.dtype, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model, about = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        ),
        device_map={"": device},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    if missing := sorted(about["missing_keys"]):
        raise StageError(
            f"{folder} holds no whole causal language model: {len(missing)} weights are missing, as {missing[0]}"
        )
    model.config.use_cache = False
    return model


def _refuse_pissa(layers: dict[str, nn.Module], rank: int, quantised: bool) -> None:
    """Raise StageError where PiSSA has no weights to decompose, or not so many singular values."""
    if quantised:
        raise StageError("`train.lora.variant: pissa` decomposes the weights, which qlora has in 4 bits; set `lora`")
    narrow = min(layers, key=lambda name: min(layers[name].weight.shape))
    if rank > (most := min(layers[narrow].weight.shape)):
        raise StageError(
            f"`train.lora.rank: {rank}` is more than the {most} singular values of {narrow}; set a lower rank, or "
            "another variant than pissa"
        )
