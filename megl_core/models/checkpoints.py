"""Reading checkpoints of transformers: JSON and safetensors only, and errors that say what to do."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedModel

from megl_core.errors import ConfigError, DataError, UnavailableError
from megl_core.files import sha256_tree


def require_checkpoint(path: str, setting: str) -> None:
    """Refuse a local path without a checkpoint in safetensors; names of the hub pass.

    Raises:
        ConfigError: the folder does not exist or holds no config.json; `setting` is what named it.
        DataError: its weights are only there as a pickle.
    """
    folder = Path(path)
    if not folder.is_dir():
        if path.startswith((".", "~")) or path.count("/") != 1:
            raise ConfigError(f"no such checkpoint folder (of {setting})", where=path)
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"the folder holds no config.json (of {setting})",
            where=path,
            fix="name a folder that save_pretrained of transformers wrote",
        )
    if not any(folder.glob("*.safetensors")):
        raise DataError(
            "the checkpoint has no safetensors weights, and pickled ones can run any code",
            where=path,
            fix="convert it where you trust it: from_pretrained(...).save_pretrained(...)",
        )


def checkpoint_digest(path: str) -> str:
    """SHA-256 over the files of a checkpoint, wherever it lies: which bytes a training started from."""
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        with loading(path):
            folder = Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors"]))
    return sha256_tree(folder)


@contextlib.contextmanager
def loading(path: str) -> Iterator[None]:
    """What transformers raises while it reads a checkpoint as a `MeglError`, and its reports unsaid."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"the weights do not fit: {error}", where=path) from None
    except ValueError as error:
        raise ConfigError(f"not a checkpoint that can be read: {error}", where=path) from None
    except OSError as error:
        if Path(path).is_dir():
            raise DataError(f"not a complete checkpoint: {error}", where=path) from None
        raise UnavailableError(
            f"no such folder, and no checkpoint that can be fetched: {error}",
            where=path,
            fix="copy it to a folder of this machine and name that folder",
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_weights(
    path: str, model: type[PreTrainedModel], dtype: torch.dtype = torch.float32, **options: Any
) -> PreTrainedModel:
    """A model of this class with the weights of a checkpoint, as `dtype`.

    Raises:
        DataError: weights are missing, broken, or of another shape.
        UnavailableError: they cannot be fetched.
    """
    with loading(path):
        loaded, info = model.from_pretrained(
            path,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=dtype,
            **options,
        )
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            f"the checkpoint lacks {len(missing)} weights of {model.__name__}: {', '.join(missing[:3])} ...",
            where=path,
        )
    return loaded


def portable(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration as JSON from which `AutoConfig.for_model` builds it again, without its origins."""
    origins = ("_name_or_path", "architectures", "id2label", "label2id", "transformers_version")
    return {key: value for key, value in config.to_diff_dict().items() if key not in origins}


def read_image_processor(path: str) -> tuple[int, list[float], list[float]]:
    """The side of the square images that a checkpoint expects, and the mean and deviation of each channel.

    Raises:
        ConfigError: it has no image processor, or one for images that are no squares.
    """
    try:
        with loading(path):
            processor = AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except (ConfigError, DataError) as error:
        raise ConfigError(
            "the checkpoint has no image processor that can be read, so its size and colours are unknown",
            where=path,
            fix="save one beside it: preprocessor_config.json",
        ) from error
    size = processor.crop_size if processor.do_center_crop else processor.size
    sides = {size.height, size.width, size.shortest_edge} - {None}
    if len(sides) != 1:
        raise ConfigError("the checkpoint is for images that are no squares", where=path)
    if not processor.do_normalize:
        return int(sides.pop()), [0.0] * 3, [1.0] * 3
    return int(sides.pop()), list(processor.image_mean), list(processor.image_std)
