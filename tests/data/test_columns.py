"""Readers of CoNLL columns and CoNLL-U."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, List, Value

from alad_hf.data.columns import read_conll, read_conllu


@pytest.fixture
def write(tmp_path: Path):
    def write_file(content: str | bytes) -> Path:
        path = tmp_path / "corpus.conll"
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return write_file


def sentences(dataset: Dataset) -> list[list[tuple[str, str]]]:
    names = dataset.features["tags"].feature.names
    return [
        list(zip(row["tokens"], [names[tag] for tag in row["tags"]], strict=True)) for row in dataset.with_format(None)
    ]


ANN = [[("Ann", "B-PER"), ("Lee", "I-PER"), ("sang", "O")], [("Rome", "B-LOC")]]


@pytest.mark.parametrize(
    "content",
    [
        "Ann\tB-PER\nLee\tI-PER\nsang\tO\n\nRome\tB-LOC\n",
        "Ann B-PER\nLee   I-PER\n sang O \n\t \n\n\nRome B-LOC",
        "\ufeffAnn B-PER\r\nLee I-PER\r\nsang O\r\n\r\nRome B-LOC\r\n",
        "Ann B-PER\rLee I-PER\rsang O\r\rRome B-LOC\r",
        "-DOCSTART- O\n\nAnn B-PER\nLee I-PER\nsang O\n-DOCSTART- O\nRome B-LOC\n",
        "Ann B-PER\nLee E-PER\nsang O\n\nRome S-LOC\n",
    ],
    ids=["tabs", "spaces", "windows", "carriage returns", "documents", "bioes"],
)
def test_the_same_corpus_in_many_spellings(write, content: str) -> None:
    dataset = read_conll(write(content))
    assert sentences(dataset) == ANN
    assert dataset.features == {
        "tokens": List(Value("string")),
        "tags": List(ClassLabel(names=["O", "B-LOC", "B-PER", "I-PER"])),
    }


def test_columns_are_chosen_by_index(write) -> None:
    path = write("1 Ann NNP B-PER x\n2 ran VBD O y\n")
    assert sentences(read_conll(path, token_column=1, tag_column=3)) == [[("Ann", "B-PER"), ("ran", "O")]]
    assert sentences(read_conll(path, token_column=-4, tag_column=2)) == [[("Ann", "NNP"), ("ran", "VBD")]]


@pytest.mark.parametrize("comment", ["", "# text = The dog\n"])
def test_ids_of_conllu_are_not_taken_for_words(write, comment: str) -> None:
    rest = "\t_" * 6
    path = write(f"\n{comment}1-2\tThe dog\t_\t_{rest}\n1\tThe\tthe\tDET{rest}\n2\tdog\tdog\tNOUN{rest}\n")
    with pytest.raises(ValueError, match=r"is CoNLL-U.*Name it \.conllu.*token_column=1, tag_column=3"):
        read_conll(path, comment_prefix="#")
    path = write(f"1\tThe\tthe\tDET{rest}\n2\tdog\tdog\tNOUN{rest}\n")  # as CoNLL-X is
    assert sentences(read_conll(path, token_column=1, tag_column=3)) == [[("The", "DET"), ("dog", "NOUN")]]
    numbers = "a" + 9 * "\tX" + "\n1" + 9 * "\tX" + "\n"  # ten columns, and a number is a word
    assert sentences(read_conll(write(numbers))) == [[("a", "X"), ("1", "X")]]


def test_tabs_alone_separate_where_spaces_would_not(write) -> None:
    expected = [[("New York", "B-LOC"), ("is", "O")]]
    assert sentences(read_conll(write("-DOCSTART-\n\nNew York\tB-LOC\nis\tO\n"))) == expected
    mixed = [[("Ann", "B-PER"), ("ran", "O")]]  # both separate here, as they always did
    assert sentences(read_conll(write("Ann NNP\tB-PER\nran VBD\tO\n"))) == mixed


def test_separator_keeps_spaces_in_tokens(write) -> None:
    assert sentences(read_conll(write("New York\tB-LOC\nis\tO\n"), separator="\t")) == [
        [("New York", "B-LOC"), ("is", "O")]
    ]


def test_only_spaces_and_tabs_separate(write) -> None:
    dataset = read_conll(write("10\u00a0km O\na\u2028b O\nc\x85d O\n"))
    assert sentences(dataset) == [[("10\u00a0km", "O"), ("a\u2028b", "O"), ("c\x85d", "O")]]


def test_hash_starts_tokens_unless_comments_are_announced(write) -> None:
    assert sentences(read_conll(write("#tag O\nran O\n"))) == [[("#tag", "O"), ("ran", "O")]]
    assert sentences(read_conll(write("# id = 1\nran O\n#late O\n"), comment_prefix="#")) == [
        [("ran", "O"), ("#late", "O")]
    ]
    with pytest.raises(ValueError, match=r"line 2: found 2 columns, expected 4.*comment_prefix='#'"):
        read_conll(write("# id = 1\nran O\n"))
    with pytest.raises(ValueError, match=r"line 3: found 4 columns, expected 2.*comment_prefix='#'"):
        read_conll(write("ran O\n\n# id = 2\nran O\n"))


def test_scheme_none_keeps_tags(write) -> None:
    path = write("Ann I-PER\n")
    assert sentences(read_conll(path, tag_scheme="none")) == [[("Ann", "I-PER")]]
    assert sentences(read_conll(path)) == [[("Ann", "B-PER")]]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("Ann O\nran\n", {}, r"corpus\.conll, line 2: found 1 column, expected 2 .*the line is 'ran'"),
        ("Ann\n", {}, r"line 1: found 1 column, expected a token and a tag in different columns"),
        ("Ann O\n\nNew York B-LOC\n", {}, r"line 3: found 3 columns, expected 2 .*tabs between"),
        ("Ann O\n", {"tag_column": 2}, r"line 1: found 2 columns, expected enough for tag_column=2"),
        ("Ann\tO\n\tO\n", {"separator": "\t"}, r"line 2: found an empty token in column 0"),
        ("Ann\tO\nran\t\n", {"separator": "\t"}, r"line 2: found an empty tag in column -1"),
        (b"Ann O\nRen\xe9 O\n", {}, r"corpus\.conll, line 2: byte 0xe9 is not valid UTF-8.*iconv"),
        (b"Ann O\nA\0n O\n", {}, r"line 2: found a NUL character"),
        ("Ann O\n".encode("utf-16"), {}, r"is UTF-16, expected UTF-8 text: convert it with `iconv -f utf-16"),
        (gzip.compress(b"Ann O\n"), {}, r"is compressed by gzip, expected UTF-8 text: unpack it"),
        ("\n \n-DOCSTART- O\n", {}, r"corpus\.conll: found no sentence, expected lines of a token and a tag"),
        ("", {}, r"found no sentence"),
        (
            "a O\n\nb O\nc I-X\n",
            {"tag_scheme": "IOB2"},
            r"sentence at line 3, token 2: tag 'I-X' is not valid in IOB2",
        ),
        ("a B-X\n\nb O\nc I-X\n", {}, r"follow no single tag scheme.*sentence at line 3, token 2: tag 'I-X'"),
    ],
)
def test_malformed_files_are_named(write, content: str | bytes, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_conll(write(content), **options)


CONLLU = """# sent_id = 1
# text = Vámonos al mar.
1-2	Vámonos	_	_	_	_	_	_	_	_
1	Vamos	ir	VERB	VB	_	0	root	_	_
2	nos	nosotros	PRON	PP	_	1	obj	_	_
3-4	al	_	_	_	_	_	_	_	_
3	a	a	ADP	IN	_	5	case	_	_
4	el	el	DET	DT	_	5	det	_	_
4.1	_	_	_	_	_	_	_	_	_
5	mar	mar	NOUN	NN	_	1	obl	_	_

