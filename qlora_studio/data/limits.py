"""How much an import takes from a file (D6). Each limit has a message of its own where it is met."""

MAX_ROW_BYTES = 8_000_000
MAX_PARTS = 10_000  # answers or instances of a record, each of which becomes a row
MAX_RECORD_CHARACTERS = 8 * MAX_ROW_BYTES  # of all rows of a record: they may repeat its prompt
MAX_DEPTH = 64  # of nested lists and objects
MAX_COLUMNS = 512
MAX_ROWS = 5_000_000
MAX_UNUSABLE_ROWS = 1_000_000  # at the beginning of an import, before one that can be used
MAX_TEXT_BYTES = 20_000_000_000  # of all files of an import together
MAX_EXPANSION = 200  # bytes out for each byte in, where something is stored compressed

MOST_UNASKED = 200_000  # rows that the doctor looks at unasked: more take minutes
SHOWN_CHARACTERS = 10_000  # a widget gets no more of one text (S8)
MANY_DROPPED = 0.5  # of the chats: where more are dropped for their length, a person is asked
MANY_SKIPPED = 0.01  # of the records: more than this share, and a person is asked (D3)
LISTED_LINES = 1_000  # line numbers kept of each reason to skip, and rows of each finding
LISTED_REASONS = 50
