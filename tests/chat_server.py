"""A real chat server for tests: `transformers serve` with a tiny random Qwen3-VL, on loopback.

    write_chat_checkpoint(folder)
    with ChatServer(folder) as server:
        httpx.post(f"{server.url}/chat/completions", json={"model": server.model, ...})

It has OpenAI's `/v1/chat/completions` with text and pictures (`image_url` with a data URL),
streaming or not. It differs from OpenAI's server in these points, as of Transformers 5.23:

- It serves one model. Another name gives 400. Responses call it `<model>@main`; `/v1/models` is
  empty.
- It ignores `n`, `response_format`, `logprobs`, `stream_options`, `tool_choice`, `user` and other
  fields of OpenAI's. `temperature` and `top_p` have no effect, as the checkpoint does not sample.
  Unknown fields give 422. Errors have the form `{"detail": ...}`, not `{"error": ...}`.
- The last chunk of a stream always has `usage`, and no `data: [DONE]` follows it.
- `stop`, unreadable pictures, missing messages and values of a wrong type give 500 in plain text,
  and the connection ends. In a stream, `stop` gives 200 and `data: {"error": ...}`.
- It serves one request after the other.
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
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 5.0
# Smallest number of tokens of an answer, unless the request sets a lower limit.
MIN_TOKENS = 8

_POLL_S = 0.05
_SENTENCES = (
    "a small red house stands by the sea and the boat in the harbour is blue",
    "the picture shows one tree and two birds over the hill in the evening light",
)


class ChatServer:
    """One `transformers serve` process; a context manager.

    It also ends when the process that started it ends, in whatever way.

    Args:
        folder: checkpoint with a language head and a chat template (`write_chat_checkpoint`).
        start_timeout_s: seconds until the server must answer.

    Raises:
        RuntimeError: The server ended before it was ready; the message has its last log lines.
        TimeoutError: The server was not ready in time; the message has its last log lines.

    Attributes:
        url: base URL of the API, such as `http://127.0.0.1:1234/v1`; empty before the start.
        model: name of the model, for requests.
        pid: id of the process; 0 before the start.
    """

    def __init__(self, folder: Path, *, start_timeout_s: float = START_TIMEOUT_S) -> None:
        self.url, self.model, self.pid = "", folder.name, 0
        self._working_folder, self._start_timeout_s = folder.parent, start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        from lensemble.operations.ports import LOOPBACK, free_port

        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}/v1"
        self._home = tempfile.TemporaryDirectory(prefix="lensemble-chat-")
        (Path(self._home.name) / "hub").mkdir()  # the server expects its cache folder to exist
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(Path(__file__).resolve()), self.model, str(port)],
                    cwd=self._working_folder,  # so that the folder's name is the model's name
                    env=self._environment(),
                    stdin=subprocess.PIPE,  # its end tells the child that this process has ended
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
        """Stops the server and removes its files; safe to call again."""
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
        """The last 30 lines of the server's log."""
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
                raise RuntimeError(
                    f"the chat server ended with status {status}:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                limit = f"{self._start_timeout_s:g} s"
                raise TimeoutError(
                    f"the chat server was not ready within {limit}:\n{self.log_tail()}"
                )
            time.sleep(_POLL_S)

    def _healthy(self) -> bool:
        try:
            health = f"{self.url.removesuffix('/v1')}/health"
            with urllib.request.urlopen(health, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def write_chat_checkpoint(folder: Path, *, seed: int = 0) -> None:
    """Writes a minimal Qwen3-VL that answers in lower-case English letters.

    The tokenizer is trained on two sentences. Answers have 8 to about 12 tokens, or fewer if
    `max_tokens` is lower. They are meaningless, and equal for equal questions at `temperature` 0. A
    picture takes 1 to 64 tokens, one for each 32x32 pixels.

    Args:
        folder: folder to write to; a missing folder is made.
        seed: seed of the weights.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    from lensemble.preprocess.prompt import ENDOFTEXT, IM_END
    from lensemble_export import random_checkpoint
    from lensemble_export.model_shapes import SHAPES
    from lensemble_export.tokenizer import save_tokenizer, train_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(512, append_endoftext=False, texts=_SENTENCES * 8)
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
            # Large enough for question and picture to change the answer.
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
            elif name.endswith("bias"):
                torch.nn.init.zeros_(weight)
    end = ids[IM_END]
    words = {token: token.removeprefix("Ġ") for token in ids}  # byte-level BPE writes a space as Ġ
    # Special tokens such as `<|quad_end|>` are lower case, too, but have more than letters.
    readable = {
        ids[token]
        for token, word in words.items()
        if word.isascii() and word.isalpha() and word.islower()
    }
    settings = GenerationConfig(
        eos_token_id=end,
        pad_token_id=ids[ENDOFTEXT],
        min_new_tokens=MIN_TOKENS,
        exponential_decay_length_penalty=(MIN_TOKENS, 4.0),
        suppress_tokens=sorted(set(ids.values()) - readable - {end}),
        # Only whole responses lose a leading space; without one, streams are equal to them.
        begin_suppress_tokens=sorted(ids[token] for token in ids if token.startswith("Ġ")),
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
    """Does the same as `transformers serve <model> --device cpu`, without `accelerate`.

    The command passes the device to `from_pretrained`, which then requires that package even for
    the CPU.
    """
    from transformers.cli.serving import model_manager

    class OnCpu(model_manager.ModelManager):
        def _load_model(self, *args, **kwargs):
            self.device = None  # loads to the CPU without a device map
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