1	#	#	SYM	#	_	0	root	_	_
"""


def test_conllu_words_are_those_with_tags(write) -> None:
    dataset = read_conllu(write(CONLLU))
    assert sentences(dataset) == [
        [("Vamos", "VERB"), ("nos", "PRON"), ("a", "ADP"), ("el", "DET"), ("mar", "NOUN")],
        [("#", "SYM")],
    ]
    assert dataset.features["tags"].feature.names == ["ADP", "DET", "NOUN", "PRON", "SYM", "VERB"]
    assert sentences(read_conllu(write(CONLLU), column="xpos"))[0][:2] == [("Vamos", "VB"), ("nos", "PP")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("5\tmar\tmar", "5\tmar", r"corpus\.conll, line 10: found 9 columns, expected 10"),
        ("\n\n1\t#", "\n1\t#", r"line 11: found word id '1', expected 6 .*blank line"),
        ("5\tmar\t", "5\t\t", r"line 10: found an empty word in column FORM"),
        ("mar\tNOUN", "mar\t_", r"line 10: found no tag \('_'\) in column UPOS"),
        ("4.1\t", "4.x\t", r"line 9: found word id '4\.x', expected 5"),
    ],
)
def test_malformed_conllu_is_named(write, old: str, new: str, message: str) -> None:
    assert CONLLU.count(old) == 1
    with pytest.raises(ValueError, match=message):
        read_conllu(write(CONLLU.replace(old, new)))


def test_conllu_knows_two_tag_columns(write) -> None:
    with pytest.raises(ValueError, match=r"Unknown CoNLL-U column 'feats': expected one of \('upos', 'xpos'\)"):
        read_conllu(write(CONLLU), column="feats")


@pytest.mark.parametrize(
    ("name", "options", "sentence_count", "token_count"),
    [
        ("wnut17/dev.conll", {}, 1009, 15733),
        ("wnut17/test.conll", {}, 1287, 23394),
        ("ncbi_disease/devel.tsv", {}, 923, 23969),
        ("ud_ewt_pos/dev.tsv", {"tag_column": 1}, 2001, 25147),
        # The shared README counts the 145 -DOCSTART- lines as sentences and tokens: 1841 and 39,152.
        ("wikigold/wikigold.conll.txt", {}, 1841 - 145, 39152 - 145),
        ("wikigold/wikigold.conll.txt", {"document_marker": "no such line"}, 1841, 39152),
    ],
)
def test_real_files(shared_data: Path, name: str, options: dict, sentence_count: int, token_count: int) -> None:
    dataset = read_conll(shared_data / name, **options)
    assert len(dataset) == sentence_count
    assert sum(map(len, dataset["tokens"])) == sum(map(len, dataset["tags"])) == token_count


def test_wikigold_becomes_iob2(shared_data: Path) -> None:
    dataset = read_conll(shared_data / "wikigold" / "wikigold.conll.txt")
    runs = 0
    previous = "O"
    for line in (shared_data / "wikigold" / "wikigold.conll.txt").read_text(encoding="utf-8").split("\n"):
        tag = line.split(" ")[-1] if line else "O"
        runs += tag != "O" and tag != previous
        previous = tag
    tags = [tag for sentence in sentences(dataset) for _, tag in sentence]
    assert sum(tag.startswith("B-") for tag in tags) == runs > 3000
    assert dataset.features["tags"].feature.names[:3] == ["O", "B-LOC", "I-LOC"]
