"""transformers' Trainer, as far as LLaVA needs another one."""

import json
import logging
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from llava.model.weight_files import read_weights
from llava.train.arguments import TrainingArguments
from llava.train.data import DataCollatorForSupervisedDataset, LazySupervisedDataset
from llava.train.muon import MuonWithRest, hidden_matrices
from llava.train.sampler import EpochSampler
from llava.utils import InputError

logger = logging.getLogger(__name__)


class LLaVATrainer(Trainer):
    """Trains what requires gradients, in an order that depends on seed and epoch alone.

    A `checkpoint-N` holds the trained weights alone, as they are trained, with what Trainer needs to go on. It is
    written under another name and renamed when it is whole, so that a folder of that name can always be resumed from.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        train_dataset: LazySupervisedDataset,
        data_collator: DataCollatorForSupervisedDataset,
        callbacks: list[TrainerCallback] | None = None,
    ):
        self.trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not self.trained:
            raise InputError("nothing is to be trained: everything is frozen")
        self.samples_cut = 0
        self._is_saving = False
        self._sampler: EpochSampler | None = None
        super().__init__(model, args, data_collator, train_dataset, callbacks=callbacks)
        self.add_callback(_SetEpoch(self))

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        args, data = self.args, self.train_dataset
        step_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        grouping = (data.lengths, data.has_image) if args.group_by_modality_length else ()
        seed = args.seed if args.data_seed is None else args.data_seed
        self._sampler = EpochSampler(len(data), step_size, seed, *grouping)
        return self._sampler

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's, with a learning rate of its own for the projector and Muon for matrices where asked for."""
        is_new = self.optimizer is None
        super().create_optimizer(*(() if model is None else (model,)))
        if is_new and self.args.mm_projector_lr is not None:
            self._set_projector_lr()
        if is_new and self.args.muon_learning_rate is not None:
            self._use_muon()
        return self.optimizer

    def _projector_weights(self) -> set[int]:
        return {id(parameter) for name, parameter in self.model.named_parameters() if "mm_projector" in name}

    def _set_projector_lr(self) -> None:
        projector = self._projector_weights()
        for group in list(self.optimizer.param_groups):
            apart = [parameter for parameter in group["params"] if id(parameter) in projector]
            if apart:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in projector]
                self.optimizer.add_param_group(group | {"params": apart, "lr": self.args.mm_projector_lr})

    def _use_muon(self) -> None:
        args, matrices = self.args, hidden_matrices(self.model)
        if args.mm_projector_lr is not None:
            projector = self._projector_weights()
            matrices = [matrix for matrix in matrices if id(matrix) not in projector]
        if matrices:
            self.optimizer = MuonWithRest(matrices, self.optimizer, args.muon_learning_rate, args.weight_decay)

    def compute_loss(self, model: nn.Module, inputs: dict, *args, **kwargs):
        """Trainer's, having counted the samples that were too long."""
        cut = inputs.pop("cut", 0)
        if cut and not self.samples_cut:
            logger.warning("conversations longer than model_max_length %d are cut", self.args.model_max_length)
        self.samples_cut += cut
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Trainer's, with the samples that were cut so far in this process."""
        super().log(logs | ({"samples_cut": self.samples_cut} if self.samples_cut else {}), *args, **kwargs)

    def floating_point_ops(self, inputs: dict) -> int:
        """None are counted: Trainer's estimate knows nothing of images, and costs a walk over the model per step."""
        return 0

    def newest_checkpoint(self) -> str | None:
        """The checkpoint in output_dir to go on from. What a killed run left half-written is removed."""
        if self.is_world_process_zero():
            shutil.rmtree(self._unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        folder = self.args.output_dir
        return get_last_checkpoint(folder) if Path(folder).is_dir() else None

    def is_complete(self, checkpoint: str) -> bool:
        """Whether the training was over when `checkpoint` was written."""
        step = json.loads((Path(checkpoint) / "trainer_state.json").read_text())["global_step"]
        return step >= self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    @property
    def _unfinished(self) -> Path:
        return Path(self.args.output_dir) / "unfinished"

    def _get_output_dir(self, trial) -> str:
        return str(self._unfinished) if self._is_saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        self._is_saving, limit = True, self.args.save_total_limit
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._is_saving = False
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            name = f"checkpoint-{self.state.global_step}"
            target = Path(self.args.output_dir) / name
            shutil.rmtree(target, ignore_errors=True)
            (self._unfinished / name).rename(target)
            shutil.rmtree(self._unfinished)
            self._remove_old_checkpoints(limit)
        self.accelerator.wait_for_everyone()

    def _remove_old_checkpoints(self, limit: int | None) -> None:
        folders = Path(self.args.output_dir).glob("checkpoint-*")
        by_step = sorted(
            (f for f in folders if f.name.split("-")[-1].isdigit()), key=lambda f: int(f.name.split("-")[-1])
        )
        for folder in by_step[: -max(limit, 1)] if limit else []:
            shutil.rmtree(folder, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write the trained weights alone, exactly."""
        if not self.args.should_save:
            return
        state_dict = self.model.state_dict() if state_dict is None else state_dict
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_torch_state_dict({name: state_dict[name] for name in self.trained}, output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.load_trained(resume_from_checkpoint)

    def load_trained(self, checkpoint: str) -> None:
        """Put the trained weights of `checkpoint` into the model. Raises InputError if it holds other ones."""
        weights = read_weights(checkpoint)
        expected = {name: parameter.shape for name, parameter in self.model.named_parameters() if name in self.trained}
        if {name: tensor.shape for name, tensor in weights.items()} != expected:
            raise InputError(f"{checkpoint} is of another training: it holds other weights")
        self.model.load_state_dict(weights, strict=False)


class _SetEpoch(TrainerCallback):
    """Tells the sampler its epoch, which accelerate's loaders do not always pass on after a resume."""

    def __init__(self, trainer: LLaVATrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer._sampler.set_epoch(int(state.epoch or 0))
