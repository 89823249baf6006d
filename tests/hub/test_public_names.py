from __future__ import annotations

import pytest

from alad_hf.hub.public_names import hub_id, public_name, without_paths


@pytest.mark.parametrize(
    ("name", "known", "shown"),
    [
        ("prajjwal1/bert-tiny", "prajjwal1/bert-tiny", "prajjwal1/bert-tiny"),
        ("bert-base-uncased", None, "bert-base-uncased"),
        ("/home/ada/runs/student", None, "student"),
        ("/home/ada/runs/student/", None, "student"),
        ("./student", None, "student"),
        ("../runs/student", None, "student"),
        ("~/student", None, "student"),
        ("runs/first/student", None, "student"),
        (r"C:\Users\ada\student", None, "student"),
        ("C:/Users/ada/student", None, "student"),
        (r"runs\student", None, "student"),
        (
            "/root/.cache/alad_hf/sentence-transformers/all-MiniLM-L6-v2",
            *["sentence-transformers/all-MiniLM-L6-v2"] * 2,
        ),
        ("/home/ada/.cache/huggingface/hub/models--org--name/snapshots/6f7a", *["org/name"] * 2),
        ("/home/ada/.cache/huggingface/hub/models--bert-base-uncased/snapshots/6f7a", *["bert-base-uncased"] * 2),
        (r"C:\cache\models--org--name\snapshots\6f7a", *["org/name"] * 2),
        ("datasets--org--name", *["org/name"] * 2),
        ("my own data", None, "my own data"),
        ("news/blogs mixed", None, "news/blogs mixed"),
        ("/", None, "/"),
        ("", None, ""),
    ],
)
def test_names(name, known, shown):
    assert hub_id(name) == known
    assert public_name(name) == shown


def test_a_local_folder_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_id("runs/student") == "runs/student"
    (tmp_path / "runs" / "student").mkdir(parents=True)
    assert hub_id("runs/student") is None
    assert public_name("runs/student") == "student"
    assert hub_id(None) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ada/wiki.txt", "wiki.txt"),
        ("/home/ada lovelace/wiki.txt", "wiki.txt"),
        ("text of /home/ada/wiki.txt, 3 epochs", "text of wiki.txt, 3 epochs"),
        (r"from C:\ada\wiki.txt", "from wiki.txt"),
        ("trained on /home/ada lovelace/my notes/x.txt", "trained on x.txt"),
        ("from file:///home/ada/x.txt", "from x.txt"),
        ("from /a/b to /c/d", "from b to d"),
        ("['/data/a.txt', '~/b.txt']", "['a.txt', 'b.txt']"),
        ("sentences/s and/or 3/4", "sentences/s and/or 3/4"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("linear", "linear"),
    ],
)
def test_paths_in_a_text(text, shown):
    assert without_paths(text) == shown
