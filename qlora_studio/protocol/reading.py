"""What the reader is asked, and what it answers: foreign data, models and templates, opened there only."""

from __future__ import annotations

import msgspec

from qlora_studio.config.data_parts import USUALLY_ALIKE
from qlora_studio.config.encodings import Encoding
from qlora_studio.config.run_config import DataConfig, LoraConfig, RunConfig
from qlora_studio.data.conversation import Message, Row
from qlora_studio.data.report import Finding, ImportReport
from qlora_studio.data.token_view import Lengths, Token
from qlora_studio.models.report import ModelReport
from qlora_studio.protocol.events import Problem
from qlora_studio.runs.less_memory import Way

# Requests


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Anything the reader is asked; its answers carry the same `id`."""

    id: int


class ImportData(Request, frozen=True, tag="import_data"):
    """Read data into conversations, mended by its recipe. Cached by the files' hashes and the mapping."""

    data: DataConfig


class ShowRows(Request, frozen=True, tag="show_rows"):
    """`count` rows from `start` of an imported data set; `search` keeps those that hold the text.

    only: these rows, as a finding names them; `start` and `count` are then of them, and `search` is unused
    """

    dataset: str
    start: int
    count: int
    search: str = ""
    only: tuple[int, ...] = ()


class ShowColumns(Request, frozen=True, tag="show_columns"):
    """What a file holds, where nobody could guess what its columns mean."""

    path: str
    encoding: Encoding = "auto"


class CountTokens(Request, frozen=True, tag="count_tokens"):
    """Lengths of all rows in tokens of this model, with this model's template."""

    dataset: str
    model: str
    data: DataConfig
    method: str = "sft"


class ShowTokens(Request, frozen=True, tag="show_tokens"):
    """One row as the trainer will see it, `count` tokens from `start`: all of a long one fit no line."""

    dataset: str
    model: str
    data: DataConfig
    row: int
    method: str = "sft"
    start: int = 0
    count: int = 5000


class Diagnose(Request, frozen=True, tag="diagnose"):
    """What the doctor finds in an imported data set. Kept beside it, by these arguments.

    data:          how the rows were read; `data.validation`, where it is a file, and `data.seq_len` are
                   looked at too
    model:         for rows that its tokens and `data.seq_len` cut or leave without anything to learn; or ""
    test:          a file whose rows must not be learned; "": none
    test_encoding: of that file; auto: as its content says, or else that of the rows' own file
    threshold:     of words that nearly equal rows have in common, in their order
    """

    dataset: str
    data: DataConfig
    model: str = ""
    method: str = "sft"
    test: str = ""
    test_encoding: Encoding = "auto"
    threshold: float = USUALLY_ALIKE


class SaveCopy(Request, frozen=True, tag="save_copy"):
    """Write an imported data set, as its recipe left it, to a new JSON lines file."""

    dataset: str
    path: str


class CheckModel(Request, frozen=True, tag="check_model"):
    """A model folder: sound? which family, how large, which template?

    numbers: also look for NaN and Inf, in as many of its weights as a few seconds allow
    """

    folder: str
    numbers: bool = False


class CheckAdapter(Request, frozen=True, tag="check_adapter"):
    """An adapter folder against the base the user chose."""

    folder: str
    base: str


class CheckStart(Request, frozen=True, tag="check_start"):
    """The adapter that a run with these settings would train on, `lora.start_from`."""

    config: RunConfig


class EncodeChat(Request, frozen=True, tag="encode_chat"):
    """A chat rendered with the model's template, ready for an answer.

    run:     whose adapter answers, to compare the template with the one it was trained with; empty: none's
    trained: render with that one, where the run keeps it
    """

    model: str
    messages: tuple[Message, ...]
    run: str = ""
    trained: bool = False


class ReadPrompts(Request, frozen=True, tag="read_prompts"):
    """A file with a prompt a line, or JSON objects that name it."""

    path: str


class MakeModelfile(Request, frozen=True, tag="make_modelfile"):
    """The model's chat template as Ollama wants it, compared letter by letter."""

    model: str


class PrepareRun(Request, frozen=True, tag="prepare_run"):
    """Check model and data, tokenize, promise the memory, and make the run folder.

    device_memory_bytes: what is free of it; 0 where it isn't known
    device_total_bytes:  all the memory that the card has, or the machine; 0 where it isn't known
    """

    config: RunConfig
    name: str
    runs_dir: str
    accept_skipped: bool = False
    device: str = "cpu"  # "cuda" | "cpu"
    device_memory_bytes: int = 0
    device_total_bytes: int = 0


class SuggestSamples(Request, frozen=True, tag="suggest_samples"):
    """What a run with these settings is asked at its checkpoints: its own prompts, or rows held out."""

    config: RunConfig


class CheckResume(Request, frozen=True, tag="check_resume"):
    """May this run go on? Its data, model and template must be as they were.

    ways: to take less memory, of which each must change something
    """

    run: str
    ways: tuple[Way, ...] = ()


class ShowRowLengths(Request, frozen=True, tag="show_row_lengths"):
    """How long training rows of a run are, as it computes them; `rows` as `StepFinished` numbers them."""

    run: str
    rows: tuple[int, ...]


class PrepareEvaluation(Request, frozen=True, tag="prepare_evaluation"):
    """Tokenize a file as a run's own data was.

    encoding: of this file; auto: as its content says, or else that of the run's data
    """

    run: str
    path: str
    encoding: Encoding = "auto"


class PrepareText(Request, frozen=True, tag="prepare_text"):
    """Tokenize a file for the perplexity of a model: every token of it counts, chats in the model's template.

    Answered by EvaluationPrepared.
    """

    model: str
    path: str
    encoding: Encoding = "auto"
    seq_len: int = 1024


