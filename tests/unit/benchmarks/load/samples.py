"""Samples and statistics of a server, for the tests of reports and monitoring."""

from benchmarks.load.monitoring import triton_statistics


def model_stats(number, requests, executions, batches, queue_ms):
    kind = str if number is str else int
    stages = {
        stage: {"count": kind(requests), "ns": kind(requests * ms * 1_000_000)}
        for stage, ms in zip(triton_statistics.STAGES, (queue_ms, 1, 2, 3), strict=True)
    }
    return {
        "name": "qwen3_vl",
        "inference_count": kind(requests),
        "execution_count": kind(executions),
        "inference_stats": {"success": {"count": kind(requests)}, **stages},
        "batch_stats": [
            {"batch_size": kind(size), "compute_infer": {"count": kind(count)}}
            for size, count in batches.items()
        ],
    }


def sample(at, cpu_s=0.0, resident=100.0, files=5, shared=0):
    process = {
        "cpu_s": cpu_s, "resident_bytes": resident * 2**20, "files": files, "processes": 1,
    }  # fmt: skip
    return {
        "at": at,
        "processes": {"qwen3_vl": process},
        "gpu": None,
        "shared_memory_bytes": shared * 2**20,
    }
