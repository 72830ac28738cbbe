"""TRL's SFTTrainer on the same rows, packed (best fit decreasing, its default), with the loss on the same tokens.

At its best: no gradient checkpointing (its default), no log, no checkpoint, no evaluation on the clock; on a GPU with
the flash attention that it recommends, where that package is installed. With torch's own attention, it makes a mask of
all sequences of a pass together, quadratic in them: `--passes 8` computes a step in 8 passes of one sequence each.
"""

from __future__ import annotations

import tempfile

from datasets import Dataset
from hf_trainer import arguments_of, counting, finish, loaded
from setting import Meter, Setting, options
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train, and print what was measured."""
    parser = options(__doc__ or "")
    parser.add_argument("--passes", type=int, default=1)
    given = parser.parse_args()
    setting = Setting.of(given.folder)
    meter = Meter(setting, given.precision)
    model, tokenizer = loaded(setting)
    with tempfile.TemporaryDirectory() as place:
        shared = arguments_of(setting, meter, place)
        shared |= {"per_device_train_batch_size": setting.batch_size // given.passes}
        arguments = SFTConfig(
            **shared, gradient_accumulation_steps=given.passes, packing=True, max_length=setting.width
        )
        trainer = counting(SFTTrainer, meter)(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(setting.examples("train")),
            processing_class=tokenizer,
        )
        finish(trainer, meter, "TRL, packed" + f", {given.passes} passes" * (given.passes > 1), model)


if __name__ == "__main__":
    main()