# Answers


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Anything the reader says about request `id`."""

    id: int


class ReaderReady(msgspec.Struct, frozen=True, tag_field="type", tag="reader_ready"):
    """The reader listens."""


class Progress(Answer, frozen=True, tag="progress"):
    """`done` of `total` (0: unknown); `words` for a person."""

    done: int
    total: int
    words: str


class DataImported(Answer, frozen=True, tag="data_imported"):
    """The rows lie in `dataset`, a folder of the cache."""

    dataset: str
    report: ImportReport


class RowsShown(Answer, frozen=True, tag="rows_shown"):
    """`total`: how many rows the search leaves."""

    rows: tuple[Row, ...]
    total: int


class RowLengthsShown(Answer, frozen=True, tag="row_lengths_shown"):
    """Tokens of each row that was asked for; 0 where the run has no such row."""

    tokens: tuple[int, ...]


class ColumnsShown(Answer, frozen=True, tag="columns_shown"):
    """Names of columns, and the first records as JSON text, each at most a few hundred characters."""

    columns: tuple[str, ...]
    records: tuple[str, ...]


class TokensCounted(Answer, frozen=True, tag="tokens_counted"):
    """For the histogram, and what the length limit costs.

    has_source: the model is an encoder-decoder: the histogram is of the sources alone, and a row is too long
    by its source or by its target
    """

    lengths: Lengths
    too_long: int  # rows over seq_len; of an encoder-decoder, or over target_len
    bins: tuple[int, ...]  # rows with length in [i * bin_width, (i + 1) * bin_width)
    bin_width: int
    has_source: bool = False
    longest_source: int = 0  # tokens, where there are sources
    longest_target: int = 0


class TokensShown(Answer, frozen=True, tag="tokens_shown"):
    """The row's tokens in order, from number `start` of `total`."""

    row: int
    tokens: tuple[Token, ...]
    text: str  # as rendered; of a very long row its beginning
    start: int = 0
    total: int = 0


class Diagnosed(Answer, frozen=True, tag="diagnosed"):
    """What was found, with what the import found: all that is to be said of these rows."""

    rows: int
    findings: tuple[Finding, ...]


class CopySaved(Answer, frozen=True, tag="copy_saved"):
    """The file is there, whole; importing it gives the same rows."""

    path: str
    rows: int
    sha256: str


class ModelChecked(Answer, frozen=True, tag="model_checked"):
    """The folder holds a sound model."""

    report: ModelReport


class AdapterChecked(Answer, frozen=True, tag="adapter_checked"):
    """The adapter fits its base."""

    r: int
    target_modules: tuple[str, ...]
    warnings: tuple[str, ...]


class StartChecked(Answer, frozen=True, tag="start_checked"):
    """It can be trained on. lora: of these settings, with the adapter's own shape; words: of that shape."""

    lora: LoraConfig
    words: str


class ChatEncoded(Answer, frozen=True, tag="chat_encoded"):
    """`text` is the exact string, `ids` its tokens."""

    ids: tuple[int, ...]
    text: str
    template_sha256: str
    context: int  # tokens the model can hold
    stop_ids: tuple[int, ...] = ()  # any of them ends the answer
    difference: str = ""  # from the template that was trained with, as text; empty: none, or not known
    trained_known: bool = False  # whether the run keeps that one


class PromptsRead(Answer, frozen=True, tag="prompts_read"):
    """In the order of the file, each once."""

    prompts: tuple[str, ...]


class ModelfileMade(Answer, frozen=True, tag="modelfile_made"):
    """All but the line that names the file; empty where `notes` say why there is none."""

    text: str
    notes: str


class RunPrepared(Answer, frozen=True, tag="run_prepared"):
    """The run folder is made; the engine may start."""

    run: str
    steps: int
    train_rows: int
    validation_rows: int
    learned_tokens: int
    report: ImportReport
    promise_bytes: dict[str, int]
    notes: tuple[str, ...] = ()


class SamplesSuggested(Answer, frozen=True, tag="samples_suggested"):
    """In the order of the run."""

    prompts: tuple[str, ...]


class ResumeReady(Answer, frozen=True, tag="resume_ready"):
    """Nothing that changes the mathematics has changed."""

    run: str
    step: int  # of the newest sound checkpoint, 0 without one


class EvaluationPrepared(Answer, frozen=True, tag="evaluation_prepared"):
    """The file's rows, tokenized as the run's own. notes: why some of them are missing, in sentences."""

    prepared: str
    rows: int
    notes: tuple[str, ...] = ()


class Refused(Answer, frozen=True, tag="refused"):
    """The request can't be done; what a person should know."""

    error: Problem
    likely_encoding: str = ""  # of a file that isn't UTF-8: what it looks most like
    beside: str = ""  # that file, where it isn't the data's own but one to hold out or to test with


ReaderRequest = (
    ImportData
    | ShowRows
    | ShowColumns
    | CountTokens
    | ShowTokens
    | Diagnose
    | SaveCopy
    | CheckModel
    | CheckAdapter
    | CheckStart
    | EncodeChat
    | ReadPrompts
    | MakeModelfile
    | PrepareRun
    | SuggestSamples
    | CheckResume
    | ShowRowLengths
    | PrepareEvaluation
    | PrepareText
)
ReaderAnswer = (
    ReaderReady
    | Progress
    | DataImported
    | RowsShown
    | RowLengthsShown
    | ColumnsShown
    | TokensCounted
    | TokensShown
    | Diagnosed
    | CopySaved
    | ModelChecked
    | AdapterChecked
    | StartChecked
    | ChatEncoded
    | PromptsRead
    | ModelfileMade
    | RunPrepared
    | SamplesSuggested
    | ResumeReady
    | EvaluationPrepared
    | Refused
)
