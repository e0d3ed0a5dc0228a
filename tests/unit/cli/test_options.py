"""Options of the command line: what they parse to, and how mistakes are reported."""

import json
import shlex

import pytest

from lensemble.index.snapshots import kinds
from lensemble.index.storage.index_plan import IndexPlan
from lensemble_cli.corpus.source_options import parse_csv_format
from lensemble_cli.index.plan_options import KINDS, parse_fields, parse_plan
from lensemble_cli.main import build_parser, main
from lensemble_cli.options import (
    note_picture_file,
    parse_filter,
    print_hits,
    requiring_extras,
)
from lensemble_cli.up_gateway import check_gateway
from lensemble_client import InvalidInputError
from lensemble_corpus.csv_files import CsvFormat

COMPACT = ["index", "compact", "index"]


def test_the_command_line_offers_every_kind_of_index():
    assert {"auto", *kinds.KINDS} == set(KINDS)


def test_plan_options_become_an_index_plan():
    args = build_parser().parse_args(
        [*COMPACT, "--kind", "ivf", "--recall", "0.9", "--memory-mb", "2", "--set", "nprobe=16"]
    )
    assert parse_plan(args) == IndexPlan(
        kind="ivf", recall=0.9, memory_bytes=2 * 2**20, parameters={"nprobe": 16}
    )
    assert parse_plan(build_parser().parse_args(COMPACT)) is None


def test_fields_are_separated_by_commas():
    parser = build_parser()
    assert parse_fields(parser.parse_args([*COMPACT, "--fields", "make,year"])) == ["make", "year"]
    assert parse_fields(parser.parse_args([*COMPACT, "--fields", ""])) == []
    assert parse_fields(parser.parse_args(COMPACT)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "nprobe=16"], "set: parameters need a kind"),
        (["--kind", "ivf", "--set", "nprobe"], "set: .*expected NAME=NUMBER"),
    ],
)
def test_plan_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        parse_plan(build_parser().parse_args([*COMPACT, *options]))


def test_a_filter_is_a_json_object():
    assert parse_filter('{"year": 2015}') == {"year": 2015}
    assert parse_filter(None) is None
    for text, message in (
        ("[1]", "expected a JSON object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ):
        with pytest.raises(InvalidInputError, match=f"^filter: .*{message}"):
            parse_filter(text)


@pytest.mark.parametrize("command", [["search"], ["embed"], ["corpus", "query", "no-index"]])
@pytest.mark.parametrize("name", ["my car.webp", "CAR.JPG"])
def test_file_whose_name_is_searched_for_is_noted(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [*command, name, "--url", "grpc://127.0.0.1:9", "--timeout", "0.01"]
    assert main(arguments) == 1  # no server
    assert "note" not in capsys.readouterr().err
    (tmp_path / name).touch()
    assert main(arguments) == 1
    note = f"note: '{name}' is a file, and its name is taken as words; for the picture in it: "
    assert note + f"--image {shlex.quote(name)}" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "", "a text", "a\0.jpg", "x" * 5000 + ".jpg", "folder.jpg"])
def test_other_texts_are_not_noted(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "a text").touch()
    note_picture_file(text)
    assert capsys.readouterr().err == ""


def test_hits_are_printed_for_people_or_as_json(capsys):
    hits = [("a", 0.5, {"make": "señal"})]
    print_hits(hits, as_json=False)
    assert capsys.readouterr().out == '  1   0.5000  a  {"make": "señal"}\n'
    print_hits(hits, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "id": "a",
        "score": 0.5,
        "document": {"make": "señal"},
    }


def test_a_missing_package_is_reported_with_its_extra(capsys):
    def command(args):
        raise ImportError("no module named 'faiss'")

    assert requiring_extras(command, "export,eval")(None) == 1
    message = "faiss'; run `pip install '.[export,eval]'` in the checkout\n"
    assert capsys.readouterr().err.endswith(message)


def test_options_of_csv_files_become_a_format():
    words = ["corpus", "embed", "rows.csv", "out"]
    options = ["--encoding", "cp1252", "--delimiter", "tab", "--types", "year=int,a=b=float"]
    parsed = parse_csv_format(build_parser().parse_args([*words, *options]))
    assert parsed == CsvFormat("cp1252", "\t", {"year": "int", "a=b": "float"})
    assert parse_csv_format(build_parser().parse_args(words)) is None
    with pytest.raises(InvalidInputError, match="types: 'year'; expected COLUMN=TYPE"):
        parse_csv_format(build_parser().parse_args([*words, "--types", "year"]))


@pytest.mark.parametrize(
    "words",
    [
        ["corpus", "query", "index", "-k", "2", "coche"],
        ["corpus", "query", "-k", "2", "index", "coche"],
        ["corpus", "query", "-k", "2", "index", "--", "coche"],
        ["corpus", "query", "index", "coche", "-k", "2"],
    ],
)
def test_options_may_come_before_between_and_after_words(words):
    args = build_parser().parse_args(words)
    assert (args.index.name, args.text, args.top_k) == ("index", "coche", 2)
    args = build_parser().parse_args(["delete", "a", "--url", "grpc://h:1", "b"])
    assert (args.ids, args.url) == (["a", "b"], "grpc://h:1")
    args = build_parser().parse_args(["search", "--", "-5"])
    assert args.text == "-5"


def test_unknown_options_and_missing_words_are_still_refused(capsys):
    for words, message in (
        (["delete", "a", "--ulr", "x"], "unrecognized arguments: --ulr"),
        (["delete"], "the following arguments are required: ID"),
        (["corpus", "query", "-k", "2"], "the following arguments are required: index"),
        (["keys"], "the following arguments are required: ACTION"),
    ):
        with pytest.raises(SystemExit):
            build_parser().parse_args(words)
        assert message in capsys.readouterr().err


def test_like_excludes_a_text(capsys):
    assert main(["search", "red car", "--like", "17"]) == 1
    assert "like: it cannot be combined with a text" in capsys.readouterr().err


def test_options_of_the_gateway_require_the_gateway():
    args = build_parser().parse_args(["up", "--gateway-port", "0"])
    with pytest.raises(InvalidInputError, match="gateway_port: it requires --gateway"):
        check_gateway(args)


@pytest.mark.parametrize(
    "command",
    [
        *(
            "up",
            "embed",
            "search",
            "eval",
            "ingest",
            "get",
            "list",
            "count",
            "patch",
            "delete",
            "compare",
            "doctor",
        ),
        *("status", "keys add", "corpus embed", "corpus index", "corpus query", "index build"),
        *("corpus sync", "index stats"),
        *("index compact", "index tune"),
    ],
)
def test_every_command_prints_its_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: lensemble {command} ")
