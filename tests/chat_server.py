"""A real chat server for tests: `transformers serve` with a tiny random Qwen3-VL, on loopback.

    write_chat_checkpoint(folder)
    with ChatServer(folder) as server:
        httpx.post(f"{server.url}/chat/completions", json={"model": server.model, ...})

It speaks OpenAI's `/v1/chat/completions` with text and pictures (`image_url` with a data URL),
streaming or not. Where it differs from OpenAI's, as of Transformers 5.23:

- It serves `model` alone; another gives 400. Answers call it `<model>@main`; `/v1/models` is empty.
- `n`, `response_format`, `logprobs`, `stream_options`, `tool_choice`, `user` and others of
  OpenAI's are ignored; `temperature` and `top_p` do nothing, as the checkpoint does not sample.
  Fields that OpenAI does not have give 422. Errors say `{"detail": ...}`, not `{"error": ...}`.
- A stream's last chunk has `usage`, asked for or not; no `data: [DONE]` follows it.
- `stop` fails, as do pictures that cannot be read, no messages, and values of a wrong type: 500, in
  plain text, and the connection ends. In a stream, `stop` gives 200 and `data: {"error": ...}`.
- Requests are worked on one after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 5.0
LEAST_TOKENS = 8
"""Of an answer for which a request sets no limit; it ends a few tokens later."""

_POLL_S = 0.05
_SENTENCES = (
    "a small red house stands by the sea and the boat in the harbour is blue",
    "the picture shows one tree and two birds over the hill in the evening light",
)


class ChatServer:
    """One `transformers serve` process; a context manager.

    It ends with this process, however that ends.

    Args:
        folder: Checkpoint with language head and chat template (`write_chat_checkpoint`).
        start_timeout_s: Seconds until it must answer.

    Raises:
        RuntimeError: It ended before it was ready; the message has its log's last lines.
        TimeoutError: It was not ready in time; likewise.

    Attributes:
        url: Of the API, such as `http://127.0.0.1:1234/v1`, once started.
        model: Name that requests give.
        pid: Of the process, once started.
    """

    def __init__(self, folder: Path, *, start_timeout_s: float = START_TIMEOUT_S) -> None:
        self.url, self.model, self.pid = "", folder.name, 0
        self._place, self._start_timeout_s = folder.parent, start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        from lensemble.operations.tritonserver import LOOPBACK, free_port

        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}/v1"
        self._home = tempfile.TemporaryDirectory(prefix="lensemble-chat-")
        (Path(self._home.name) / "hub").mkdir()  # its cache, which must be there
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(Path(__file__).resolve()), self.model, str(port)],
                    cwd=self._place,  # so that the model's name is the folder's
                    env=self._environment(),
                    stdin=subprocess.PIPE,  # closes when this process ends
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.pid = self._process.pid
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops the server and removes what it wrote; safe to call again."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        if self._home is not None:
            self._home.cleanup()
            self._home = None

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
        return "(no log)"

    @property
    def _log(self) -> Path:
        assert self._home is not None
        return Path(self._home.name) / "serve.log"

    def _environment(self) -> dict[str, str]:
        assert self._home is not None
        return {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HOME": self._home.name,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout_s
        while not self._healthy():
            if (status := self._process.poll()) is not None:
                raise RuntimeError(f"it ended with status {status}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"it was not ready within {self._start_timeout_s:g} s:\n{self.log_tail()}"
                )
            time.sleep(_POLL_S)

    def _healthy(self) -> bool:
        try:
            health = f"{self.url.removesuffix('/v1')}/health"
            with urllib.request.urlopen(health, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def write_chat_checkpoint(folder: Path, *, seed: int = 0) -> None:
    """Writes a Qwen3-VL as small as it can be, which answers in lower-case English letters.

    Its tokenizer learns from two sentences, and its answers are 8 to about 12 tokens long unless a
    request's `max_tokens` is less. They mean nothing, and are the same for the same question at
    `temperature` 0. A picture takes 1 to 64 tokens, one for each 32x32 pixels.

    Args:
        folder: Where to write; made if it is missing.
        seed: The same seed gives the same weights.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from lensemble.preprocess.prompt import ENDOFTEXT, IM_END
    from lensemble_export import random_checkpoint
    from lensemble_export.model_shapes import SHAPES
    from lensemble_export.tokenizer import save_tokenizer, train_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(512, append_endoftext=False, corpus=_SENTENCES * 8)
    save_tokenizer(tokenizer, folder)
    ids = tokenizer.get_vocab()
    tiny = SHAPES["tiny"]
    config = Qwen3VLConfig(
        text_config=tiny["text"]
        | {
            "hidden_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "intermediate_size": 64,
            "vocab_size": len(ids),
            "tie_word_embeddings": False,
        },
        vision_config=tiny["vision"]
        | {
            "hidden_size": 32,
            "depth": 1,
            "num_heads": 2,
            "intermediate_size": 32,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        tie_word_embeddings=False,
        architectures=["Qwen3VLForConditionalGeneration"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
        for name, weight in model.named_parameters():
            # Large enough that question and picture tell in the answer.
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
            elif name.endswith("bias"):
                torch.nn.init.zeros_(weight)
    end = ids[IM_END]
    words = {token: token.removeprefix("Ġ") for token in ids}  # Ġ is byte-level BPE's space
    readable = {ids[token] for token, word in words.items() if word.isascii() and word.islower()}
    settings = GenerationConfig(
        eos_token_id=end,
        pad_token_id=ids[ENDOFTEXT],
        min_new_tokens=LEAST_TOKENS,
        exponential_decay_length_penalty=(LEAST_TOKENS, 4.0),
        suppress_tokens=sorted(set(ids.values()) - readable - {end}),
    )
    for part in (config, settings):
        part.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (
        ("preprocessor_config.json", random_checkpoint.PREPROCESSOR_CONFIG),
        ("video_preprocessor_config.json", random_checkpoint.VIDEO_PREPROCESSOR_CONFIG),
    ):
        size = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}
        (folder / name).write_text(json.dumps({**content, "size": size}))


def _serve(model: str, port: int) -> None:
    """What `transformers serve <model> --device cpu` does, without `accelerate`.

    The command hands the device on to `from_pretrained`, which then asks for that package even if
    the device is the CPU.
    """
    from transformers.cli.serving import model_manager

    class OnCpu(model_manager.ModelManager):
        def _load_model(self, *args, **kwargs):
            self.device = None  # the CPU, without a map of devices
            return super()._load_model(*args, **kwargs)

    model_manager.ModelManager = OnCpu
    from transformers.cli.serve import ReasoningMode, Serve

    Serve(
        model,
        reasoning=ReasoningMode.AUTO,
        chat_template_kwargs=None,
        device="cpu",
        host="127.0.0.1",
        port=port,
        log_level="warning",
    )


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _serve(sys.argv[1], int(sys.argv[2]))
