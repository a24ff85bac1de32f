"""Settings as a TOML file, and changes to single keys: `lora.r=16`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from qlora_studio.config.adapter_check import check_lora
from qlora_studio.config.data_check import check_data
from qlora_studio.config.data_parts import Fix
from qlora_studio.config.finetuning_check import check_finetuning
from qlora_studio.config.questions_check import check_questions
from qlora_studio.config.run_config import SAMPLE, SCHEMA_VERSION, SHAPE_PREFIX, RunConfig
from qlora_studio.config.setting import check_limits, fields_of
from qlora_studio.errors import StudioError

_TYPE_WORDS = re.compile(r"`([a-z ]+)`")
_KINDS = {
    "object": "a section of settings",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
_LARGEST_FILE = 1_000_000  # bytes; a settings file has a few thousand


def read_run_config(path: Path) -> RunConfig:
    """Relative paths in the file start from its own folder, or else from the working folder.

    Raises: StudioError naming the file, the key and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise StudioError(f"{path} can't be read: {error.strerror}.") from error
    if len(text) > _LARGEST_FILE:
        raise StudioError(f"{path} is no settings file: it is larger than 1 MB.")
    try:
        values = tomllib.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise StudioError(f"{path} is not valid TOML: {error}") from error
    return with_absolute_paths(run_config_from(values, str(path)), path.absolute().parent, Path.cwd())


def with_absolute_paths(config: RunConfig, *folders: Path) -> RunConfig:
    """Children have a working folder of their own: what they are given is absolute.

    folders: tried in turn for a relative path; where none has it, it stays under the first
    """

    def absolute(path: str) -> str:
        if path in ("", SAMPLE) or path.startswith(SHAPE_PREFIX) or Path(path).is_absolute():
            return path
        relative = Path(path).expanduser()
        found = next((folder for folder in folders if (folder / relative).exists()), folders[0])
        return str(found / relative)

    def mended(recipe: tuple[Fix, ...]) -> tuple[Fix, ...]:
        return tuple(msgspec.structs.replace(fix, path=absolute(fix.path)) for fix in recipe)

    def start(path: str) -> str:
        """A bare name that no folder has may be that of a run."""
        found = absolute(path)
        return path if len(Path(path).parts) == 1 and not Path(found).exists() else found

    data = config.data
    held_out = data.validation
    return msgspec.structs.replace(
        config,
        model=msgspec.structs.replace(config.model, path=absolute(config.model.path)),
        checkpoints=msgspec.structs.replace(
            config.checkpoints, questions=absolute(config.checkpoints.questions)
        ),
        lora=msgspec.structs.replace(config.lora, start_from=start(config.lora.start_from)),
        data=msgspec.structs.replace(
            data,
            path=absolute(data.path),
            validation=absolute(held_out) if isinstance(held_out, str) else held_out,
            mix=tuple(
                msgspec.structs.replace(part, path=absolute(part.path), recipe=mended(part.recipe))
                for part in data.mix
            ),
            recipe=mended(data.recipe),
        ),
    )


def run_config_from(values: Mapping[str, Any], where: str) -> RunConfig:
    """Plain values to checked settings. Raises: StudioError naming `where` and the key."""
    version = values.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StudioError(
            f"{where} was written by a newer version (schema {version}).",
            hint="Update QLoRA Studio to use it.",
        )
    try:
        config = msgspec.convert(_without_sample(values), RunConfig)
    except msgspec.ValidationError as error:
        raise StudioError(f"{where}: {_in_plain_words(error)}") from error
    check_limits(config, where)
    check_data(config.data, where)
    check_finetuning(config, where)
    check_lora(config, where)
    check_questions(config, where)
    return config


def _without_sample(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A mixture stands in place of data.path: the sample isn't meant where no path is named."""
    data = values.get("data")
    if isinstance(data, dict) and data.get("mix") and "path" not in data:
        return {**values, "data": {**data, "path": ""}}
    return values


def run_config_text(config: RunConfig) -> str:
    """The whole file; reading it back gives an equal config."""
    import tomli_w

    return tomli_w.dumps(msgspec.to_builtins(config))


def with_changes(config: RunConfig, changes: Mapping[str, Any], where: str = "the settings") -> RunConfig:
    """`config` with dotted keys replaced and everything checked again. Raises: StudioError."""
    values = msgspec.to_builtins(config)
    for key, value in changes.items():
        *parents, name = key.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {}) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise StudioError(f"There is no setting {key!r}.")
        section[name] = msgspec.to_builtins(value)
    return run_config_from(values, where)


def parse_assignment(text: str) -> tuple[str, Any]:
    """`lora.r=16` to ("lora.r", 16); a value that is no TOML is text. Raises: StudioError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise StudioError(
            f"{text!r} is no setting.", hint="Write it as section.key=value, such as lora.r=16."
        )
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _in_plain_words(error: msgspec.ValidationError) -> str:
    message, _, place = str(error).partition(" - at `$.")
    key = place.rstrip("`")
    message = message.replace("Object contains unknown field", "There is no setting")
    message = _TYPE_WORDS.sub(lambda found: _KINDS.get(found[1], found[0]), message)
    message = message.replace("Expected ", "it must be ").replace(", got ", ", not ")
    choices = next((item.setting.choices for item in fields_of(RunConfig) if item.key == key), {})
    if choices and message.startswith("Invalid enum value"):
        message += f"; it must be one of {', '.join(choices)}"
    return f"{key}: {message}." if key else f"{message}."
