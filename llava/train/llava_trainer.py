"""transformers' Trainer with LLaVA's order of samples, learning rates and checkpoints."""

import contextlib
import logging
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from llava.checkpoints.folders import write_errors
from llava.checkpoints.weight_files import read_weights
from llava.checkpoints.weights import find_not_finite
from llava.errors import InputError, list_some, one_line
from llava.train.arguments import TrainingArguments
from llava.train.data import DataCollatorForSupervisedDataset, LazySupervisedDataset
from llava.train.sampler import EpochSampler

STATE = "trainer_state.json"
_GO_ON = "without {} the same command goes on from what was before it"
_ODD = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)  # of files that hold something else
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def option_errors() -> Iterator[None]:
    """Raise InputError for what transformers, accelerate and torch refuse while they set up the training."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise InputError(f"the training cannot start with these options: {one_line(error)}") from error


@contextlib.contextmanager
def reading(checkpoint: str) -> Iterator[None]:
    """Raise InputError, naming the checkpoint, for a file of it that cannot be read."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; {_GO_ON.format(checkpoint)}") from error
    except (OSError, EOFError, pickle.UnpicklingError, *_ODD) as error:
        raise InputError(f"{checkpoint} is damaged: {one_line(error)}; {_GO_ON.format(checkpoint)}") from error


