"""The optimizers that a configuration may name, and what each takes: names alone, read without torch.

The names are those of transformers' OptimizerNames, so that a published recipe carries over. Those that cannot work
here stand in REFUSED with their reason.
"""

from __future__ import annotations

ADAM = ("beta1", "beta2", "eps")
RMSPROP = ("momentum", "alpha", "eps", "centered")
ADEMAMIX = (*ADAM, "beta3", "alpha", "t_alpha", "t_beta3")
LION = ("beta1", "beta2")
SCHEDULE_FREE = ("weight_lr_power", "r")

# What `train.optimizer_args` may set, by `train.optimizer`; learning rate and weight decay have keys of their own.
OPTIMIZER_ARGS: dict[str, tuple[str, ...]] = {
    "adamw_torch_fused": ADAM,
    "adamw_torch": ADAM,
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": RMSPROP,
    "adafactor": ("beta1", "clip_threshold", "decay_rate", "eps1", "eps2"),
    "adamw_torch_4bit": (*ADAM, "block_size", "bf16_stochastic_round"),
    "adamw_torch_8bit": (*ADAM, "block_size", "bf16_stochastic_round"),
    "adamw_bnb_8bit": ADAM,
    "adamw_8bit": ADAM,
    "paged_adamw_32bit": ADAM,
    "paged_adamw_8bit": ADAM,
    "ademamix": ADEMAMIX,
    "ademamix_8bit": ADEMAMIX,
    "paged_ademamix_32bit": ADEMAMIX,
    "paged_ademamix_8bit": ADEMAMIX,
    "lion_32bit": LION,
    "lion_8bit": LION,
    "paged_lion_32bit": LION,
    "paged_lion_8bit": LION,
    "rmsprop_bnb": RMSPROP,
    "rmsprop_bnb_8bit": RMSPROP,
    "rmsprop_bnb_32bit": RMSPROP,
    "stable_adamw": (*ADAM, "kahan_sum"),
    "schedule_free_adamw": (*ADAM, *SCHEDULE_FREE),
    "schedule_free_radam": (*ADAM, *SCHEDULE_FREE),
    "schedule_free_sgd": ("momentum", *SCHEDULE_FREE),
}
OPTIMIZERS: tuple[str, ...] = tuple(OPTIMIZER_ARGS)

# What has to be installed for an optimizer: the package, and the module that it brings.
PACKAGES: dict[str, tuple[str, str]] = {
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "stable_adamw": ("torch-optimi", "optimi"),
    "schedule_free_adamw": ("schedulefree", "schedulefree"),
    "schedule_free_radam": ("schedulefree", "schedulefree"),
    "schedule_free_sgd": ("schedulefree", "schedulefree"),
}
BITSANDBYTES = ("adamw_bnb", "adamw_8bit", "paged_", "ademamix", "lion_", "rmsprop_bnb")  # how their names begin
PACKAGES |= dict.fromkeys((name for name in OPTIMIZERS if name.startswith(BITSANDBYTES)), ("bitsandbytes",) * 2)

_LAYERWISE = "it steps inside the backward pass, where gradients are neither whole over the passes nor clipped yet"
_PROJECTED = (
    "its state holds Python objects, which a checkpoint of tensors cannot restore; `method: lora` saves memory too"
)
_ELSEWHERE = "it runs on hardware that this workflow does not use"

REFUSED: dict[str, str] = {
    "galore_adamw": _PROJECTED,
    "galore_adamw_8bit": _PROJECTED,
    "galore_adafactor": _PROJECTED,
    "apollo_adamw": _PROJECTED,
    "galore_adamw_layerwise": _LAYERWISE,
    "galore_adamw_8bit_layerwise": _LAYERWISE,
    "galore_adafactor_layerwise": _LAYERWISE,
    "apollo_adamw_layerwise": _LAYERWISE,
    "lomo": _LAYERWISE,
    "adalomo": _LAYERWISE,
    "adamw_torch_xla": _ELSEWHERE,
    "adamw_torch_npu_fused": _ELSEWHERE,
    "adamw_anyprecision": "its package, torchdistx, is no longer published",
    "grokadamw": "its state is not part of what it saves, so that an interrupted training would end otherwise",
}
