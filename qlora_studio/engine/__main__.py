"""The engine's life: commands come in as lines, events go out; at the end of input it saves and is gone."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading

from qlora_studio.config.places import compiled_folder
from qlora_studio.engine.inbox import Inbox
from qlora_studio.engine.outbox import Outbox, stdout_for_events_alone
from qlora_studio.protocol.events import EngineReady, LoadingProgress


def main() -> int:
    """Serves until the input ends, or nobody is heard for 30 s."""
    os.umask(0o077)
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Threads that wait for each other spin for a moment only. Alone it makes no difference; beside
    # other programs on 2 cores a step of the sample model took up to 25 s instead of 1.4.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # A processor keeps what it made for each shape of a product, up to 1,024, and unpacked rows come in ever
    # new ones: 2.45 GiB at step 161 of the sample run, 1.85 with 64 kept; no difference in speed was seen.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if sys.platform == "linux":
        # Memory that grows in place: an 8B shape at 4 x 2048 reserved 32.4 GiB instead of 35.1 on an H100.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # kernels of the hub are foreign code (S1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    inbox = Inbox()
    outbox = Outbox(stdout_for_events_alone(), on_silence=inbox.hang_up)
    signal.signal(signal.SIGTERM, lambda *_: inbox.hang_up())
    for work in (outbox.tell_that_we_live, lambda: inbox.read(os.fdopen(os.dup(0), "rb"))):
        threading.Thread(target=work, daemon=True).start()

    from qlora_studio.engine.device import find_device, versions  # torch takes a second

    device = find_device()
    outbox.tell(
        EngineReady(
            device=device.kind,
            device_name=device.name,
            memory_bytes=device.memory_bytes,
            free_bytes=device.free_bytes(),
            versions=versions(),
        )
    )
    if inbox.ends:
        return 1 if inbox.broken else 0
    # transformers and peft take some more: now, while data is being prepared elsewhere for the first command
    from qlora_studio.engine.quick_imports import import_bitsandbytes

    import_bitsandbytes()
    from qlora_studio.engine.jobs import Jobs

    jobs = Jobs(device, inbox)
    if device.is_cuda:
        _keep_what_is_compiled()
    gc.freeze()  # the libraries stay: half a million objects that garbage isn't looked for in again
    while (command := inbox.next_command()) is not None:
        events = jobs.events_of(command)
        for event in events:
            outbox.tell(event)
            if isinstance(event, LoadingProgress) and inbox.ends:
                events.close()  # nobody waits for what is being loaded, and there is nothing to save yet
    return 1 if inbox.broken else 0


def _keep_what_is_compiled() -> None:
    """Else it lies in /tmp, ends with the machine's next start, and others may have made the folder (S1)."""
    folder = compiled_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # refused where it is another person's, who could put code there, or read-only
    except OSError:
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))  # a kernel's, whoever compiled it


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    os._exit(status)  # all is told and saved; taking the libraries down takes seconds on a slow processor
