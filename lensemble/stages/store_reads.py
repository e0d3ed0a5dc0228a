"""What `store` reads from the index: one item, statistics, a page of items, a number of items."""

from __future__ import annotations

import json

from lensemble.index.maintenance.stats import stats_json
from lensemble.index.storage.filter import Filter
from lensemble.index.storage.store import Store
from lensemble.stages.store_rows import ReadOperation, StoreResult, read_id
from lensemble_contract import contract
from lensemble_contract import parameters as request_parameters
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.filters import MAX_BYTES
from lensemble_contract.parameters import Parameters


def read_operation(
    operation: str, id_: bytes, parameters: Parameters
) -> ReadOperation | LensembleError:
    """The row of an operation that reads, or the error of its id.

    Args:
        operation: name of the operation.
        id_: id in the row.
        parameters: request parameters.

    Raises:
        InvalidInputError: The filter is not valid, or the limit is out of range.
    """
    if operation == contract.STATS:
        return ReadOperation(operation)
    if operation == contract.COUNT:
        return ReadOperation(operation, filter=_filter(parameters))
    is_list = operation == contract.LIST
    read = "" if is_list and not id_ else read_id(id_)  # a list begins at the first id
    if isinstance(read, LensembleError) or not is_list:
        return read if isinstance(read, LensembleError) else ReadOperation(operation, read)
    limit = request_parameters.whole_number(parameters, contract.LIMIT)
    limit = contract.DEFAULT_LIST_LIMIT if limit is None else limit
    if not 1 <= limit <= contract.MAX_LIST_LIMIT:
        raise InvalidInputError(
            f"{limit}; expected 1 to {contract.MAX_LIST_LIMIT}", field=contract.LIMIT
        )
    return ReadOperation(operation, read, _filter(parameters), limit)


def read_index(store: Store, row: ReadOperation) -> StoreResult | LensembleError:
    """Reads what a row asks for; an error is the row's own."""
    try:
        if row.operation == contract.STATS:
            return StoreResult(store.sequence, stats_json(store))
        if row.filter is not None:
            if row.operation == contract.COUNT:
                document = json.dumps({"count": store.count_items(row.filter)})
            else:
                document = store.list_items(row.id, row.limit, row.filter).to_json()
            return StoreResult(store.sequence, document)
        (item,) = store.get([row.id])
    except LensembleError as error:
        return error
    if item is None:
        return StoreResult(0)
    return StoreResult(item.sequence, item.document, item.digest, item.vector)


def _filter(parameters: Parameters) -> Filter:
    return Filter.parse(request_parameters.text(parameters, contract.FILTER, MAX_BYTES) or "{}")
