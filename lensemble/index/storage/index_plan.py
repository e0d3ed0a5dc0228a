"""The index plan: which kind of index the next snapshot gets, and with which parameters."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from lensemble_contract.errors import InvalidInputError

AUTO = "auto"
RECALL_TARGET = 0.99


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """The plan by which the next snapshot is built; the store keeps it.

    Attributes:
        kind: name of a `Kind`; `auto` chooses one by corpus size, memory and recall.
        recall: lowest acceptable recall at 10, measured against exact search; above 0, at most 1.
        memory_bytes: upper limit for the memory of the FAISS index; 0 sets no limit.
        parameters: parameters of the kind; a missing one is chosen automatically.

    Raises:
        InvalidInputError: `recall` or `memory_bytes` is out of range.
    """

    kind: str = AUTO
    recall: float = RECALL_TARGET
    memory_bytes: int = 0
    parameters: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise InvalidInputError(f"{self.recall!r}; expected above 0, at most 1", field="recall")
        if self.memory_bytes < 0:
            raise InvalidInputError(
                f"{self.memory_bytes} is negative; expected 0 or more bytes", field="memory"
            )

    def to_json(self) -> str:
        """The plan as JSON text for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> IndexPlan:
        """Reads a plan that `to_json` wrote."""
        return cls(**json.loads(text))
