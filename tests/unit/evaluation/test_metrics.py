"""Metrics compared with trec_eval (pytrec_eval-terrier) and with numbers computed by hand."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from lensemble_corpus.entries import Entry
from lensemble_evaluation import metrics
from lensemble_evaluation.dataset import Dataset
from lensemble_evaluation.ranking import exact_ranks

NAMES_IN_TREC_EVAL = {
    "recall_1": "recall@1",
    "recall_5": "recall@5",
    "recall_10": "recall@10",
    "ndcg_cut_10": "ndcg@10",
    "recip_rank": "mrr",
}


@given(st.data())
def test_metrics_are_those_of_trec_eval(data):
    # Few scores for many items: equal scores are frequent, and trec_eval must order them alike.
    count = data.draw(st.integers(1, 40))
    ids = [f"d{n}" for n in range(count)]
    scores = data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    relevance = data.draw(
        st.dictionaries(st.sampled_from(ids), st.integers(1, 3), min_size=1, max_size=20)
    )
    dataset = Dataset("d", "test", [Entry(i) for i in ids], [Entry("q")], {"q": relevance})
    # One-dimensional "vectors": the inner product is the score.
    (ranks,) = exact_ranks(dataset, np.ones((1, 1), np.float32), np.array([scores], np.float32).T)
    values = metrics.query_metrics(ranks, list(relevance.values()))
    evaluator = pytrec_eval.RelevanceEvaluator({"q": relevance}, set(NAMES_IN_TREC_EVAL))
    run = {"q": {id_: float(score) for id_, score in zip(ids, scores, strict=True)}}
    expected = evaluator.evaluate(run)["q"]
    for theirs, ours in NAMES_IN_TREC_EVAL.items():
        assert values[ours] == pytest.approx(expected[theirs], abs=1e-6), ours


def test_metrics_of_one_query_by_hand():
    values = metrics.query_metrics(np.array([2.0, 12.0, np.inf]), [1, 1, 3])
    assert values["recall@1"] == 0
    assert (
        values["recall@5"] == values["recall@10"] == values["recall_cap@10"] == pytest.approx(1 / 3)
    )
    assert values["mrr"] == 1 / 2
    ideal = 3 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert values["ndcg@10"] == pytest.approx(1 / math.log2(3) / ideal)


def test_capped_recall_reaches_one_with_more_relevant_items_than_k():
    values = metrics.query_metrics(np.arange(1.0, 21.0), [1] * 20)
    assert (values["recall@10"], values["recall_cap@10"]) == (0.5, 1)


def test_all_metrics_are_zero_if_nothing_is_found():
    assert set(metrics.query_metrics(np.array([np.inf]), [1]).values()) == {0}


def test_the_mean_is_taken_over_queries():
    first, second = (metrics.query_metrics(np.array([rank]), [1]) for rank in (1.0, 4.0))
    assert metrics.mean_metrics([first, second])["mrr"] == pytest.approx((1 + 1 / 4) / 2)
