"""What a file of questions, asked at each evaluation, can stand with."""

from __future__ import annotations

from qlora_studio.config.run_config import SHAPE_PREFIX, RunConfig
from qlora_studio.errors import StudioError


def check_questions(config: RunConfig, where: str) -> None:
    """Raises: StudioError naming what `checkpoints.questions` can't stand with."""
    asked = config.checkpoints
    if not asked.questions:
        return
    if asked.evaluate_letters or asked.evaluate_numbers:
        other = "evaluate_letters" if asked.evaluate_letters else "evaluate_numbers"
        raise StudioError(
            f"{where}: checkpoints.questions and checkpoints.{other} can't stand together: one kind of right "
            "answers is counted.",
            hint=f"Leave checkpoints.questions empty, or checkpoints.{other} off.",
        )
    if config.data.validation == 0:
        raise StudioError(
            f"{where}: checkpoints.questions is asked at evaluations, and data.validation = 0 makes none.",
            hint="Hold some chats out, such as data.validation = 0.05.",
        )
    if config.model.path.startswith(SHAPE_PREFIX):
        raise StudioError(
            f"{where}: checkpoints.questions needs a tokenizer, and {config.model.path} has none.",
            hint="Leave it empty.",
        )