class LLaVATrainer(Trainer):
    """Trainer of the weights that require gradients, in an order of samples that seed and epoch determine.

    A `checkpoint-N` holds the trained weights in the dtype of training, and what Trainer needs to resume. It is written
    under another name and renamed when it is complete, so that every folder of that name can be resumed from.
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
            raise InputError("there is nothing to train: all weights are frozen")
        self.samples_cut = 0
        self._is_saving = False
        self._sampler: EpochSampler | None = None
        with option_errors():
            super().__init__(model, args, data_collator, train_dataset, callbacks=callbacks)
        self.add_callback(_SetEpoch(self))

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        args, data = self.args, self.train_dataset
        step_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        grouping = (data.lengths, data.has_image) if args.group_by_modality_length else ()
        seed = args.seed if args.data_seed is None else args.data_seed
        self._sampler = EpochSampler(len(data), step_size, seed, *grouping)
        return self._sampler

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's. Raises InputError for options of the loader that torch refuses."""
        with option_errors():
            loader = super().get_train_dataloader()
        if not len(loader):
            raise InputError("--dataloader_drop_last drops all samples: there are fewer than one batch")
        return loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer's optimizer, with `mm_projector_lr` for the projector if it is given."""
        is_new = self.optimizer is None
        with option_errors():
            super().create_optimizer(*(() if model is None else (model,)))
            if is_new and self.args.mm_projector_lr is not None:
                self._set_projector_lr()
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Trainer's schedule. Raises InputError for one that cannot be computed up to the last step."""
        with option_errors():
            scheduler = super().create_scheduler(num_training_steps, optimizer)
            if isinstance(scheduler, LambdaLR):
                for factor in scheduler.lr_lambdas:
                    factor(num_training_steps)
        return scheduler

    def _set_projector_lr(self) -> None:
        projector = {id(parameter) for name, parameter in self.model.named_parameters() if "mm_projector" in name}
        for group in list(self.optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if id(parameter) in projector]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in projector]
                self.optimizer.add_param_group(group | {"params": moved, "lr": self.args.mm_projector_lr})

    def compute_loss(self, model: nn.Module, inputs: dict, *args, **kwargs):
        """Trainer's loss; also counts the samples that were cut."""
        cut = inputs.pop("cut", 0)
        if cut and not self.samples_cut:
            logger.warning("conversations longer than model_max_length %d are cut", self.args.model_max_length)
        self.samples_cut += cut
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """Trainer's step. Raises InputError for a loss that is not finite, before it changes weights."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            step = self.state.global_step
            raise InputError(
                f"the loss of step {step + 1} is {loss.item()}: the training has diverged and ends, its checkpoints "
                "are kept. In another --output_dir a lower --learning_rate, or --bf16, may help"
            )
        return loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Trainer's log, with the number of samples that this process has cut so far."""
        super().log(logs | ({"samples_cut": self.samples_cut} if self.samples_cut else {}), *args, **kwargs)

    def floating_point_ops(self, inputs: dict) -> int:
        """0: Trainer's estimate leaves out images, and visits all weights of the model at every step."""
        return 0

    def newest_checkpoint(self) -> str | None:
        """The newest checkpoint in output_dir, None if there is none. Removes what a killed run left incomplete.

        Raises InputError, naming it, for one that lacks a file.
        """
        if self.is_world_process_zero():
            shutil.rmtree(self._unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        folder = self.args.output_dir
        checkpoint = get_last_checkpoint(folder) if Path(folder).is_dir() else None
        if checkpoint is not None:
            self._require_whole(Path(checkpoint))
        return checkpoint

    def _require_whole(self, checkpoint: Path) -> None:
        """Raise InputError for a checkpoint without a file that Trainer would go on without, in silence."""
        state = self._read_state(checkpoint)
        is_state = isinstance(state.epoch, int | float | None) and isinstance(state.log_history, list)
        if type(state.global_step) is not int or checkpoint.name != f"checkpoint-{state.global_step}" or not is_state:
            raise InputError(f"{checkpoint / STATE} is not of this checkpoint; {_GO_ON.format(checkpoint)}")
        is_plain = not (self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.save_only_model)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state*.pth") if is_plain else ():
            if not any(path.is_file() for path in checkpoint.glob(name)):
                raise InputError(f"{checkpoint} lacks {name}; {_GO_ON.format(checkpoint)}")

    def _read_state(self, checkpoint: Path) -> TrainerState:
        with reading(str(checkpoint)):
            return TrainerState.load_from_json(str(checkpoint / STATE))

    def is_complete(self, checkpoint: str) -> bool:
        """Whether the training had ended when `checkpoint` was written."""
        last = self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]
        return self._read_state(Path(checkpoint)).global_step >= last

    @property
    def _unfinished(self) -> Path:
        return Path(self.args.output_dir) / "unfinished"

    def _get_output_dir(self, trial) -> str:
        return str(self._unfinished) if self._is_saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        self._is_saving = True
        try:
            with write_errors(Path(self.args.output_dir)):
                super()._save_checkpoint(model, trial)
        except InputError:  # a full disk needs the space of the incomplete checkpoint
            shutil.rmtree(self._unfinished, ignore_errors=True)
            raise
        finally:
            self._is_saving = False
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            name = f"checkpoint-{self.state.global_step}"
            target = Path(self.args.output_dir) / name
            with write_errors(target):
                shutil.rmtree(target, ignore_errors=True)
                (self._unfinished / name).rename(target)
                shutil.rmtree(self._unfinished)
            self._remove_old_checkpoints(self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _remove_old_checkpoints(self, limit: int | None) -> None:
        found = (re.fullmatch(r"checkpoint-([0-9]+)", path.name) for path in Path(self.args.output_dir).iterdir())
        by_step = sorted((int(match[1]), match[0]) for match in found if match)
        for _, name in by_step[: -max(limit, 1)] if limit else []:
            shutil.rmtree(Path(self.args.output_dir) / name, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write the trained weights, in the dtype of training, and no others.

        Raises InputError for values that are not finite.
        """
        if not self.args.should_save:
            return
        state_dict = self.model.state_dict() if state_dict is None else state_dict
        weights = {name: state_dict[name] for name in self.trained}
        if bad := find_not_finite(weights):
            step = self.state.global_step
            raise InputError(f"step {step} has made values that are not finite in {list_some(bad)}: nothing is written")
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_torch_state_dict(weights, output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.load_trained(resume_from_checkpoint)

    def load_trained(self, checkpoint: str) -> None:
        """Load the trained weights of `checkpoint`.

        Raises InputError if it has other names or shapes, or values that are not finite.
        """
        with reading(checkpoint):
            weights = read_weights(checkpoint)
            if bad := find_not_finite(weights):
                raise InputError(f"{checkpoint} has values that are not finite in {list_some(bad)}")
        expected = {name: parameter.shape for name, parameter in self.model.named_parameters() if name in self.trained}
        if {name: tensor.shape for name, tensor in weights.items()} != expected:
            raise InputError(f"{checkpoint} belongs to another training: it holds other weights")
        self.model.load_state_dict(weights, strict=False)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(str(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(str(checkpoint)):
            super()._load_rng_state(checkpoint)


class _SetEpoch(TrainerCallback):
    """Sets the sampler's epoch, because accelerate's loaders do not always pass it on after a resume."""

    def __init__(self, trainer: LLaVATrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer._sampler.set_epoch(int(state.epoch or 0))
